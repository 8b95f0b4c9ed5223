"""Images in half precision: searches run in float32, at points whose pixels half precision can represent.

In bfloat16 neighbouring pixel values differ by up to 1/256. The steps of a search are far smaller, so its arithmetic
needs more digits than the pixels have.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from plica.core.domain.bounds import Bounds
from plica.core.model.counted import Model
from plica.core.model.rounding import is_half
from plica.solver.rows import pick

SLACK = 1e-6  # of the span of the bounds, by which a change of units may move a pixel
INSIDE = 1 - 1e-6  # share of a radius that is used: a distance in float32 stays inside in float64


def half_dtype(x: object) -> torch.dtype | None:
    """The dtype of x, if x is a tensor of half precision."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        return None
    return x.dtype if is_half(torch.finfo(x.dtype).eps) else None


@dataclass(frozen=True)
class HalfModel:
    """A model of images in `dtype` as one of float32."""

    model: Model
    dtype: torch.dtype

    def __call__(self, x: Float[Tensor, "b *image"]) -> Tensor:
        return self.model(x.to(self.dtype))


@dataclass(frozen=True)
class HalfGrid:
    """Rounds points to pixels of `dtype`.

    With `radius` None, pixels are rounded towards the image x that the point belongs to, so that no l_p distance grows
    and no bound is crossed. Given radii, they are rounded to the nearest value that lies in the l_inf ball and in the
    bounds: a perturbation as small as the spacing of pixel values would mostly be lost by rounding towards x.

    Attributes:
        slack: a pixel that misses a value of `dtype` by no more than this, on the side of x, is rounded to that value.
        radius: (b,) of the ball of each image under l_inf, inf for MinRadius; None elsewhere.
        bounds: of the pixels, or of each feature; used if there is a radius.
    """

    x: Float[Tensor, "b *image"]
    dtype: torch.dtype
    slack: float = 0.0
    radius: Float[Tensor, " b"] | None = None
    bounds: tuple[float | Tensor, float | Tensor] = (0.0, 1.0)

    @torch.no_grad()
    def __call__(self, z: Float[Tensor, "r *image"], image: Int[Tensor, " r"]) -> Float[Tensor, "r *image"]:
        x, nearest = pick(self.x, image), z.to(self.dtype)
        allowed, moved = (z - x).abs() + self.slack, (nearest.to(z) - x).abs()
        beyond = moved > allowed
        if self.radius is not None:
            radius = (self.radius.to(x.device)[image] * INSIDE).to(z).view(-1, *[1] * (z.ndim - 1))
            low, high = self.bounds
            pixels = nearest.to(z)  # compared in bfloat16, bounds would be rounded
            beyond &= (moved > radius) | (pixels < low) | (pixels > high)
        return torch.where(beyond, torch.nextafter(nearest, x.to(self.dtype)), nearest).to(z)


@dataclass(frozen=True)
class UnitGrid:
    """HalfGrid for points u in units of the bounds, u = (x - low) / (high - low)."""

    grid: HalfGrid
    bounds: Bounds

    def __call__(self, u: Float[Tensor, "r *image"], image: Int[Tensor, " r"]) -> Float[Tensor, "r *image"]:
        return self.bounds.to_units(self.grid(self.bounds.from_units(u), image))
