"""The safetensors files of a run: images, perturbed images, bounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from plica.core.domain.bounds import Bounds
from plica.core.domain.read_bounds import checked_bounds
from plica.runs.check.common import ADVICE, BrokenRunError, check_file, parsed_notes
from plica.runs.schema import BOX, IMAGES, MOVED, NOTES, names
from plica.utils.messages import one_line, shown


def read_image_notes(file: Path) -> dict[str, str]:
    """Why images could not be read, by id, from the header of their file. Raises ValueError where it is broken."""
    check_file(file)
    try:
        with safe_open(file, "pt") as header:
            content = (header.metadata() or {}).get(NOTES.decode(), "{}")
    except (SafetensorError, OSError) as error:
        raise BrokenRunError(f"{file} cannot be read ({one_line(error)}); {ADVICE}.") from error
    notes = parsed_notes(file, content)
    if not isinstance(notes, dict):
        raise BrokenRunError(f"The notes of {file} are not an object; {ADVICE}.")
    return {number: str(why) for number, why in notes.items()}


def read_tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, by name.

    Raises:
        ValueError: it is broken.
    """
    check_file(file)
    try:
        return load_file(file)
    except (SafetensorError, OSError, RuntimeError, ValueError) as error:
        raise BrokenRunError(f"{file} cannot be read ({one_line(error)}); {ADVICE}.") from error


def read_images(file: Path) -> dict[str, Tensor]:
    """x, y and id of a chunk of images, and the targets if any; id is 0, 1, 2, ... where the file has none.

    Raises:
        ValueError: it is broken, or a tensor is missing or of another type or length.
    """
    tensors = read_tensors(file)
    _check_names(file, tensors, names(IMAGES), needed=("x", "y"))
    _check(
        file,
        "x",
        tensors["x"],
        tensors["x"].ndim > 1,
        tensors["x"].dtype == torch.uint8 or tensors["x"].is_floating_point(),
    )
    tensors.setdefault("id", torch.arange(len(tensors["x"])))
    y, b = tensors["y"], len(tensors["x"])
    _check(file, "y", y, y.ndim > 0 and len(y) == b, y.dtype == torch.int64 or y.is_floating_point())
    for name in ("id", "targets"):
        if name in tensors:
            _check_integers(file, name, tensors[name], b)
    return tensors


def read_points(file: Path) -> dict[str, Tensor]:
    """x_adv, id and, where a perturbation made the points, theta; id is 0, 1, 2, ... where the file has none.

    Raises:
        ValueError: it is broken, or a tensor is missing or of another type or length.
    """
    tensors = read_tensors(file)
    _check_names(file, tensors, names(MOVED), needed=("x_adv",))
    x_adv = tensors["x_adv"]
    _check(file, "x_adv", x_adv, x_adv.ndim > 1, x_adv.is_floating_point())
    tensors.setdefault("id", torch.arange(len(x_adv)))
    _check_integers(file, "id", tensors["id"], len(x_adv))
    theta = tensors.get("theta")
    if theta is not None:
        _check(file, "theta", theta, theta.ndim == 2 and len(theta) == len(x_adv), theta.is_floating_point())
    return tensors


def read_box(file: Path) -> Bounds:
    """The bounds of a run.

    Raises:
        ValueError: the file is broken, or the tensors are not bounds.
    """
    tensors = read_tensors(file)
    _check_names(file, tensors, names(BOX), needed=("low", "high"))
    for name, tensor in tensors.items():
        _check(file, name, tensor, True, tensor.dtype == torch.bool if name == "mask" else tensor.is_floating_point())
    return checked_bounds(Bounds(**tensors), str(file))


def _check_names(file: Path, tensors: Mapping[str, Tensor], known: Sequence[str], needed: Sequence[str]) -> None:
    missing = [name for name in needed if name not in tensors]
    if missing:
        raise BrokenRunError(f"{file} has no tensor {' and no tensor '.join(missing)}; {ADVICE}.")
    unknown = [name for name in tensors if name not in known]
    if unknown:
        raise BrokenRunError(f"{file} has the tensor {shown(unknown[0])}, which does not belong there; {ADVICE}.")


def _check_integers(file: Path, name: str, tensor: Tensor, rows: int) -> None:
    _check(file, name, tensor, tuple(tensor.shape) == (rows,), tensor.dtype == torch.int64)


def _check(file: Path, name: str, tensor: Tensor, has_shape: bool, has_type: bool) -> None:
    if not (has_shape and has_type):
        seen = f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
        raise BrokenRunError(f"The tensor {name} of {file} is {seen}, which does not fit the others; {ADVICE}.")
