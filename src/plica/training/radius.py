"""Eq. (4) with a few gradients per image: min d(x, x') s.t. the margin over all wrong classes is >= 0, in the box.

There is one search for each correctly classified image, which aims at the nearest class, and no judge. An attack spends
its first gradients on several target classes; training has too few gradients for that. The solvers are those of the
attacks: proximal SQP if the distance has a prox, curved SQP for every other distance and for the unknowns theta of a
perturbation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor

from plica.attacks.perceptual import Ball
from plica.attacks.prox_settings import has_prox, prox_settings
from plica.metrics import Lp, Metric, WeightedLp, lp_form
from plica.solver.linearized.curved_sqp import CurvedSQP
from plica.solver.linearized.descent import Averaged, QuasiNewton
from plica.solver.linearized.proximal_sqp import ProximalSQP
from plica.training.problem import Answer, Batch, finite_rows, put_fine


@dataclass(frozen=True)
class FewSteps:
    """Settings of proximal SQP for few gradients; measured in docs/design/training.md.

    Attributes:
        eta: factor of the first trust region, which has no time to grow.
        last: how far beyond the boundary the last step aims, in units of |m| at the image, so that it ends beyond the
            boundary: this with four gradients, (4 / n)^2.5 times as far with n.
        last_linf: the same for l_inf.
        last_sparse: the same for p <= 1. The margin at the last point is added, in full for up to five steps: where
            linear models are poor this point is far from the boundary, and the aim is set farther.
        sparse: other settings for p <= 1, where planes are averaged less and the aim decreases faster.
        trials_first: of the first subproblem for l_inf; more trials find no nearer points.
    """

    eta: float = 3.0
    last: float = 0.05
    last_linf: float = 0.1
    last_sparse: float = 0.3
    sparse: Mapping[str, float] = field(
        default_factory=lambda: dict(average=0.4, average_most=0.4, near=0.0, decay_aim=0.5, trials_first=5)
    )
    trials_first: int = 3

    def solvers(self, race: ProximalSQP, gradients: int) -> tuple[ProximalSQP, ProximalSQP]:
        """The solver for all steps but the last, and the solver for the last."""
        p, fewer = getattr(race.prox, "p", 2.0), (4 / gradients) ** 2.5
        last = fewer * (self.last_sparse if p <= 1 else self.last_linf if p == math.inf else self.last)
        if p <= 1:
            race = replace(race, **self.sparse, floor=min(race.floor, last))
            return race, replace(race, floor=last, near=min(1.0, 2 * fewer), far=0.0)
        race = replace(race, eta=self.eta * race.eta, floor=min(race.floor, last))
        if p == math.inf:
            race = replace(race, trials_first=self.trials_first)
        return race, replace(race, floor=last)


FEW = FewSteps()


@dataclass(frozen=True)
class CurvedSettings:
    """Settings for distances without a prox.

    Attributes:
        descent: the way in which the distance is lowered (solver/linearized/descent.py).
        steps: gradients of the distance for each gradient of the network.
    """

    descent: type[Averaged | QuasiNewton] = Averaged
    steps: int = 16


SETTINGS = CurvedSettings()


@dataclass(frozen=True)
class Point:
    """The end points z of a search, in its unknowns, and the solver's numbers there (see Answer)."""

    z: Float[Tensor, "r *point"]
    distance: Float[Tensor, " r"]
    radius: Float[Tensor, " r"]
    multiplier: Float[Tensor, " r"]


@dataclass(frozen=True)
class First:
    """The margin at the images and its gradient with respect to them: the first gradient of every search."""

    margin: Float[Tensor, " r"]
    grad: Float[Tensor, "r *image"]

    def rows(self, index: Tensor) -> First:
        return First(self.margin[index], self.grad[index])


def first_gradient(batch: Batch) -> First:
    margin, _, grad = batch.network.gradient(batch.x, batch.margin)
    return First(margin, grad)


