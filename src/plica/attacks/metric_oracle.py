"""The metric as a search calls it: values and gradients for rows, counted for each image. For distances between
features, those of the images are computed once.

Calls are padded like those of the model (core/model/counted.py), so that results do not depend on batch composition.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from plica.core.model.counted import CountedModel
from plica.metrics import Embedding, Metric, gradient, own_gradient, properties
from plica.metrics.lp import norm

PROBE = 1e-2  # length per pixel, in widths of the box, of the step that tells a norm from its square


class MetricOracle:
    """d(x, z) and its gradient with respect to z, for rows of some images.

    Attributes:
        gradients: (i,) evaluations so far for each image.
        model: the model, whose padding and batch size are used.
    """

    def __init__(self, metric: Metric, x: Float[Tensor, "i *image"], model: CountedModel):
        self.metric, self.x, self.model = metric, x, model
        self.gradients = torch.zeros(len(x), dtype=torch.long, device=x.device)
        self.phi = None
        if isinstance(metric, Embedding) and own_gradient(metric) is None:
            with torch.no_grad():
                parts = model.parts(len(x), x.device)
                self.phi = torch.cat([metric.embed(model.fill(x[p]))[: p.stop - p.start] for p in parts])

    def __call__(self, z: Float[Tensor, "r n"], index: Int[Tensor, " r"]) -> tuple[Tensor, Tensor]:
        """d (r,) and its gradient (r, n) at z, for the images x[index]."""
        self.gradients.index_add_(0, index, torch.ones_like(index))
        parts = []
        for part in self.model.parts(len(z), z.device):
            rows = self.model.fill(index[part])
            at = self.model.fill(z[part]).view(-1, *self.x.shape[1:])
            d, grad = self._gradient(at, rows)
            size = part.stop - part.start
            parts.append((d[:size], grad[:size].flatten(1)))
        return parts[0] if len(parts) == 1 else (torch.cat([t[0] for t in parts]), torch.cat([t[1] for t in parts]))

    def _gradient(self, z: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        if self.phi is None:
            return gradient(self.metric, self.x[index], z)
        assert isinstance(self.metric, Embedding)
        with torch.enable_grad():
            z = z.detach().requires_grad_(True)
            r = self.metric.embed(z) - self.phi[index]
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
        once, twice = (self(x + s * inwards, every)[0] for s in (1, 2))
        self.gradients.zero_()
        return twice > 2**1.5 * once
