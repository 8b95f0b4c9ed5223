"""DISTS: structure and texture of feature maps (Ding, Ma, Wang, Simoncelli, IEEE TPAMI 2020)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from plica.metrics.combine import Combinable
from plica.metrics.perceptual import Taps

STABLE = 1e-6  # c1 and c2, as published


@dataclass(frozen=True, eq=False)
class DISTS(Combinable):
    """d(x, x') = 1 - sum over maps i of alpha_i l_i + beta_i s_i, one map per layer and channel, the image's own first.

        texture    l = (2 m m' + c) / (m^2 + m'^2 + c),     m, m' the means of a map of x and of x'
        structure  s = (2 v'' + c) / (v + v' + c),          v, v' their variances, v'' the covariance

    In [0, 2]; grows as the square of a small change. By default every layer weighs the same, and so does every channel
    of a layer. (The published weights are for VGG-16 with pooling of its own.)

    Args:
        features: (b, *image) -> list of maps (b, channels, h, w).
        alpha: weights of all channels in order, the image's first; divided by the sum of alpha and beta.
        beta: the same for the structure.
    """

    features: Any
    alpha: Float[Tensor, " maps"] | None = None
    beta: Float[Tensor, " maps"] | None = None

    def __post_init__(self):
        if not callable(self.features):
            raise TypeError(f"DISTS(features) takes a function of images that returns feature maps, got "
                            f"{type(self.features).__name__}; for layers of a network use DISTS.of.")  # fmt: skip
        weights = [w for w in (self.alpha, self.beta) if w is not None]
        if len(weights) == 1 or any(bool((w < 0).any()) or not bool((w > 0).any()) for w in weights):
            raise ValueError("DISTS needs alpha and beta together, each at least 0 and not all 0.")

    @classmethod
    def of(cls, module: nn.Module, layers: Sequence[str], **weights: Tensor) -> DISTS:
        """The outputs of the named layers of a network; names are those of module.named_modules()."""
        return cls(Taps(module, layers), **weights)

    def __str__(self) -> str:
        return "dists"

    def __call__(self, x: Float[Tensor, "b *image"], x_adv: Float[Tensor, "b *image"]) -> Float[Tensor, " b"]:
        pairs = [(x, x_adv), *zip(self.features(x), self.features(x_adv), strict=True)]
        if any(a.ndim != 4 for a, _ in pairs):
            raise ValueError("DISTS takes images and feature maps of shape (b, channels, height, width).")
        texture, structure = (
            torch.cat(terms, 1) for terms in zip(*(_dissimilarity(a, b) for a, b in pairs), strict=True)
        )
        if self.alpha is None or self.beta is None:
            even = torch.cat([x.new_full((a.shape[1],), 0.5 / len(pairs) / a.shape[1]) for a, _ in pairs])
            return ((texture + structure) * even).sum(1)
        alpha, beta = self.alpha.to(x), self.beta.to(x)
        if alpha.shape != texture.shape[1:] or beta.shape != alpha.shape:
            raise ValueError(f"DISTS(alpha=..., beta=...) need {texture.shape[1]} weights, one for each channel of the "
                             f"image and of every map, got {tuple(alpha.shape)} and {tuple(beta.shape)}.")  # fmt: skip
        return (texture * alpha + structure * beta).sum(1) / (alpha.sum() + beta.sum())


def _dissimilarity(a: Float[Tensor, "b c h w"], b: Float[Tensor, "b c h w"]) -> tuple[Tensor, Tensor]:
    """1 - l and 1 - s of every channel (b, c), as squares of differences: 0 to the last bit where a = b."""
    a, b = a.flatten(2), b.flatten(2)
    m, n = a.mean(2), b.mean(2)
    u, v = a - m[..., None], b - n[..., None]
    texture = (m - n) ** 2 / (m**2 + n**2 + STABLE)
    return texture, (u - v).square().mean(2) / (u.square().mean(2) + v.square().mean(2) + STABLE)
