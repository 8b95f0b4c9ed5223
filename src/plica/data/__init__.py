"""Labelled inputs from what a command line can say: one Source for each form, read when it is needed."""

from plica.data.arrays import load_data
from plica.data.source import Source, open_data

__all__ = ["Source", "load_data", "open_data"]
