"""A rotation about the middle and a translation (Engstrom et al. 2019): three unknowns; outside pixels are black."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from plica.perturbations.base import check_positive
from plica.perturbations.sampling import images, positions, sample
from plica.utils.messages import shown


@dataclass(frozen=True)
class RotateTranslate:
    """theta (b, 3): angle / degrees, shift down / (share of the height), shift right / (share of the width).

    The distance is the largest of the three magnitudes: the ball of radius 1 is the box that Engstrom et al. search,
    rotations by 30 degrees and shifts by a tenth of the side. padding: zeros (black), border or reflection.
    """

    degrees: float = 30.0
    share: float = 0.1
    padding: str = "zeros"
    unit: float = 0.5

    def __post_init__(self):
        check_positive(self, "degrees", "share", "unit")
        if self.padding not in ("zeros", "border", "reflection"):
            raise ValueError(
                f"RotateTranslate(padding=...) must be zeros, border or reflection, got {shown(self.padding)}."
            )

    def start(self, x: Float[Tensor, "b *image"]) -> Float[Tensor, "b 3"]:
        images(x, "RotateTranslate")
        return x.new_zeros(len(x), 3)

    def __call__(self, x: Float[Tensor, "b *image"], theta: Float[Tensor, "b 3"]) -> Float[Tensor, "b *image"]:
        h, w = x.shape[2:]
        angle, down, right = theta[:, :, None, None].unbind(1)
        angle = angle * math.radians(self.degrees)
        row, column = (position - (size - 1) / 2 for position, size in zip(positions(x), (h, w), strict=True))
        row, column = row - down * self.share * h, column - right * self.share * w
        turned = angle.cos() * row - angle.sin() * column, angle.sin() * row + angle.cos() * column
        return sample(x, turned[0] + (h - 1) / 2, turned[1] + (w - 1) / 2, self.padding)

    def distance(self, x: Float[Tensor, "b *image"], theta: Float[Tensor, "b 3"]) -> Float[Tensor, " b"]:
        return theta.abs().amax(1)

    def grid(self, most: int) -> Float[Tensor, "g 3"]:
        """At most so many evenly spaced theta in the box of radius 1, from the middle outwards, with about six times
        as many angles as shifts along one axis, as in Engstrom et al. (31 angles, 5 x 5 shifts)."""
        shifts = max(1, round((most / 6.2) ** (1 / 3)))
        turns = max(1, most // shifts**2)
        return grid((turns, shifts, shifts))


def grid(counts: tuple[int, ...]) -> Float[Tensor, "g k"]:
    """The centres of so many equal cells of [-1, 1] along each axis, nearest to the middle first."""
    axes = [(2 * torch.arange(n, dtype=torch.float32, device="cpu") + 1 - n) / n for n in counts]
    nodes = torch.cartesian_prod(*axes).view(-1, len(counts))
    return nodes[nodes.abs().amax(1).argsort(stable=True)]
