"""How PWCF writes a question for the solver: few constraints, smooth where possible, all in one unit (section 3 of the
paper).

Three parametrizations of the perturbation, each with its distance:

    Plain    unknowns x'; the distance unchanged, except for a factor n^(1/2 - 1/p) for l_p
    Powered  l_p with p < 2: unknowns a, x' = x + a |a|^(2/p - 1); then ||x' - x||_p = ||a||_2^(2/p), without a kink
    Sine     l_inf: unknowns (a, t), x' = x + t sin a, and t is minimised as in Eq. 12; |x' - x| <= t always holds

The box is not a constraint: the model sees x' clamped into it (section 3.1.1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from plica import metrics
from plica.metrics import Lp, Metric, plain_p, power
from plica.solver.rows import WHOLE, aligned, dot

Term = tuple[Tensor, Tensor]  # value (r,), gradient with respect to the unknowns (r, k)


@runtime_checkable
class Parametrization(Protocol):
    """A parametrization of perturbations of flattened images x (r, n) by unknowns u (r, k)."""

    def start(self, x: Tensor, z: Tensor) -> Tensor:
        """The unknowns of the image z."""
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

    def excess(self, u: Tensor, x: Tensor, radius: Float[Tensor, " r"]) -> Term | None:
        """The constraint of MaxLoss, <= 0: by how much x' exceeds the radius, in the solver's units; None if it cannot
        exceed it."""
        ...


def within(bounds: tuple[float, float], u: Float[Tensor, "r n"], grad: Float[Tensor, "r n"]) -> Float[Tensor, "r n"]:
    """The gradient of a function of u clamped into the bounds: 0 where u lies outside, `grad` elsewhere; the bounds
    themselves count as inside."""
    walls, outward = torch.tensor([bounds, (-math.inf, math.inf)], dtype=u.dtype, device="cpu")
    low, high = torch.nextafter(walls, outward).tolist()
    # one pass, where a mask and a product take eight times as long
    return torch.ops.aten.hardtanh_backward(grad, u, low, high)


@dataclass(frozen=True)
class Plain:
    """The unknowns are the pixels of x'; for any metric.

    Attributes:
        bounds: for metrics other than l_p, which may not be defined outside the box: x' is clamped for them. None for
            l_p.
        units: (r,) l_2 distance over the metric's distance where a row starts, as a scale for the metric; None for l_p,
            where the scale is known.
    """

    metric: Metric = field(metadata=WHOLE)
    shape: tuple[int, ...]
    bounds: tuple[float, float] | None = None
    units: Float[Tensor, " r"] | None = None

    def start(self, x: Tensor, z: Tensor) -> Tensor:
        return z.clone()

    def image(self, u: Tensor, x: Tensor) -> Tensor:
        return u

    def pull(self, u: Tensor, grad: Tensor) -> Tensor:
        return grad

    def size(self, u: Tensor, x: Tensor) -> Term:
        z = u if self.bounds is None else u.clamp(*self.bounds)
        value, grad = metrics.gradient(self.metric, x.view(-1, *self.shape), z.view(-1, *self.shape))
        grad, scale = grad.flatten(1), self._scale(value)
        if self.bounds is not None:
            grad = within(self.bounds, u, grad)
        return value * scale, grad if self._unscaled else grad * scale[:, None]

    def excess(self, u: Tensor, x: Tensor, radius: Tensor) -> Term:
        value, grad = self.size(u, x)
        return value - radius * self._scale(radius), grad

    @property
    def _unscaled(self) -> bool:
        return self.units is None and plain_p(self.metric) in (None, 2)

    def _scale(self, like: Tensor) -> Float[Tensor, " r"]:
        if self.units is not None:
            return self.units
        p = plain_p(self.metric)
        return torch.full_like(like, 1.0 if p is None else Lp(p).scale(math.prod(self.shape)))


@dataclass(frozen=True)
class Powered:
    """l_p with p < 2: the unknowns a are signed powers of the perturbation, delta = a |a|^(2/p - 1)."""

    p: float
    bounds: tuple[float, float]
    floor: float = 1e-2  # |a| at the start: where a = 0 the gradient vanishes and an entry could never move

    def start(self, x: Tensor, z: Tensor) -> Tensor:
        delta = z - x
        return delta.sign() * power(delta.abs(), self.p / 2).clamp(min=self.floor)

    def _clamped(self, u: Tensor, x: Tensor) -> Tensor:
        low, high = (bound - x for bound in self.bounds)
        return torch.clamp(u, -power((-low).clamp(min=0), self.p / 2), power(high.clamp(min=0), self.p / 2))

    def image(self, u: Tensor, x: Tensor) -> Tensor:
        return x + u * power(u.abs(), 2 / self.p - 1)

    def pull(self, u: Tensor, grad: Tensor) -> Tensor:
        return grad * (2 / self.p) * power(u.abs(), 2 / self.p - 1)

    def size(self, u: Tensor, x: Tensor) -> Term:
        # an entry outside the box does not change the image, so it must not change the size either
        inside = self._clamped(u, x)
        value, grad = Lp(2).gradient(torch.zeros_like(u), inside)
        return value, grad.masked_fill_(inside != u, 0)

    def excess(self, u: Tensor, x: Tensor, radius: Tensor) -> Term:
        value, grad = self.size(u, x)
        return value - power(radius, self.p / 2), grad


@dataclass(frozen=True)
class Sine:
    """l_inf: delta = t sin(a / sigma), unknowns (a, t sqrt(n)); |delta| <= t always holds, and t is the distance.

    Attributes:
        sigma: (r,) in pixel units, about the distance expected, so that a change of a by one unit changes a pixel by
            about one.
        radius: (r,) for MaxLoss, where t is the radius and no unknown; None for MinRadius.
    """

    sigma: Float[Tensor, " r"]
    radius: Float[Tensor, " r"] | None = None
    turn: float = 0.8  # largest sine at the start: near 1 its derivative vanishes, and an entry could hardly change

    def start(self, x: Tensor, z: Tensor) -> Tensor:
        delta = z - x
        top = delta.abs().amax(1, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny)
        a = (self.turn * delta / top).asin() * self.sigma[:, None]
        if self.radius is not None:
            return a
        return aligned(torch.cat([a, top / self.turn * x.shape[1] ** 0.5], 1))

    def _split(self, u: Tensor, n: int) -> tuple[Tensor, Tensor]:
        """The angles a / sigma (r, n) and t (r, 1)."""
        t = self.radius[:, None] if self.radius is not None else u[:, n, None] / n**0.5
        return u[:, :n] / self.sigma[:, None], t

    def image(self, u: Tensor, x: Tensor) -> Tensor:
        angle, t = self._split(u, x.shape[1])
        return torch.addcmul(x, t, angle.sin_())

    def pull(self, u: Tensor, grad: Tensor) -> Tensor:
        n = grad.shape[1]
        angle, t = self._split(u, n)
        of_t = dot(grad, angle.sin())
        of_a = angle.cos_().mul_(grad).mul_(t / self.sigma[:, None])
        if self.radius is not None:
            return of_a
        pulled = torch.zeros_like(u)
        pulled[:, :n], pulled[:, n] = of_a, of_t / n**0.5
        return pulled

    def size(self, u: Tensor, x: Tensor) -> Term:
        t, grad = u[:, x.shape[1]], torch.zeros_like(u)
        grad[:, x.shape[1]] = t.sign()
        return t.abs(), grad

    def excess(self, u: Tensor, x: Tensor, radius: Tensor) -> None:
        return None


def parametrize(
    metric: Metric,
    shape: tuple[int, ...],
    bounds: tuple[float, float],
    reach: Float[Tensor, "r n"],
    radius: Float[Tensor, " r"] | None,
) -> Parametrization:
    """The parametrization that suits the metric.

    Args:
        metric: the distance.
        shape: of an image.
        bounds: the smallest and the largest value of a pixel.
        reach: the first step of each row.
        radius: of each row for MaxLoss; None for MinRadius.
    """
    p = plain_p(metric)
    if p == math.inf:
        sigma = reach.abs().amax(1) if radius is None else radius
        return Sine(sigma.clamp(min=1e-8), radius)
    if p is not None and p < 2:
        return Powered(p, bounds)
    return Plain(metric, shape, bounds if p is None else None)
