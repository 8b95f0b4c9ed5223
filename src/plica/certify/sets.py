"""Input sets: {x': ||w (x' - x)||_p <= r} for p = inf, 2 or 1, intersected with the box low <= x' <= high.

The minimum of a linear function over the set has a closed form for p = inf. For p = 2 and 1 it is bounded by the
Lagrangian of the ball over the box; every multiplier gives a lower bound:

    min_{u in box} <a, u> + m (||u||_2^2 - r^2) / 2,      min_{u in box} <a, u> + m (||u||_1 - r),     u = w (x' - x).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from plica.certify.masks import is_true
from plica.certify.windows import Coefficients, own, plain
from plica.metrics import Metric, Unsupported, fixed_pixels, lp_form

STEPS = 4  # of the fixed-point iteration for the multiplier of l_2
LARGEST = 128  # number of the largest entries among which the multiplier of l_1 is searched


@dataclass(frozen=True, eq=False)
class InputSet:
    """One set for each of b problems, in one dtype.

    Attributes:
        x: the centre.
        low, high: the box, already cut to the ball's extent.
        weights: w > 0, finite; features that must not move have low = high.
        radius: r.
        p: inf, 2 or 1.
    """

    x: Float[Tensor, "b *image"]
    low: Float[Tensor, "b *image"]
    high: Float[Tensor, "b *image"]
    weights: Float[Tensor, "b *image"]
    radius: Float[Tensor, " b"]
    p: float

    def take(self, rows: Int[Tensor, " r"] | slice) -> InputSet:
        return replace(self, **{f.name: getattr(self, f.name)[rows] for f in fields(self) if f.name != "p"})

    def minimum(
        self, a: Coefficients, rows: Int[Tensor, " r"] | None, sized: bool = True
    ) -> tuple[Float[Tensor, " r"], Float[Tensor, " r"]]:
        """A lower bound of <a, x'> over the set of problem rows[i] (of problem i if None), and the sum of the absolute
        values of its terms. The latter is only computed if `sized`."""
        x, low, high = (own(part, a, rows).flatten(1) for part in (self.x, self.low, self.high))
        w, radius = own(self.weights, a, rows, 1.0).flatten(1), own(self.radius, a, rows)
        a = plain(a).flatten(1)
        if self.p == math.inf:
            middle = (low + high) / 2
            half, size = torch.maximum(high - middle, middle - low), torch.maximum(low.abs(), high.abs())
            absolute = a.abs()
            if len(middle) == 1:  # products of matrices are faster than sums of products
                value = (a @ middle[0]) - absolute @ half[0]
                return value, (absolute @ size[0]).detach() if sized else torch.zeros_like(value)
            return (a * middle - absolute * half).sum(1), (absolute * size).sum(1).detach()
        below, above = (low - x) * w, (high - x) * w
        scaled = a / w
        bound = _minimum_l2 if self.p == 2 else _minimum_l1
        value, size = bound(scaled, below, above, radius)
        reach = torch.maximum(-below, above)
        size = size + (a.abs() * x.abs()).sum(1) + (scaled.abs() * reach).sum(1)
        return (a * x).sum(1) + value, size.detach()

    def minimiser(self, a: Float[Tensor, "r *image"], rows: Int[Tensor, " r"] | None) -> Float[Tensor, "r *image"]:
        """The point at which `minimum` is attained: its gradient in a (envelope theorem)."""
        with torch.enable_grad():
            a = a.detach().requires_grad_(True)
            (point,) = torch.autograd.grad(self.minimum(a, rows)[0].sum(), a)
        return point

    def span(self) -> Float[Tensor, " b"]:
        """The distance of the farthest corner of the box: a ball of this radius contains all of it."""
        reach = self.weights * torch.maximum(self.x - self.low, self.high - self.x)
        return torch.linalg.vector_norm(reach.flatten(1), self.p, dim=1) * (1 + 1e-9)


def _minimum_l2(a: Tensor, below: Tensor, above: Tensor, radius: Tensor) -> tuple[Tensor, Tensor]:
    """The best of a few multipliers; the first is that of the ball alone, ||a|| / r. (r,)"""
    tiny, square = torch.finfo(a.dtype).tiny, radius**2
    with torch.no_grad():
        m = a.norm(dim=1) / torch.where(radius > 0, radius, 1)
        best, best_m = torch.full_like(radius, -torch.inf), m
        for _ in range(STEPS):
            m = m.clamp(min=tiny)
            vertex = a * (-1 / m[:, None])
            u = vertex.clamp(below, above)
            moved = u.square()
            used = moved.sum(1)
            value = (a * u).sum(1) + m / 2 * (used - square)
            better = value > best
            best, best_m = torch.where(better, value, best), torch.where(better, m, best_m)
            # those inside of the box share the square of the radius that the others leave
            free = moved.mul_(is_true(torch.eq, u, vertex)).sum(1)
            room = torch.maximum(square - (used - free), 1e-12 * square).clamp(min=tiny)
            m = m * (free / room).sqrt()
        m = best_m.clamp(min=tiny)
        u = (a * (-1 / m[:, None])).clamp(below, above)
        used = u.square().sum(1)
    # with the minimising u fixed the gradient in a is u (envelope theorem)
    return (a * u).sum(1) + m / 2 * (used - square), m / 2 * (used + square)


def _minimum_l1(a: Tensor, below: Tensor, above: Tensor, radius: Tensor) -> tuple[Tensor, Tensor]:
    """Uses the multiplier at which the entries with the largest |a_i|, each moved as far as the box allows, use up the
    radius. (r,)"""
    with torch.no_grad():
        reach = torch.where(a > 0, -below, above)
        usable = torch.where(reach > 0, a.abs(), 0)
        largest, order = usable.topk(min(LARGEST, a.shape[1]), dim=1)
        spent = reach.gather(1, order).cumsum(1)
        enough = spent >= radius[:, None]
        first = torch.where(enough.any(1), enough.int().argmax(1), largest.shape[1] - 1)
        m = largest.gather(1, first[:, None])
        m = torch.where((~enough.any(1) & (largest.shape[1] == a.shape[1]))[:, None], 0, m)
        u = torch.where(usable > m, -a.sign() * reach, 0)
        spent = u.abs().sum(1)
        value = (a * u).sum(1) + m[:, 0] * (spent - radius)
        # u is the minimiser for this multiplier; that of the set also moves the entry at the multiplier by what is left
        entry = order.gather(1, first[:, None])
        rest = (radius - spent).clamp(min=0)[:, None].minimum(reach.gather(1, entry))
        point = u.scatter(1, entry, u.gather(1, entry) - torch.where(m > 0, a.gather(1, entry).sign() * rest, 0))
    # the gradient in a is the point (envelope theorem)
    along = (a * point).sum(1)
    return value + (along - along.detach()), m[:, 0] * (spent + radius)


def check_metric(metric: Metric) -> None:
    """Raises Unsupported unless the metric is an l_inf, l_2 or l_1 norm, with weights or held pixels or without."""
    form = lp_form(metric)
    if form is not None and form.p in (math.inf, 2, 1):
        return
    known = "Lower bounds are known for linf, l2 and l1, with weights or held pixels, not for"
    if form is None:
        raise Unsupported(f"{known} {_named(metric)}; ask plica.attack alone, for upper bounds of the radii.")
    less = "linf" if form.p > 2 else "l2" if form.p > 1 else "l1"
    weights = "" if form.weights is None else " with the same weights"
    raise Unsupported(
        f"{known} {metric}; ask for {less}{weights}, under which no distance is larger: its bounds hold here, too."
    )


def _named(metric: Any) -> str:
    name = getattr(metric, "__name__", None)
    if name is not None:
        return "a function of your own" if name == "<lambda>" else f"the function {name}"
    says = type(metric).__str__ is not object.__str__ or type(metric).__repr__ is not object.__repr__
    return str(metric) if says else f"the distance {type(metric).__name__}"


def input_set(
    metric: Metric, x: Float[Tensor, "b *image"], radius: Float[Tensor, " b"], low: Tensor, high: Tensor
) -> InputSet:
    """The set of each image, in the dtype of x; the box is moved outward by a rounding where it is cut.

    Args:
        low, high: of an image's shape, or one that expands to it.
    """
    form = lp_form(metric)
    assert form is not None
    weights = torch.ones_like(x) if form.weights is None else form.weights.to(x).expand_as(x)
    fixed = weights.isinf()
    held = fixed_pixels(metric, x)
    if held is not None:
        fixed = fixed | held
    weights = torch.where(fixed, 1, weights)
    extent = radius.to(x).view(-1, *[1] * (x.ndim - 1)) / weights * (1 + 4 * torch.finfo(x.dtype).eps)
    least, most = x - extent, x + extent
    infinity = torch.full_like(x, torch.inf)
    least, most = torch.nextafter(least, -infinity), torch.nextafter(most, infinity)
    least = torch.where(fixed, x, torch.maximum(least, low.to(x).expand_as(x)))
    most = torch.where(fixed, x, torch.minimum(most, high.to(x).expand_as(x)))
    return InputSet(x, least, most, weights.clone(), radius.to(x), form.p)
