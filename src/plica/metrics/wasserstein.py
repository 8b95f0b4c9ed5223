"""The Wasserstein distance between images as distributions of brightness, by the Sinkhorn divergence of geomloss."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from plica.metrics.combine import Combinable
from plica.utils.optional import require

LEAST = 1e-6  # added to every pixel, since entropic transport takes logarithms


@dataclass(frozen=True)
class Wasserstein(Combinable):
    """The Wasserstein distance between images as distributions of light, one for each channel.

    d(x, x') = sum over channels of the Sinkhorn divergence between the channels' shares of light, transport cost
    |u - v|^2 / 2 for positions u, v in the unit square; plus `mass` times the squared relative change of a channel's
    total, which transport ignores. It grows as the square of a small change (W_2^2 / 2). Images (b, channels, h, w),
    pixels >= 0. A gradient costs about 100 (h w)^2 operations.

    Args:
        mass: the weight of a change of a channel's total.
        blur: in pixels; positions that are closer are hardly distinguished.
    """

    mass: float = 1.0
    blur: float = 1.0

    def __str__(self) -> str:
        return "wasserstein"

    def __call__(self, x: Float[Tensor, "b *image"], x_adv: Float[Tensor, "b *image"]) -> Float[Tensor, " b"]:
        if x.ndim != 4:
            raise ValueError(f"Wasserstein takes images (b, channels, height, width), got {tuple(x.shape)}.")
        h, w = x.shape[2:]
        a, b = ((t.clamp(min=0) + LEAST).flatten(0, 1).flatten(1) for t in (x, x_adv))
        light_a, light_b = a.sum(1, keepdim=True), b.sum(1, keepdim=True)
        side = max(h, w)
        rows, columns = (torch.arange(n, device=x.device, dtype=x.dtype) / side for n in (h, w))
        positions = torch.cartesian_prod(rows, columns).expand(len(a), -1, -1)
        loss = require("geomloss", "Wasserstein").SamplesLoss(
            "sinkhorn", p=2, blur=self.blur / side, diameter=math.sqrt(2), backend="tensorized"
        )
        cost = loss(a / light_a, positions, b / light_b, positions).view(len(x), -1).sum(1)
        return cost + self.mass * ((light_b / light_a - 1) ** 2).view(len(x), -1).sum(1)
