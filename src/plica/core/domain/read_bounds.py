"""Bounds as text or a file: two numbers, "0,1", or an .npz file with the arrays `low` and `high` (numbers, or of an
input's shape) and `mask` (true where a feature may move), each of which may be left out.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from plica.core.domain.bounds import NAMES, Bounds, in_order
from plica.utils.limits import check_memory, check_npz
from plica.utils.messages import few, one_line, shown


def read_bounds(source: str | Path | Sequence[float]) -> Bounds:
    """Bounds from two numbers, their text, or a file; float64.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: they cannot be read, or are no bounds.
    """
    if isinstance(source, str | Path) and not str(source).endswith(".npz"):
        source = _numbers(str(source))
    if not isinstance(source, str | Path):
        low, high = (torch.tensor(float(bound), dtype=torch.float64, device="cpu") for bound in source)
        return checked_bounds(Bounds(low, high), f"{tuple(source)}")
    file = Path(source)
    if not file.is_file():
        raise FileNotFoundError(f"There is no file of bounds {file}; give two numbers, or an .npz with low and high.")
    arrays = _arrays(file)
    unknown = [name for name in arrays if name not in NAMES]
    if unknown or not arrays:
        raise ValueError(f"{file} has the arrays {few(arrays)}; name them low, high and mask.")
    for name, array in arrays.items():
        kinds = "b" if name == "mask" else "fiu"
        if array.dtype.kind not in kinds:
            raise ValueError(f"{name} in {file} is {array.dtype}; save {'booleans' if name == 'mask' else 'numbers'}.")
    low, high = (
        torch.as_tensor(arrays.get(name, float(k)), device="cpu").double() for k, name in enumerate(("low", "high"))
    )
    mask = torch.as_tensor(arrays["mask"], device="cpu") if "mask" in arrays else None
    return checked_bounds(Bounds(low, high, mask), str(file))


def _numbers(text: str) -> list[float]:
    try:
        low, high = (float(word) for word in text.strip("()[] ").split(","))
    except ValueError:
        raise ValueError(
            f"{shown(text)} is not a valid pair of bounds; write two numbers, 0,1, or name an .npz file."
        ) from None
    return [low, high]


def _arrays(file: Path) -> dict[str, np.ndarray]:
    try:
        check_npz(file)
        with np.load(file, allow_pickle=False) as archive:
            check_memory(sum(info.file_size for info in archive.zip.infolist()) // 4, file)
            return {name: archive[name] for name in archive.files}
    except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{file} cannot be read as bounds ({one_line(error)}).") from error


def checked_bounds(bounds: Bounds, source: str) -> Bounds:
    low, high, mask = bounds.low, bounds.high, bounds.mask
    try:
        ordered = in_order(low, high) and bool((low < high).any())
    except RuntimeError:
        shapes = f"{tuple(low.shape)}, {tuple(high.shape)}"
        raise ValueError(f"The bounds {source} have different shapes, {shapes}.") from None
    if not ordered:
        raise ValueError(f"The bounds {source} must be finite, low <= high everywhere and low < high somewhere.")
    if mask is not None and not bool(mask.any()):
        raise ValueError(f"The mask in {source} lets nothing move; true means that a feature may.")
    return bounds
