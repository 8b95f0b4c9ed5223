"""Which inputs are allowed: bounds for all features or for each, and a mask of the features that may change.

Written as two numbers, "0,1", or as an .npz file with the arrays `low` and `high` (numbers, or of an input's shape) and
`mask` (true where a feature may move), each of which may be left out. A run keeps them as bounds.safetensors.
"""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Shaped
from safetensors.torch import save
from torch import Tensor

from plica.metrics import Held, Metric, Unsupported, counts, lp_form, parse_metric
from plica.perturbations import ParametricPerturbation, parse_distance
from plica.utils.messages import shown

NAMES = ("low", "high", "mask")


@dataclass(frozen=True, eq=False)
class Bounds:
    """low <= x <= high.

    Attributes:
        low: the lower bound: of shape () for all features, or of an input's shape, one for each feature.
        high: the upper bound, likewise; a feature whose bounds are equal does not change.
        mask: of an input's shape; features where it is false do not change. None: all may change.
    """

    low: Shaped[Tensor, "..."]
    high: Shaped[Tensor, "..."]
    mask: Bool[Tensor, "*image"] | None = None

    @property
    def is_default(self) -> bool:
        """Whether they are those of pixels, 0 and 1 without a mask."""
        return self.mask is None and not self.per_feature and self.pair == (0, 1)

    @property
    def per_feature(self) -> bool:
        """Whether features have bounds of their own."""
        return self.low.ndim + self.high.ndim > 0

    @property
    def pair(self) -> tuple[Any, Any]:
        """Two numbers, or two tensors, as plica.attack takes them."""
        return (self.low, self.high) if self.per_feature else self.numbers

    @property
    def numbers(self) -> tuple[float, float]:
        """The same two bounds of all features."""
        return float(self.low), float(self.high)

    @property
    def span(self) -> Tensor:
        """high - low."""
        return self.high - self.low

    def leave_none(self, fixed: Bool[Tensor, "..."] | None) -> bool:
        """Whether no feature may change. fixed: True for features that may not change for another reason."""
        stays = self.span <= 0
        return bool((stays if fixed is None else stays.to(fixed.device) | fixed).all())

    def clamp(self, x: Float[Tensor, "b *image"]) -> Float[Tensor, "b *image"]:
        """x moved into the bounds, feature by feature."""
        return torch.minimum(torch.maximum(x, self.low), self.high)

    def to_units(self, x: Float[Tensor, "b *image"]) -> Float[Tensor, "b *image"]:
        """u = (x - low) / (high - low) in [0, 1], for x in the bounds; 0 where the bounds are equal."""
        return ((x - self.low) / torch.where(self.span > 0, self.span, 1)).clamp(0, 1)

    def to_pixels(self, x: Float[Tensor, "b *image"]) -> Float[Tensor, "b *image"]:
        """x in units of the bounds, to be drawn like pixels in [0, 1]; x itself where a bound is infinite, or where
        each image has its own."""
        if self.is_default or self.span.ndim == x.ndim or not bool(self.span.isfinite().all()):
            return x
        return Bounds(self.low.to(x), self.high.to(x)).to_units(x)

    def from_units(self, u: Float[Tensor, "b *image"]) -> Float[Tensor, "b *image"]:
        """x = low + (high - low) u, in the dtype of u."""
        return self.low.to(u) + self.span.to(u) * u

    def metric(self, metric: Metric, shape: Sequence[int] | None = None) -> Metric:
        """The distance, as a Held with the features that the mask fixes, for inputs of this shape.

        Raises:
            Unsupported: there is a mask, and the distance takes no weights.
            ValueError: the mask has another shape.
        """
        if self.mask is None:
            return metric
        if shape is not None and self.mask.shape != tuple(shape):
            raise ValueError(
                f"The mask has shape {tuple(self.mask.shape)}, but inputs have {tuple(shape)}; give it their shape."
            )
        if lp_form(metric) is None and counts(metric) is None:
            raise Unsupported(f"A mask goes with l_p distances only, got {metric}; leave the mask out.")
        return Held(metric, ~self.mask)

    def distance(
        self, metric: str, through: str | None, parse: Callable[[str], Any] = parse_metric
    ) -> tuple[Any, ParametricPerturbation | None]:
        """`metric` and `through` of a question by name (parse_distance).

        Raises:
            ValueError: there is no such distance or perturbation, or there is a perturbation and bounds that differ
                between features.
            Unsupported: there is a mask, and `through` names a perturbation.
        """
        distance, perturbation = parse_distance(metric, through, self.pair, parse)
        if perturbation is not None and self.mask is not None:
            raise Unsupported("A mask and a perturbation other than x + delta do not go together; leave one out.")
        return distance, perturbation

    def digest(self) -> str:
        """SHA-256 of `packed()`, in hexadecimal digits."""
        return hashlib.sha256(self.packed()).hexdigest()

    def packed(self) -> bytes:
        """The bounds as the bytes of a safetensors file."""
        tensors = {name: tensor for name in NAMES if (tensor := getattr(self, name)) is not None}
        return save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})


