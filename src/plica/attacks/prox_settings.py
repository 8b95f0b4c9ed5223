"""What the proximal solver needs of a metric: its proximal map, its weights, and the settings tuned for it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from plica.metrics import Metric, Unsupported, lp_form, properties
from plica.solver.linearized.prox import Kind, LpProx, Work, clip
from plica.solver.linearized.proximal_sqp import ProximalSQP


@dataclass(frozen=True)
class ProxSettings:
    """The solver's unknowns are u = scale (z - x), in which a weighted norm is the plain one; pixels with infinite
    scale do not change.

    Attributes:
        race: the solver for rows that start at the image.
        explore: the solver for rows that start far beyond the boundary.
        explore_eta: the first trust region of `explore`, over the present radius.
        bounds: the smallest and the largest value of a pixel.
        overshoot: the weights of the aim (1 at the start) with which the race goes far beyond the boundary, in its
            first and second overshoot phase; None for no such phase.
        scale: units of u per unit of a pixel; None for 1.
        slow: the solver of a slow return (radius/schedule.py); None for none.
        sparse: whether optimal perturbations change few pixels, so that the race also starts from other pixels.
    """

    race: ProximalSQP
    explore: ProximalSQP
    explore_eta: float
    bounds: tuple[float, float]
    overshoot: tuple[float | None, float | None] = (4.0, 16.0)
    scale: Float[Tensor, " n"] | None = None
    sparse: bool = False
    slow: ProximalSQP | None = None

    @property
    def aimed(self) -> ProxSettings:
        """The settings for a search with a single target class, which may be far away: if its first steps fall short of
        the boundary, the aim is raised slowly. Trebled at each step, it skipped the nearest part of the boundary
        (docs/design/radius.md)."""
        race, explore = replace(self.race, raise_aim=1.2, raise_after=4), replace(self.explore, raise_aim=1.2)
        return replace(self, race=race, explore=explore)

    @property
    def small_steps(self) -> ProximalSQP:
        """The solver where wrong regions are thin, so that what lies beyond the boundary is no wrong answer again: the
        plane is of few gradients, and more iterations find the multiplier."""
        return replace(
            self.race, far=0.0, raise_aim=1.0, average=0.5, average_most=0.5, decay=0.97, trials=4, trials_first=8
        )

    def scaled(self, delta: Float[Tensor, "r n"]) -> Float[Tensor, "r n"]:
        return delta if self.scale is None else torch.where(self.scale.isinf(), 0, delta * self.scale)

    def point(self, x: Float[Tensor, "r n"], u: Float[Tensor, "*m r n"], out: Float[Tensor, "*m r n"]) -> None:
        """Write the images at u into out."""
        torch.add(x, u if self.scale is None else u / self.scale, out=out).clamp_(*self.bounds)

    def pull(self, grad: Float[Tensor, "r n"]) -> Float[Tensor, "r n"]:
        """A gradient with respect to u, from one with respect to the image."""
        return grad if self.scale is None else grad / self.scale

    def box(self, x: Float[Tensor, "r n"]) -> tuple[Tensor, Tensor]:
        """The least and greatest u."""
        return self.scaled(self.bounds[0] - x), self.scaled(self.bounds[1] - x)


def has_prox(metric: Metric) -> bool:
    """l_p norms, plain, weighted or times a number, and a user's metrics d(x, z) = norm(z - x) that have methods
    `norm(u)` and `prox(u, eta)`."""
    return properties(metric).prox


def prox_settings(metric: Metric, x: Float[Tensor, "b *image"], bounds: tuple[float, float]) -> ProxSettings:
    """The settings for a metric and these images. Raises Unsupported for a metric without a prox."""
    if not has_prox(metric):
        raise Unsupported(
            f"The radius attack keeps the distance whole and needs its prox; {metric} has none. Use method='pwcf', or "
            "give the metric the methods norm(u) -> (r,) and prox(u, eta) -> (r, n), with u (r, n) and eta (r,)."
        )
    form = lp_form(metric)
    if form is None:
        return ProxSettings(ProximalSQP(_UserProx(metric)), ProximalSQP(_UserProx(metric)), 0.5, bounds)
    scale = None if form.weights is None else form.weights.to(x).expand(x.shape[1:]).flatten()
    return replace(_settings(form.p, bounds), scale=scale)


def _settings(p: float, bounds: tuple[float, float]) -> ProxSettings:
    """Tuned on 150 CIFAR images and three networks; see docs/design/radius.md."""
    prox = LpProx(p)
    if p == 2:
        race = ProximalSQP(prox, eta=3.0, grow=1.1, shrink=0.8, trials=1, trials_first=2)
        # heavy-ball steps end in better minima than averaged ones, but need more gradients
        plain = replace(race, average=0.0, average_most=0.0, inertia=0.5)
        explore = replace(plain, grow=1.3, shrink=0.6, decay=1.0, decay_aim=0.75)
        slow = replace(plain, decay=1.0, decay_aim=0.89)
        return ProxSettings(race, explore, 1.0, bounds, (8.0, 16.0), slow=slow)
    if p == math.inf:
        race = ProximalSQP(prox, eta=1.0, near=0.0, far=0.2, trials=2, trials_first=6)
        slow = replace(race, average=0.3, average_most=0.3, decay=0.97, decay_aim=0.89, trials=4)
        return ProxSettings(race, race, 1.0, bounds, (None, 16.0), slow=slow)
    if p <= 1:
        race = ProximalSQP(prox, eta=0.15, grow=1.3, shrink=0.6, decay=0.95, decay_aim=0.7, far=0.2)
        sparse = p == 1
        race = replace(race, average=0.5 if sparse else 0.6, average_most=0.5 if sparse else 0.6)
        return ProxSettings(race, race, 0.06, bounds, (None, 8.0), sparse=sparse)
    race = ProximalSQP(prox)
    return ProxSettings(race, race, 0.5, bounds)


class _UserProx:
    """A user's metric in place of LpProx."""

    kind: Kind = "general"
    remembers_norm = False

    def __init__(self, metric):
        self.metric = metric

    def norm(self, u: Tensor, work: Tensor) -> Tensor:
        return self.metric.norm(u)

    def dual(self, grad: Tensor) -> Tensor:
        """|g|^2 / ||g||: the norm's own dual where the metric offers none, up to a constant."""
        if hasattr(self.metric, "dual"):
            return self.metric.dual(grad)
        return grad.square().sum(1) / self.metric.norm(grad).clamp(min=1e-30)

    def natural(self, n: int) -> float:
        return 1.0

    def apply(self, w: Tensor, eta: Tensor, level: Tensor, low: Tensor, high: Tensor, work: Work) -> None:
        w.copy_(self.metric.prox(w, eta))
        clip(w, low, high)