@torch.no_grad()
def min_radius(batch: Batch, first: First) -> Answer:
    """The points at the boundary, moved towards the image to distance `batch.radius` if they lie beyond it;
    misclassified images are not changed."""
    correct = first.margin < 0
    sought = correct & finite_rows(first.grad)
    rows = sought.nonzero()[:, 0]
    zero = torch.zeros_like(first.margin)
    answer = Answer(
        x_adv=batch.x,
        distance=zero,
        radius=torch.where(sought | (first.margin >= 0), 0, torch.nan).to(zero),
        multiplier=zero,
        correct=correct,
        gradients=torch.where(sought, batch.gradients, 1),
    )
    if not len(rows):
        return replace(answer, x_adv=batch.x.clone())  # for the caller to write to
    part = batch
    if len(rows) < len(batch):
        part, first = batch.rows(rows), first.rows(rows)
    normed = batch.question.through is None and has_prox(batch.question.metric)
    point = (_by_prox if normed else _by_curvature)(part, first)
    image = part.unknowns.image(point.z)
    fine = finite_rows(image) & point.radius.isfinite() & point.multiplier.isfinite()
    return replace(
        answer,
        x_adv=put_fine(batch.x, rows, image, fine),
        distance=put_fine(zero, rows, point.distance, fine),
        radius=answer.radius.index_put((rows,), torch.where(fine, point.radius, torch.nan)),
        multiplier=put_fine(zero, rows, point.multiplier, fine),
    )


def convex_metric(metric: Metric) -> Metric:
    """The l_1 norm in place of an l_p with p < 1, whose prox would change no pixel in the first few steps; any other
    metric unchanged."""
    form = lp_form(metric)
    if form is None or form.p >= 1:
        return metric
    return Lp(1) if form.weights is None else WeightedLp(1, form.weights)


def _by_prox(batch: Batch, first: First) -> Point:
    metric, convex = batch.question.metric, convex_metric(batch.question.metric)
    settings = prox_settings(convex, batch.x, batch.bounds)
    x, (solver, last) = batch.x.flatten(1), FEW.solvers(settings.race, batch.gradients)
    low, high = settings.box(x)
    state = solver.start(low, high, torch.zeros_like(x))
    z, margin, grad = torch.empty_like(x), first.margin, first.grad
    for step in range(batch.gradients):
        if step:
            settings.point(x, state.u, z)
            margin, _, grad = batch.network.gradient(z.view_as(batch.x), batch.margin)
        now = last if step == batch.gradients - 1 else solver
        if now is last and last.far == 0:
            state.aim.fill_(1.0)  # so that the margin counts whole
        now.step(state, margin, torch.zeros_like(margin), settings.pull(grad.flatten(1)))
    unit, image = 1.0, z.view_as(batch.x)
    if convex is not metric:  # l_p with p < 1: along a ray it grows in proportion to l_1
        settings.point(x, state.u, z)
        unit = metric(batch.x, image) / convex(batch.x, image)
    settings.point(x, state.u * (batch.radius / (state.size * unit)).clamp(max=1)[:, None], z)
    return Point(image, metric(batch.x, image), state.estimate * unit, state.lam * unit)


def _by_curvature(batch: Batch, first: First) -> Point:
    unknowns = batch.unknowns
    exponent = getattr(unknowns.metric, "exponent", 1)  # the root of a square is searched
    ball = Ball(unknowns.metric, unknowns.origin, batch.radius ** (1 / exponent), unknowns.bounds)
    origin, shape = unknowns.origin.flatten(1), unknowns.origin.shape

    def measure(z: Tensor) -> tuple[Tensor, Tensor]:
        root, grad, _ = ball.gradient(z.view(shape))
        return root, grad.flatten(1)

    solver = CurvedSQP(SETTINGS.descent(unknowns.bounds, steps=SETTINGS.steps))
    state = solver.start(origin.clone(), torch.zeros_like(first.margin, dtype=torch.bool))
    margin, grad = first.margin, first.grad
    for step in range(batch.gradients):
        z = state.z.view(shape)
        if step:
            margin, _, grad = batch.network.gradient(unknowns.image(z), batch.margin)
        solver.step(state, margin, torch.zeros_like(margin), unknowns.pull(z, grad).flatten(1), measure)
    z, distance, beyond = state.z.view(shape), state.size, state.size > ball.radius
    if bool(beyond.any()):
        z = torch.where(beyond.view(-1, *[1] * (z.ndim - 1)), ball.nearer(z), z)
        distance = torch.where(beyond, ball.distance(z), distance)
    estimate = torch.where(state.estimate.isfinite(), state.estimate, state.size)
    multiplier = state.lam * exponent * distance ** (exponent - 1)
    return Point(z, distance**exponent, estimate**exponent, multiplier)
