"""Points on a grid of evenly spaced levels between the bounds: 256 for 8-bit image files, 11 for whole numbers between
0 and 10.

    low + (high - low) k / (levels - 1),  k = 0, 1, ..., levels - 1,  computed in float64, then rounded to the dtype
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from plica.core.domain.bounds import Bounds
from plica.core.formulations import Question
from plica.metrics import Metric, Unsupported, fixed_pixels, plain_p
from plica.solver.rows import pick
from plica.utils.messages import shown
from plica.utils.whole import as_int

MOST_LEVELS = 2**16
SAME = 2.0  # roundings of the largest bound (of float32 at least) within which a pixel of x is on the grid


def level_count(levels: Any) -> int:
    """`levels` as an int. Raises TypeError or ValueError unless it is a number of levels."""
    number = as_int(levels)
    if number is None:
        raise TypeError(
            f"levels must be a whole number, such as 256 for images of 8 bits, or None, got {shown(levels)}."
        )
    if not 2 <= number <= MOST_LEVELS:
        raise ValueError(
            f"levels must lie between 2 and {MOST_LEVELS}, got {shown(number)}; for images of 8 bits give 256."
        )
    return number


def check_levels(levels: int, bounds: Bounds, dtype: torch.dtype, question: Question) -> None:
    """Raises ValueError unless `dtype` can tell so many levels apart between the bounds, and Unsupported for a
    perturbation other than x + delta."""
    largest = torch.maximum(bounds.low.abs(), bounds.high.abs()).double()
    if not bool(largest.isfinite().all()):
        raise ValueError("levels lie evenly between the bounds, which must be finite; pass bounds=(low, high).")
    step = bounds.span.double() / (levels - 1)
    if bool(((step > 0) & (step < torch.finfo(dtype).eps / 2 * largest)).any()):
        raise ValueError(f"{dtype} cannot tell {levels} levels between these bounds apart; give fewer, or x.double().")
    if question.through is not None:
        raise Unsupported(
            "levels=... goes with x + delta: an image made by a perturbation and then rounded is none that the "
            "perturbation makes. Leave levels out, or through."
        )


def pixel_rounding(metric: Metric, bounds: Bounds, dtype: torch.dtype) -> float:
    """The tolerance added to a radius in l_inf, 0 for other distances: once both are rounded to the dtype, two levels
    that lie exactly a radius apart may differ by this much more."""
    return _rounding(bounds, dtype) if plain_p(metric) == math.inf else 0.0


def _rounding(bounds: Bounds, dtype: torch.dtype) -> float:
    """Half the spacing of floating-point numbers just below the largest bound, for each of two levels."""
    return torch.finfo(dtype).eps / 2 * float(torch.maximum(bounds.low.abs(), bounds.high.abs()).max())


def level_grid(
    x: Float[Tensor, "b *image"], bounds: Bounds, levels: int, metric: Metric, dtype: torch.dtype | None = None
) -> LevelGrid:
    """The grid of images x, with the pixels fixed that must not change under the metric. dtype: see LevelGrid."""
    return LevelGrid.of(x, bounds, levels, fixed_pixels(metric, x), dtype)


@dataclass(frozen=True, eq=False)
class LevelGrid:
    """Rounds points to the nearest level. Each point belongs to one of the images x.

    If an image lies on the grid up to rounding, its own pixel values stand for their levels, so that a pixel which does
    not change keeps its bits. A fixed pixel keeps its value even if that is no level.

    Attributes:
        fixed: pixels that must not change; None for none.
        dtype: half precision that the levels are rounded to; None for the dtype of x.
        level: (b, *image) the level of each pixel, for images that lie on the grid; -1 for all pixels of the others.
    """

    x: Float[Tensor, "b *image"]
    bounds: Bounds
    levels: int
    fixed: Bool[Tensor, "*image"] | None
    dtype: torch.dtype | None
    level: Float[Tensor, "b *image"]

    @classmethod
    def of(
        cls,
        x: Float[Tensor, "b *image"],
        bounds: Bounds,
        levels: int,
        fixed: Bool[Tensor, "*image"] | None = None,
        dtype: torch.dtype | None = None,
    ) -> LevelGrid:
        """The grid of these images."""
        grid = cls(x, bounds, levels, fixed, dtype, torch.full_like(x, -1))
        level = grid._nearest(x)
        largest = torch.maximum(bounds.low.abs(), bounds.high.abs()).to(x)
        own, single = (SAME * torch.finfo(kind).eps * largest for kind in (dtype or x.dtype, torch.float32))
        # images in float64 are mostly copies of those in float32, with their rounding
        same = (grid._pixels(level) - x).abs() <= torch.maximum(own, torch.minimum(single, grid.step / 4))
        known = same if fixed is None else same | fixed
        on_grid = known.flatten(1).all(1).view(-1, *[1] * (x.ndim - 1))
        grid.level.copy_(torch.where(on_grid, level.to(x), -1))
        return grid

    @property
    def rounding(self) -> float:
        """The most by which rounding to the dtype changes the difference of two levels; large only in half
        precision."""
        return _rounding(self.bounds, self.dtype or self.x.dtype)

    @property
    def step(self) -> Float[Tensor, "..."]:
        """The distance between neighbouring levels: a number, or one for each feature."""
        return (self.bounds.span.double() / (self.levels - 1)).to(self.x)

    @torch.no_grad()
    def __call__(self, z: Float[Tensor, "r *image"], image: Int[Tensor, " r"]) -> Float[Tensor, "r *image"]:
        """The nearest points of the grid; image: of each row, among the images x."""
        x, level = pick(self.x, image), self._nearest(z)
        stays = level == pick(self.level, image)
        stays = stays if self.fixed is None else stays | self.fixed
        return torch.where(stays, x, self._pixels(level))

    def rows(self, images: Int[Tensor, " i"]) -> LevelGrid:
        """The grid of some of the images."""
        x, level = pick(self.x, images), pick(self.level, images)
        return LevelGrid(x, self.bounds, self.levels, self.fixed, self.dtype, level)

    def _nearest(self, z: Tensor) -> Tensor:
        low, high = self._ends(z.device)
        share = (z.double() - low) / torch.where(high > low, high - low, 1)
        return (share * (self.levels - 1)).round().clamp(0, self.levels - 1)

    def _pixels(self, level: Tensor) -> Tensor:
        low, high = self._ends(level.device)
        pixels = torch.minimum(low + (high - low) * level / (self.levels - 1), high)  # which rounding may exceed
        return pixels.to(self.dtype or self.x.dtype).to(self.x.dtype)

    def _ends(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """The bounds in float64: their difference in the dtype of x would miss the upper one."""
        return self.bounds.low.to(device).double(), self.bounds.high.to(device).double()
