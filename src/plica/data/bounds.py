"""Where inputs may move: bounds for all features or for each, and a mask of those that may move at all.

Written as two numbers, "0,1", or as an .npz file with the arrays `low` and `high` (numbers, or of an input's shape) and
`mask` (true where a feature may move), each of which may be left out. A run keeps them as bounds.safetensors.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Shaped
from safetensors.torch import save
from torch import Tensor

from plica.metrics import Held, Metric, Unsupported, lp_form, parse_metric
from plica.perturbations import ParametricPerturbation, parse_distance
from plica.utils.limits import check_memory, check_npz
from plica.utils.messages import few, one_line

NAMES = ("low", "high", "mask")


@dataclass(frozen=True, eq=False)
class Bounds:
    """low <= x <= high, each a number () or of an input's shape; features where `mask` is false stay as they are."""

    low: Shaped[Tensor, "..."]
    high: Shaped[Tensor, "..."]
    mask: Bool[Tensor, "*image"] | None = None

    @property
    def usual(self) -> bool:
        """Whether they are those of pixels, 0 and 1."""
        return self.mask is None and not self.each and self.pair == (0, 1)

    @property
    def each(self) -> bool:
        """Whether features have bounds of their own."""
        return self.low.ndim + self.high.ndim > 0

    @property
    def pair(self) -> tuple[Any, Any]:
        """Two numbers, or two tensors, as plica.attack takes them."""
        return (self.low, self.high) if self.each else (float(self.low), float(self.high))

    def metric(self, metric: Metric, shape: Sequence[int] | None = None) -> Metric:
        """The distance with an infinite weight on what must not move.

        Raises:
            Unsupported: a distance that takes no weights.
            ValueError: the mask does not fit inputs of this shape.
        """
        if self.mask is None:
            return metric
        if shape is not None and self.mask.shape != tuple(shape):
            raise ValueError(f"The mask has shape {tuple(self.mask.shape)} and inputs have {tuple(shape)}.")
        if lp_form(metric) is None:
            raise Unsupported(f"A mask goes with l_p distances; {metric} moves every feature.")
        return Held(metric, ~self.mask)

    def distance(
        self, metric: str, through: str | None, parse: Callable[[str], Any] = parse_metric
    ) -> tuple[Any, ParametricPerturbation | None]:
        """parse_distance, of inputs within these bounds.

        Raises:
            ValueError: there is no such distance, or a perturbation goes with two numbers for all features alone.
        """
        distance, perturbation = parse_distance(metric, through, self.pair, parse)
        if perturbation is not None and self.mask is not None:
            raise Unsupported("A mask and a perturbation other than x + delta do not go together; leave one out.")
        return distance, perturbation

    def digest(self) -> str:
        """A hexadecimal hash of all numbers."""
        return hashlib.sha256(self.packed()).hexdigest()

    def packed(self) -> bytes:
        """As a safetensors file."""
        held = {name: getattr(self, name) for name in NAMES if getattr(self, name) is not None}
        return save({name: tensor.detach().cpu().contiguous() for name, tensor in held.items()})


def read_bounds(given: str | Path | Sequence[float]) -> Bounds:
    """Bounds from two numbers, their text, or a file.

    Raises:
        FileNotFoundError, ValueError: one sentence.
    """
    if isinstance(given, str | Path) and not str(given).endswith(".npz"):
        given = _numbers(str(given))
    if not isinstance(given, str | Path):
        low, high = (torch.tensor(float(bound), dtype=torch.float64) for bound in given)
        return _checked(Bounds(low, high), f"{tuple(given)}")
    file = Path(given)
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
    low, high = (torch.as_tensor(arrays.get(name, float(k))).double() for k, name in enumerate(("low", "high")))
    mask = torch.as_tensor(arrays["mask"]) if "mask" in arrays else None
    return _checked(Bounds(low, high, mask), str(file))


def _numbers(text: str) -> list[float]:
    try:
        low, high = (float(word) for word in text.strip("()[] ").split(","))
    except ValueError:
        raise ValueError(f"The bounds {text!r} are none; write two numbers, 0,1, or name an .npz file.") from None
    return [low, high]


def _arrays(file: Path) -> dict[str, np.ndarray]:
    try:
        check_npz(file)
        with np.load(file, allow_pickle=False) as held:
            check_memory(sum(info.file_size for info in held.zip.infolist()) // 4, file)
            return {name: held[name] for name in held.files}
    except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{file} cannot be read as bounds ({one_line(error)}).") from error


def _checked(bounds: Bounds, where: str) -> Bounds:
    low, high, mask = bounds.low, bounds.high, bounds.mask
    try:
        fits = bool((low <= high).all()) and bool((low < high).any()) and bool((high - low).isfinite().all())
    except RuntimeError:
        shapes = f"{tuple(low.shape)}, {tuple(high.shape)}"
        raise ValueError(f"The bounds {where} have different shapes, {shapes}.") from None
    if not fits:
        raise ValueError(f"The bounds {where} must be finite, low <= high everywhere and low < high somewhere.")
    if mask is not None and not bool(mask.any()):
        raise ValueError(f"The mask in {where} lets nothing move; true means that a feature may.")
    return bounds
