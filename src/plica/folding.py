"""How PWCF puts a question to the solver: few constraints, smooth where it can be, all in one unit (section 3 of the paper).

Three ways to write the perturbation, each with its distance:

    Plain    unknowns x'; the distance as it is, times n^(1/2 - 1/p) for l_p
    Powered  l_p with p < 2: unknowns a, x' = x + a |a|^(2/p - 1); then ||x' - x||_p = ||a||_2^(2/p), without a kink
    Folded   l_inf: unknowns (x', t), t minimised subject to || max(|x' - x| - t, 0) ||_2 <= 0 (Eq. 9, 11, 12)

The box is not a constraint: the model sees x' clamped into it, with the gradient passed straight through (section 3.1.1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from plica import metrics
from plica.metrics import Lp, Metric

Term = tuple[Tensor, Tensor]  # value (r,), gradient with respect to the unknowns (r, k)


class Posing(Protocol):
    """One way to write a perturbation of flattened images x (r, n) as unknowns u (r, k)."""

    def start(self, x: Tensor, z: Tensor) -> Tensor:
        """Unknowns at the image z."""
        ...

    def image(self, u: Tensor, x: Tensor) -> Tensor:
        """x' (r, n), which may leave the box."""
        ...

    def pull(self, u: Tensor, grad: Tensor) -> Tensor:
        """The gradient with respect to u of a function whose gradient at x' is `grad`."""
        ...

    def size(self, u: Tensor, x: Tensor) -> Term:
        """The objective of MinRadius: the distance, in the solver's units."""
        ...

    def tie(self, u: Tensor, x: Tensor) -> Term | None:
        """A constraint <= 0 that ties the size to the image, if there is one."""
        ...

    def excess(self, u: Tensor, x: Tensor, radius: Float[Tensor, " r"]) -> Term:
        """The constraint <= 0 of MaxLoss: by how much x' is too far, in the solver's units."""
        ...


@dataclass(frozen=True)
class Plain:
    """Unknowns are the pixels of x'; any metric."""

    metric: Metric
    shape: tuple[int, ...]

    def start(self, x: Tensor, z: Tensor) -> Tensor:
        return z.clone()

    def image(self, u: Tensor, x: Tensor) -> Tensor:
        return u

    def pull(self, u: Tensor, grad: Tensor) -> Tensor:
        return grad

    def size(self, u: Tensor, x: Tensor) -> Term:
        value, grad = metrics.gradient(self.metric, x.view(-1, *self.shape), u.view(-1, *self.shape))
        scale = self._scale()
        return value * scale, grad.flatten(1) * scale

    def tie(self, u: Tensor, x: Tensor) -> None:
        return None

    def excess(self, u: Tensor, x: Tensor, radius: Tensor) -> Term:
        value, grad = self.size(u, x)
        return value - radius * self._scale(), grad

    def _scale(self) -> float:
        return self.metric.scale(math.prod(self.shape)) if isinstance(self.metric, Lp) else 1.0


@dataclass(frozen=True)
class Powered:
    """Unknowns are signed roots of the perturbation: delta = a |a|^(2/p - 1), for l_p with p < 2."""

    p: float
    floor: float = 1e-2  # |a| at the start: where a = 0 the gradient vanishes and an entry could never move

    def start(self, x: Tensor, z: Tensor) -> Tensor:
        delta = z - x
        return delta.sign() * (delta.abs() ** (self.p / 2)).clamp(min=self.floor)

    def image(self, u: Tensor, x: Tensor) -> Tensor:
        return x + u * u.abs() ** (2 / self.p - 1)

    def pull(self, u: Tensor, grad: Tensor) -> Tensor:
        return grad * (2 / self.p) * u.abs() ** (2 / self.p - 1)

    def size(self, u: Tensor, x: Tensor) -> Term:
        return Lp(2).gradient(torch.zeros_like(u), u)

    def tie(self, u: Tensor, x: Tensor) -> None:
        return None

    def excess(self, u: Tensor, x: Tensor, radius: Tensor) -> Term:
        value, grad = self.size(u, x)
        return value - radius ** (self.p / 2), grad


@dataclass(frozen=True)
class Folded:
    """Unknowns (x', t) for l_inf, t in units of sqrt(n) so that it weighs as much as the pixels together."""

    def start(self, x: Tensor, z: Tensor) -> Tensor:
        return torch.cat([z, (z - x).abs().amax(1, keepdim=True) * x.shape[1] ** 0.5], 1)

    def image(self, u: Tensor, x: Tensor) -> Tensor:
        return u[:, : x.shape[1]]

    def pull(self, u: Tensor, grad: Tensor) -> Tensor:
        return torch.cat([grad, grad.new_zeros(len(grad), 1)], 1)

    def size(self, u: Tensor, x: Tensor) -> Term:
        grad = torch.zeros_like(u)
        grad[:, -1] = 1
        return u[:, -1].clone(), grad

    def tie(self, u: Tensor, x: Tensor) -> Term:
        root = x.shape[1] ** 0.5
        value, grad = _fold(u[:, :-1] - x, u[:, -1] / root)
        return value, torch.cat([grad, -grad.abs().sum(1, keepdim=True) / root], 1)

    def excess(self, u: Tensor, x: Tensor, radius: Tensor) -> Term:
        value, grad = _fold(self.image(u, x) - x, radius)
        return value, self.pull(u, grad)


def _fold(delta: Tensor, radius: Tensor) -> Term:
    """|| max(|delta| - radius, 0) ||_2 and its gradient with respect to delta (Eq. 9 folded by Eq. 11)."""
    over = (delta.abs() - radius[:, None]).clamp(min=0)
    value = torch.linalg.vector_norm(over, dim=1)
    return value, over.mul_(delta.sign()).div_(value.clamp(min=torch.finfo(value.dtype).tiny)[:, None])


def pose(metric: Metric, shape: tuple[int, ...]) -> Posing:
    """The way that suits the metric."""
    if isinstance(metric, Lp) and metric.p == math.inf:
        return Folded()
    if isinstance(metric, Lp) and metric.p < 2:
        return Powered(metric.p)
    return Plain(metric, shape)
