"""A distance as a search asks it: value and gradient for padded rows, counted per image, features of the image kept.

Calls are padded like those of the model (core/model.py), so that a row's answer does not depend on its company.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from plica.core.model import CountedModel
from plica.metrics import Embedding, Metric, gradient, own_gradient, properties
from plica.metrics.lp import norm

PROBE = 1e-2  # of the box: the length per pixel of the step that tells a norm from its square


class Measure:
    """d(x, z) and its gradient at z, for rows of some images; gradients (i,) counts what each image has cost."""

    def __init__(self, metric: Metric, x: Float[Tensor, "i *image"], queries: CountedModel):
        self.metric, self.x, self.queries = metric, x, queries
        self.gradients = torch.zeros(len(x), dtype=torch.long)
        self.phi = None
        if isinstance(metric, Embedding) and own_gradient(metric) is None:
            with torch.no_grad():
                parts = queries.parts(len(x), x.device)
                self.phi = torch.cat([metric.embed(queries.fill(x[p]))[: p.stop - p.start] for p in parts])

    def __call__(self, z: Float[Tensor, "r n"], place: Int[Tensor, " r"]) -> tuple[Tensor, Tensor]:
        """d (r,) and its gradient (r, n) at z, a point for each of the images in place."""
        self.gradients.index_add_(0, place.cpu(), torch.ones_like(place, device="cpu"))
        told = []
        for part in self.queries.parts(len(z), z.device):
            rows = self.queries.fill(place[part])
            at = self.queries.fill(z[part]).view(-1, *self.x.shape[1:])
            d, grad = self._gradient(at, rows)
            size = part.stop - part.start
            told.append((d[:size], grad[:size].flatten(1)))
        return told[0] if len(told) == 1 else (torch.cat([t[0] for t in told]), torch.cat([t[1] for t in told]))

    def _gradient(self, z: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
        if self.phi is None:
            return gradient(self.metric, self.x[place], z)
        assert isinstance(self.metric, Embedding)
        with torch.enable_grad():
            z = z.detach().requires_grad_(True)
            r = self.metric.embed(z) - self.phi[place]
            d = r.square().sum(1) if self.metric.exponent == 2 else norm(r, self.metric.p)
            (grad,) = torch.autograd.grad(d.sum(), z)
        return d.detach(), grad

    @torch.no_grad()
    def quadratic(self, direction: Float[Tensor, " n"], bounds: tuple[float, float]) -> Tensor:
        """Images at which d grows as the square of the step, as 1 - SSIM does, rather than in proportion, as a norm."""
        if properties(self.metric).scale_free:
            return torch.zeros(len(self.x), dtype=torch.bool, device=self.x.device)
        every = torch.arange(len(self.x), device=self.x.device)
        x, (low, high) = self.x.flatten(1), bounds
        unit = direction.abs() * len(direction) ** 0.5 * PROBE * (high - low)
        inwards = torch.where(x < (low + high) / 2, unit, -unit)
        near, far = (self(x + s * inwards, every)[0] for s in (1, 2))
        self.gradients.zero_()
        return far > 2**1.5 * near