def check_bounds(bounds: Any, x: Float[Tensor, "b *image"]) -> Bounds:
    """Check the argument `bounds` of plica.attack: two numbers, or two tensors that expand to the shape of an image, of
    which one may be a number. Returns bounds for each feature expanded, in the dtype and on the device of x; if they
    are the same for all features, as two numbers.

    Raises:
        TypeError: they are neither numbers nor tensors.
        ValueError: they have another shape, low is above high somewhere (or equals it everywhere), or x lies outside or
            is not finite.
    """
    rows = ~x.isfinite().flatten(1).all(1)
    if bool(rows.any()):
        raise ValueError(
            f"x must be numbers, but image {int(rows.nonzero()[0])} has {'nan' if x.isnan().any() else 'infinite'} "
            f"pixels ({int(rows.sum())} such images); leave it out."
        )
    if isinstance(bounds, tuple | list) and any(isinstance(bound, Tensor) and bound.ndim for bound in bounds):
        return _check_tensors(bounds, x)
    try:
        if isinstance(bounds, str):
            raise TypeError
        low, high = (float(bound) for bound in bounds)
    except (TypeError, ValueError, OverflowError):
        arrays = isinstance(bounds, tuple | list) and any(hasattr(bound, "__len__") for bound in bounds)
        raise TypeError(
            f"bounds must be two numbers (low, high), or two tensors of an image's shape {tuple(x.shape[1:])}, "
            f"got {shown(bounds)}{'; write torch.as_tensor(...) around arrays and lists' if arrays else ''}."
        ) from None
    if not low < high:
        raise ValueError(f"bounds must be (low, high) with low < high, got {shown(bounds)}.")
    if any(torch.finfo(x.dtype).max < abs(bound) < math.inf for bound in (low, high)):
        raise ValueError(f"bounds must be numbers that {x.dtype} can hold, got {shown(bounds)}.")
    # as tensors of bounds, and pixels clamped to them, are: 1.1 is a little more in float32
    low, high = (float(torch.tensor(bound, dtype=x.dtype, device="cpu")) for bound in (low, high))
    lowest, highest = float(x.detach().min()), float(x.detach().max())
    if not (low <= lowest and highest <= high):
        beyond = max(low - lowest, highest - high)
        if 0 < beyond <= 1e-3 * (high - low):
            raise ValueError(
                f"x must lie in bounds [{low:g}, {high:g}], but a pixel lies {beyond:.2g} outside, as rounding leaves "
                f"it; write x.clamp({low:g}, {high:g})."
            )
        raise ValueError(
            f"x must lie in bounds [{low:g}, {high:g}], but its pixels range from {lowest:g} to {highest:g}; "
            "rescale x or pass bounds=(low, high)."
        )
    largest, span = max(-lowest, highest), high - low
    squares = torch.finfo(x.dtype)
    if x[0].numel() * largest * largest > squares.max or span * span < squares.tiny:
        seen = f"pixels of size {largest:g}" if largest > 1 else f"bounds that are {span:g} apart"
        raise ValueError(f"x has {seen}, and {x.dtype} cannot hold the squares; rescale x and the bounds.")
    if low == 0 and 255 <= high <= 256 and highest <= 1 and bool((x != x.round()).any()):
        warnings.warn(
            f"All pixels lie in [0, 1], and the bounds are [{low:g}, {high:g}]: if these are images divided by 255, as "
            "8-bit files are when they are read, give the bounds 0 and 1, or radii may be of points outside them.",
            stacklevel=2,
        )
    return Bounds(*(torch.tensor(bound, dtype=torch.float64, device="cpu") for bound in (low, high)))


def _check_tensors(pair: Sequence[Any], x: Float[Tensor, "b *image"]) -> Bounds:
    shape = tuple(x.shape[1:])
    try:
        low, high = (torch.as_tensor(bound, device=x.device).to(x).expand(shape) for bound in pair)
    except (RuntimeError, TypeError, ValueError):
        seen = ", ".join(str(tuple(b.shape)) if isinstance(b, Tensor) else repr(b) for b in pair)
        raise ValueError(f"bounds must be two tensors (low, high) of an image's shape {shape}, got {seen}.") from None
    first = low.flatten()[0].double(), high.flatten()[0].double()
    is_pair = bool((low == first[0]).all() and (high == first[1]).all() and first[0] < first[1])
    if not is_pair and not in_order(low, high):
        raise ValueError("bounds must be finite, with low <= high for every feature.")
    inside = (x >= low) & (x <= high)
    if not bool(inside.all()):
        outside = (~inside).flatten(1).any(0).nonzero()[:, 0].tolist()
        raise ValueError(
            f"x lies outside its bounds in feature {outside[0]} ({len(outside)} such features of {low.numel()}); "
            "clamp x or widen the bounds."
        )
    return Bounds(*(bound.cpu() for bound in first)) if is_pair else Bounds(low, high)


def check_shared(bounds: Sequence[Any], shape: Sequence[int]) -> None:
    """Raises ValueError where `bounds` (low, high) have a row for each image, for images of this shape."""
    low, high = (tuple(getattr(bound, "shape", ())) for bound in bounds)
    rows = max(low, high, key=len)
    if len(rows) > len(shape):
        raise ValueError(
            f"The bounds have shape {rows}, a row for each image; here all images share them: give them the shape of "
            f"one, {tuple(shape)}. plica radius, plica attack and, in Python, plica.attack take a row for each image."
        )


def in_order(low: Tensor, high: Tensor) -> bool:
    return bool((low <= high).all()) and bool((high - low).isfinite().all())
