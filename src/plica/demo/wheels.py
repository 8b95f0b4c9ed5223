"""Where an installed package keeps its files."""

from importlib.util import find_spec
from pathlib import Path


def wheel(name: str) -> Path:
    """The folder of an installed package, found without running any of its code.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f'The demonstration needs the package {name}; run: pip install "plica[demo]".')
    return Path(spec.submodule_search_locations[0])
