"""Models by name: what packages of models have in common. Weights come from their own cache, or the network."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable, Sequence
from difflib import get_close_matches

from torch import nn

from plica.utils.messages import one_line


def fetch(spec: str, make: Callable[[], nn.Module]) -> nn.Module:
    """make(), whatever it raises in one sentence: packages say in many ways that there is no name, file or network."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the packages, about themselves
            return make()
    except Exception as error:
        if isinstance(error, pickle.UnpicklingError):
            raise ValueError(f"{spec} has weights among pickled objects, which are read only with --trust.") from error
        if "trust_remote_code" in str(error):
            raise ValueError(f"{spec} brings Python code of its own, which is run only with --trust.") from error
        raise ValueError(
            f"{spec} could not be loaded ({one_line(error, named=True)}); check the name, and that the network "
            "is there."
        ) from error


def unknown_model(package: str, name: str, known: Sequence[str]) -> ValueError:
    """The error for a name that the package does not have, with the most similar one that it has."""
    similar = get_close_matches(name, known, 1)
    return ValueError(
        f"{package} has no model {name!r} among its {len(known)}"
        + (f"; the nearest is {similar[0]}." if similar else ".")
    )
