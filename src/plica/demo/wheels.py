"""The folder of an installed package."""

from pathlib import Path

from plica.utils.optional import MissingPackageError, package_folder


def wheel(name: str) -> Path:
    """The folder of an installed package, found without running any of its code.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    folder = package_folder(name)
    if folder is None:
        raise MissingPackageError(f'The demonstration needs the package {name}: pip install "plica[demo]".')
    return folder
