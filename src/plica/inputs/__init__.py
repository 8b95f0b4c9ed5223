"""A model and labelled images, from what a command line can say. Every failure is one sentence that says what to do."""

from plica.inputs.data import load_data
from plica.inputs.model import load_model, place, read_weights
from plica.inputs.source import Source, open_data

__all__ = ["Source", "load_data", "load_model", "open_data", "place", "read_weights"]
