"""Imports optional packages; if one is missing, the error says how to install it."""

import importlib
import importlib.util
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from plica.utils.messages import one_line

# the extra of plica that brings each package along
EXTRAS = {
    "jinja2": "see",
    "scipy": "see",
    "pandas": "see",
    "mlflow": "track",
    "ray": "ray",
    "torchvision": "torchvision",
    "timm": "timm",
    "transformers": "hf",
    "datasets": "hf",
    "onnx": "onnx",
    "onnx2torch": "onnx",
    "piq": "perceptual",
    "geomloss": "perceptual",
    "foolbox": "peers",
    "eagerpy": "peers",
    "pyautoattack": "peers",
}
# packages that no extra installs, since their dependencies do not install everywhere
COMMANDS = {
    "adv_lib": "pip install --no-deps adv-lib, and pip install tqdm torchvision setuptools (visdom, on which it "
    "depends, is not needed and does not build)",
    "numba": "pip install numba (foolbox compiles this attack with it)",
    "robustbench": "pip install robustbench (or --no-deps robustbench geotorch torchdiffeq gdown beautifulsoup4)",
}


class MissingPackageError(ModuleNotFoundError, ValueError):
    """An optional package is not installed, or does not load; the message says how to install it."""


def require(module: str, what: str) -> ModuleType:
    """The module of an optional package. `what` needs it, and begins the message.

    Raises:
        MissingPackageError: it is not installed, or fails to load.
    """
    loaded = sys.modules.get(module)
    if loaded is not None:  # catch_warnings below would make Python repeat warnings that it has shown
        return loaded
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of packages, about themselves
            return importlib.import_module(module)
    except Exception as error:  # an extension that was built for another torch fails in its own ways
        package = module.partition(".")[0]
        raise MissingPackageError(
            f"{what} needs the package {package} ({one_line(error)}): {install_command(package)}."
        ) from error


def install_command(package: str) -> str:
    """How to install an optional package."""
    return COMMANDS.get(package) or f'pip install "plica[{EXTRAS[package]}]"'


def package_folder(package: str) -> Path | None:
    """Where an installed package keeps its files, found without running its code; None if it is not installed."""
    spec = importlib.util.find_spec(package)
    return Path(spec.submodule_search_locations[0]) if spec and spec.submodule_search_locations else None


@contextmanager
def stand_ins(*modules: str) -> Iterator[None]:
    """Within this context, empty modules replace those that are not installed; every name in them is None.

    For packages that import modules which the functions used here do not need. Parents come before their submodules.
    """
    missing = [module for module in modules if not _is_installed(module)]
    for module in missing:
        stand_in = ModuleType(module)
        stand_in.__getattr__ = _no_attribute  # type: ignore[method-assign]
        sys.modules[module] = stand_in
    try:
        yield
    finally:
        for module in missing:
            del sys.modules[module]


def _is_installed(module: str) -> bool:
    try:
        return module in sys.modules or importlib.util.find_spec(module) is not None
    except ImportError:  # its parent is missing
        return False


def _no_attribute(name: str) -> None:
    if name.startswith("__"):
        raise AttributeError(name)
