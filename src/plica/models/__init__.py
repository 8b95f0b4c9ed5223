"""Networks from a specification on the command line, one loader for each form; every failure is one sentence."""

from plica.models.inputs import prepare_inputs
from plica.models.load import load_model

__all__ = ["load_model", "prepare_inputs"]
