"""Packages that only some forms of models and data need."""

import importlib
from types import ModuleType

from plica.wording import one_line


def need(package: str, what: str, extra: str) -> ModuleType:
    """The package, imported now.

    Raises:
        ValueError: it is not installed, or does not load; the sentence says what to install.
    """
    try:
        return importlib.import_module(package)
    except Exception as error:  # an extension that was built for another torch fails in its own ways
        name = package.partition(".")[0]
        raise ValueError(f"{what} needs the package {name} ({one_line(error)}): {extra}.") from error
