"""The command `plica`: parse, make one public call, write."""

from plica.cli.app import main

__all__ = ["main"]
