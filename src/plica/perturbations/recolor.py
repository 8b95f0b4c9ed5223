"""A colour map: equal colours stay equal, wherever in the image they are (ReColorAdv, Laidlaw, Feizi 2019).

    x'(pixel) = c + g(c),  c = x(pixel);   d^2 = mean |g|^2 + smooth^2 mean |dg/dc|^2

g is given on a grid over the cube of colours and interpolated linearly between its nodes; the means are over the grid.
Colours are red, green and blue, or L*, u*, v* over 100 as in ReColorAdv. The second term makes similar colours change
in a similar way. (ReColorAdv bounds g and adds the norms of its differences to the loss; here both are one distance.)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import grid_sample

from plica.metrics import total
from plica.perturbations.base import check_interval, check_positive
from plica.perturbations.luv import HIGH, LOW, luv, rgb
from plica.perturbations.sampling import images
from plica.utils.messages import shown
from plica.utils.whole import as_int

SMALLEST = 1e-12  # added under the root, whose gradient is infinite at 0


@dataclass(frozen=True)
class Recolor:
    """theta (b, c * nodes^c): what is added to each channel of each colour of the grid. Images of 1 or 3 channels.

    Args:
        nodes: of the grid, along each channel.
        smooth: distance, in units of colour, beyond which two colours change independently.
        bounds: of the pixels, as in plica.attack.
        space: rgb, in units of the pixels; or luv, of three channels only.
    """

    nodes: int = 8
    smooth: float = 0.3
    bounds: tuple[float, float] = (0.0, 1.0)
    unit: float = 0.1
    space: str = "rgb"

    def __post_init__(self):
        if self.space not in ("rgb", "luv"):
            raise ValueError(f"Recolor(space=...) must be rgb or luv, got {self.space!r}.")
        check_positive(self, "smooth", "unit")
        check_interval(self, self.bounds)
        if (as_int(self.nodes) or 0) < 2:
            raise ValueError(f"Recolor(nodes=...) must be a whole number from 2, got {shown(self.nodes)}.")

    def start(self, x: Float[Tensor, "b *image"]) -> Float[Tensor, "b k"]:
        images(x, "Recolor", (1, 3) if self.space == "rgb" else (3,))
        return x.new_zeros(len(x), x.shape[1] * self.nodes ** x.shape[1])

    def __call__(self, x: Float[Tensor, "b *image"], theta: Float[Tensor, "b k"]) -> Float[Tensor, "b *image"]:
        low, high = self.bounds
        position = 2 * (x - low) / (high - low) - 1
        if self.space == "luv":
            colour = luv((x - low) / (high - low))
            bottom, top = (x.new_tensor(end).view(1, 3, 1, 1) for end in (LOW, HIGH))
            new = rgb(colour + self._read(x, theta, 2 * (colour - bottom) / (top - bottom) - 1))
            return x + (high - low) * (new - rgb(colour))  # this difference is exactly 0 at the start
        if x.shape[1] == 1:  # a curve: one row of nodes
            table, grid = (
                theta.view(-1, 1, 1, self.nodes),
                torch.stack([position[:, 0], torch.zeros_like(position[:, 0])], -1),
            )
            return x + grid_sample(table, grid, padding_mode="border", align_corners=True)
        return x + self._read(x, theta, position)

    def distance(self, x: Float[Tensor, "b *image"], theta: Float[Tensor, "b k"]) -> Float[Tensor, " b"]:
        table, spans = self._table(x, theta), [self.bounds[1] - self.bounds[0]] * x.shape[1]
        if self.space == "luv":
            spans = [top - bottom for bottom, top in zip(LOW, HIGH, strict=True)]
        energy = total(theta**2) / self.nodes ** x.shape[1]
        for axis, span in enumerate(spans, start=2):
            slope = table.diff(dim=axis).flatten(1) * (self.nodes - 1) / span
            energy = energy + self.smooth**2 * total(slope**2) * x.shape[1] / slope.shape[1]
        return (energy + SMALLEST).sqrt() - SMALLEST**0.5

    def _read(self, x: Tensor, theta: Tensor, position: Tensor) -> Float[Tensor, "b 3 h w"]:
        """g at colours, scaled to [-1, 1]; grid_sample takes the axes of a volume in reverse order."""
        grid = position.flip(1).permute(0, 2, 3, 1)[:, None]
        return grid_sample(self._table(x, theta), grid, padding_mode="border", align_corners=True)[:, :, 0]

    def _table(self, x: Tensor, theta: Tensor) -> Float[Tensor, "b c *nodes"]:
        return theta.view(len(x), x.shape[1], *[self.nodes] * x.shape[1])
