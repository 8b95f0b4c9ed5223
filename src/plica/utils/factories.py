"""Python objects by name: "file.py:name" or "package.module:name"."""

import importlib
import importlib.util
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from plica.utils.messages import few, one_line


def make(spec: str, what: str = "model") -> Any:
    """The return value of the factory, or the object itself if it is a module or cannot be called.

    Raises:
        FileNotFoundError, ValueError: there is no such file or name, or it failed; one sentence.
    """
    source, name = _split(spec, what)
    with same_default_device(source):
        module = _file(Path(source), what) if source.endswith(".py") else _module(source, what)
        factory = _attribute(module, source, name)
        if isinstance(factory, nn.Module) or not callable(factory):
            return factory
        try:
            return factory()
        except Exception as error:
            raise ValueError(f"The {what} factory {spec} failed: {one_line(error, named=True)}.") from error


def find(spec: str, what: str) -> Any:
    """The object of that name. A file is run once, and again when it has changed.

    Raises:
        ValueError: there is no such file or name, or it failed; one sentence.
    """
    source, name = _split(spec, what)
    try:
        with same_default_device(source):
            module = _unchanged(Path(source), what) if source.endswith(".py") else _module(source, what)
    except FileNotFoundError as error:
        raise ValueError(str(error)) from None
    return _attribute(module, source, name)


def _split(spec: str, what: str) -> tuple[str, str]:
    source, colon, name = spec.rpartition(":")
    if not (source and colon and name):
        raise ValueError(f"The {what} {spec!r} is not of the form file.py:name or package.module:name.")
    return source, name


def _attribute(module: Any, source: str, name: str) -> Any:
    if not hasattr(module, name):
        functions = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise ValueError(f"{source} has no {name!r}; it has {few(functions) or 'no functions'}.")
    return getattr(module, name)


@contextmanager
def same_default_device(source: str) -> Iterator[None]:
    """torch's default device is set back where the code of `source` sets another: images, labels and results of a run
    are on the CPU until they go to the model, and the model goes to the device that the command names."""
    before = torch.get_default_device()
    try:
        yield
    finally:
        after = torch.get_default_device()
        if after != before:
            torch.set_default_device(None if before.type == "cpu" else before)
            warnings.warn(
                f"{source} sets torch's default device to {after}, which is {before} again; give tensors that are made "
                "in a call the device of its input, as device=x.device.",
                stacklevel=2,
            )


def _file(path: Path, what: str) -> Any:
    """Run a file as a module; it can import files of its folder, as when Python runs it."""
    if not path.is_file():
        raise FileNotFoundError(f"There is no {what} file {path}; give file.py:name.")
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    spec = importlib.util.spec_from_file_location(f"plica_model_{path.stem}", path)
    assert spec is not None  # a path that ends in .py always has a loader
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up by name
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ValueError(f"The {what} file {path} failed: {one_line(error, named=True)}.") from error
    return module


def _unchanged(path: Path, what: str) -> Any:
    """The module of a file, which is not run again unless it has changed."""
    return _run_once(path, what, path.resolve(), path.stat().st_mtime_ns if path.is_file() else None)


@lru_cache
def _run_once(path: Path, what: str, absolute: Path, changed: int | None) -> Any:
    return _file(path, what)


def _module(name: str, what: str) -> Any:
    try:
        return importlib.import_module(name)
    except Exception as error:
        raise ValueError(f"The {what}'s module {name} cannot be imported: {one_line(error, named=True)}.") from error
