"""One shift of hue and one of saturation for all pixels, brightness kept (Hosseini, Poovendran 2018)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from plica.perturbations.base import check_interval, check_positive
from plica.perturbations.rotate import grid
from plica.perturbations.sampling import images

TINY = 1e-6  # of chroma: below it a pixel counts as grey, with the hue of red


@dataclass(frozen=True)
class HueSaturation:
    """theta (b, 2): the shift of the hue in half circles and the shift of the saturation, both from -1 to 1.

    Images (3, h, w), red, green and blue in `bounds`. The distance is the larger magnitude of the two; hues that
    differ by a whole circle are the same.
    """

    bounds: tuple[float, float] = (0.0, 1.0)
    unit: float = 0.3

    def __post_init__(self):
        check_positive(self, "unit")
        check_interval(self, self.bounds)

    def start(self, x: Float[Tensor, "b *image"]) -> Float[Tensor, "b 2"]:
        images(x, "HueSaturation", (3,))
        return x.new_zeros(len(x), 2)

    def __call__(self, x: Float[Tensor, "b *image"], theta: Float[Tensor, "b 2"]) -> Float[Tensor, "b *image"]:
        low, span = self.bounds[0], self.bounds[1] - self.bounds[0]
        hue, saturation, value = _hsv((x - low) / span)
        hue = hue + 3 * theta[:, 0, None, None]
        saturation = (saturation + theta[:, 1, None, None]).clamp(0, 1)
        return low + span * _rgb(hue, saturation, value)

    def distance(self, x: Float[Tensor, "b *image"], theta: Float[Tensor, "b 2"]) -> Float[Tensor, " b"]:
        hue, saturation = theta.unbind(1)
        return torch.maximum((hue - 2 * (hue / 2).round()).abs(), saturation.abs())

    def grid(self, most: int) -> Float[Tensor, "g 2"]:
        """At most `most` evenly spaced theta, nearest to the start first."""
        side = max(1, int(most**0.5))
        return grid((side, side))


def _hsv(x: Float[Tensor, "b 3 h w"]) -> tuple[Tensor, Tensor, Tensor]:
    """Hue in sixths of the circle, saturation and value, each (b, h, w)."""
    red, green, blue = x.unbind(1)
    value, least = x.amax(1), x.amin(1)
    chroma = (value - least).clamp(min=TINY)
    hue = torch.where(
        value == red, (green - blue) / chroma,
        torch.where(value == green, 2 + (blue - red) / chroma, 4 + (red - green) / chroma),
    )  # fmt: skip
    return hue, (value - least) / value.clamp(min=TINY), value


def _rgb(hue: Tensor, saturation: Tensor, value: Tensor) -> Float[Tensor, "b 3 h w"]:
    """The inverse: each channel is the value minus a part that grows with its distance on the circle of hues."""
    sixths = torch.stack([(n + hue).remainder(6) for n in (5, 3, 1)], 1)
    away = torch.minimum(sixths, 4 - sixths).clamp(0, 1)
    return value[:, None] * (1 - saturation[:, None] * away)
