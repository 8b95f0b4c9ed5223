"""Models by name from packages of models. Weights come from the package's own cache, or are downloaded."""

from __future__ import annotations

import os
import pickle
import socket
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from urllib.parse import urlsplit
from urllib.request import getproxies

from torch import nn

from plica.utils.messages import one_line

PATIENCE = 3.0  # seconds for a server to take a connection


def fetch(spec: str, make: Callable[[], nn.Module]) -> nn.Module:
    """The result of make(). Any error becomes one sentence, since packages report in many ways that a name, a file or
    the network is missing."""
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


@contextmanager
def hub_or_cache() -> Iterator[bool]:
    """Whether the hub of Hugging Face can be reached. If not, its package uses its cache only within this context; by
    itself it would retry for half a minute, with a log message each time."""
    reachable = _is_reachable(os.environ.get("HF_ENDPOINT", "https://huggingface.co"))
    constants = sys.modules.get("huggingface_hub.constants")
    if reachable or constants is None:
        yield reachable
        return
    former = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True  # type: ignore[attr-defined]
    try:
        yield False
    finally:
        constants.HF_HUB_OFFLINE = former  # type: ignore[attr-defined]


def _is_reachable(address: str) -> bool:
    """Whether a server accepts connections; if there is a proxy, it is assumed to."""
    parts = urlsplit(address)
    if getproxies().get(parts.scheme):
        return True
    try:
        port = parts.port or (80 if parts.scheme == "http" else 443)
        with socket.create_connection((parts.hostname or "", port), timeout=PATIENCE):
            return True
    except (OSError, ValueError):
        return False


def unknown_model(package: str, name: str, known: Sequence[str]) -> ValueError:
    """The error for a name that the package does not have, with the most similar one that it has."""
    similar = get_close_matches(name, known, 1)
    return ValueError(
        f"{package} has no model {name!r} among its {len(known)}"
        + (f"; the nearest is {similar[0]}." if similar else ".")
    )
