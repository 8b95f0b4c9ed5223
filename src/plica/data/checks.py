"""Checks that arrays are valid pixels and labels; an invalid one is refused with one sentence."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor


def no_file(file: str | Path) -> str:
    """The start of a sentence about a path that is no file: it does not exist, or is a folder, a pipe or a device."""
    return f"{file} is not a regular file" if Path(file).exists() else f"There is no file {file}"


def as_pixels(x: np.ndarray, file: str | Path, allow_out_of_range: bool = False) -> Float[Tensor, "b *image"]:
    """float32 pixels: uint8 divided by 255, floats as they are. A float32 array is not copied.

    Raises:
        ValueError: another type, values that are not finite, or outside [0, 1] unless that is allowed.
    """
    if x.dtype == np.uint8:
        return torch.from_numpy(x.astype(np.float32) / np.float32(255))
    if x.dtype.kind != "f":
        raise ValueError(f"Array x in {file} is {x.dtype}; save uint8 pixels (0 to 255) or floats in [0, 1].")
    low, high = float(x.min()), float(x.max())
    if not np.isfinite([low, high]).all():
        raise ValueError(f"Array x in {file} has pixels that are not finite; save floats in [0, 1].")
    if not allow_out_of_range and (low < 0 or high > 1):
        raise ValueError(
            f"Array x in {file} has values from {low:.4g} to {high:.4g}; pixels must lie in [0, 1] (divide by 255 or "
            "save uint8, and let the model normalise); for inputs that are no images give their bounds."
        )
    return torch.from_numpy(x.astype(np.float32, copy=False))


def as_labels(y: np.ndarray, file: str | Path) -> Shaped[Tensor, "b *label"]:
    """y as int64 or float32; raises ValueError for other kinds. Whether they are classes: check_classes."""
    if y.dtype.kind not in "iubf":
        raise ValueError(f"Array y in {file} is {y.dtype}; labels must be integers, one class number per image.")
    return torch.from_numpy(y.astype(np.float32 if y.dtype.kind == "f" else np.int64))


def check_classes(labels: Shaped[Tensor, "b *label"], file: str | Path, takes_goals: bool = True) -> None:
    """Raises ValueError unless labels are class numbers from 0, one for each image. takes_goals: whether the message
    should advise to name a goal for other labels."""
    goal = ", or name the goal that y belongs to" if takes_goals else ""
    if labels.ndim != 1:
        raise ValueError(
            f"Array y in {file} has shape {tuple(labels.shape)}; {len(labels)} images need one label each, "
            f"({len(labels)},){goal}."
        )
    if labels.is_floating_point():
        raise ValueError(f"Array y in {file} holds floats; labels must be integers, one class number per image{goal}.")
    if len(labels) and int(labels.min()) < 0:
        raise ValueError(f"Array y in {file} has the label {int(labels.min())}; classes are counted from 0.")


def check_shapes(x: Sequence[int], y: Sequence[int], file: str | Path) -> None:
    """Raises ValueError unless there is at least one image, and an entry of y for each."""
    if len(x) < 2 or 0 in x:
        raise ValueError(
            f"Array x in {file} has shape {tuple(x)}; it must be (images, *image) with at least one image."
        )
    if tuple(y[:1]) != tuple(x[:1]):
        raise ValueError(f"Array y in {file} has shape {tuple(y)}; {x[0]} images need one label each, ({x[0]},).")
