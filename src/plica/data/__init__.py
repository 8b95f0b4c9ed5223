"""Labelled inputs from what a command line can say: one Source for each form, read when it is needed."""

from plica.data.load import load_data, open_data
from plica.data.source import Source

__all__ = ["Source", "load_data", "open_data"]
