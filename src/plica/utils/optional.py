"""Packages that only some forms of models and data need."""

import importlib
import importlib.util
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from plica.utils.messages import one_line


def need(package: str, what: str, extra: str) -> ModuleType:
    """The package, imported now.

    Raises:
        ValueError: it is not installed, or does not load; the sentence says what to install.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of packages, about themselves
            return importlib.import_module(package)
    except Exception as error:  # an extension that was built for another torch fails in its own ways
        name = package.partition(".")[0]
        raise ValueError(f"{what} needs the package {name} ({one_line(error)}): {extra}.") from error


@contextmanager
def without(*names: str) -> Iterator[None]:
    """Meanwhile modules that a package imports, and needs for other things alone, may be missing: whatever is imported
    from them is None. Parents come before their parts."""
    missing = [name for name in names if not _there(name)]
    for name in missing:
        stand_in = ModuleType(name)
        stand_in.__getattr__ = _nothing  # type: ignore[method-assign]
        sys.modules[name] = stand_in
    try:
        yield
    finally:
        for name in missing:
            del sys.modules[name]


def _there(name: str) -> bool:
    try:
        return name in sys.modules or importlib.util.find_spec(name) is not None
    except ImportError:  # its parent is missing
        return False


def _nothing(name: str) -> None:
    if name.startswith("__"):
        raise AttributeError(name)
