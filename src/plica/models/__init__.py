"""Networks from what a command line can say, one loader for each form; every failure is one sentence."""

from plica.models.load import load_model, place

__all__ = ["load_model", "place"]
