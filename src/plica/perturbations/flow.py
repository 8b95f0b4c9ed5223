"""A flow field: every pixel of x' is read at another position of x, bilinearly (stAdv, Xiao et al. 2018).

    x'(i, j) = x(i + u_ij, j + v_ij),   d = sum over neighbours p, q of sqrt(|u_p - u_q|^2 + |v_p - v_q|^2)

Beyond the border the flow is 0: a shift of the whole image has a cost, and the total variation is a norm.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from plica.metrics import total
from plica.perturbations.base import check_positive
from plica.perturbations.sampling import images, positions, sample

SMALL = 1e-2  # pixels: sqrt(t^2 + SMALL^2) - SMALL replaces |t|, whose gradient jumps at 0


@dataclass(frozen=True)
class Flow:
    """theta (b, 2 h w): how many pixels down and to the right each pixel of x' is read. Images (c, h, w).

    The distance is the total variation, in pixels, rounded off below a hundredth of a pixel per neighbour.
    """

    unit: float = 1.0

    def __post_init__(self):
        check_positive(self, "unit")

    def start(self, x: Float[Tensor, "b *image"]) -> Float[Tensor, "b k"]:
        images(x, "Flow")
        return x.new_zeros(len(x), 2 * x.shape[2] * x.shape[3])

    def __call__(self, x: Float[Tensor, "b *image"], theta: Float[Tensor, "b k"]) -> Float[Tensor, "b *image"]:
        u, v = self._field(x, theta).unbind(1)
        row, column = positions(x)
        return sample(x, row + u, column + v, "border")

    def distance(self, x: Float[Tensor, "b *image"], theta: Float[Tensor, "b k"]) -> Float[Tensor, " b"]:
        field = pad(self._field(x, theta), (1, 1, 1, 1))
        down, right = field[:, :, 1:, 1:-1] - field[:, :, :-1, 1:-1], field[:, :, 1:-1, 1:] - field[:, :, 1:-1, :-1]
        squares = torch.cat([down.square().sum(1).flatten(1), right.square().sum(1).flatten(1)], 1)
        return total((squares + SMALL**2).sqrt() - SMALL)

    @staticmethod
    def _field(x: Tensor, theta: Tensor) -> Float[Tensor, "b 2 h w"]:
        return theta.view(len(x), 2, *x.shape[2:])
