"""Eq. (1) with a few gradients per image: max loss s.t. d(x, x') <= radius, in the box; the inner problem of Eq. (2).

pgd        steps with a total length of 2.5 radii, each followed by the projection: exact onto l1, l2 and linf balls
           within the box, by scaling onto those of other norms (Madry et al. 2018)
fast-lpa   penalised ascent in any distance, and of theta; not projected, so that it may end outside, as in
           perceptual adversarial training (Laidlaw et al. 2021)
lpa        the same in rounds of growing multiplier, projected
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from plica.attacks import pgd
from plica.attacks.perceptual import LPA, PERCEPTUAL, Ball
from plica.attacks.projections import project
from plica.attacks.prox_settings import has_prox, prox_settings
from plica.attacks.radius.ascent import into_ball, steepest_step
from plica.core.losses import margin
from plica.metrics import Metric, Unsupported, plain_p
from plica.training.problem import Answer, Batch, finite_rows, put_fine

PENALISED = {a.name: a for a in PERCEPTUAL if isinstance(a, LPA) and a.name in ("lpa", "fast-lpa")}
METHODS = ("auto", "pgd", *PENALISED)
EXACT = (1, 2, math.inf)  # p of the balls that projections are exact for
Step = Callable[[Tensor, Tensor], Tensor]  # z and the gradient there -> the next z


def chosen(method: str, metric: Metric, through: object) -> str:
    """The method that "auto" stands for. Raises Unsupported for pgd in a distance without a norm's steps."""
    normed = through is None and has_prox(metric)
    if method == "pgd" and not normed:
        raise Unsupported(f"pgd steps in balls of norms, and {metric} is none of x + delta; use method='fast-lpa'.")
    return ("pgd" if normed else "fast-lpa") if method == "auto" else method


@torch.no_grad()
def max_loss(batch: Batch, method: str, starts: int = 1, skip_misclassified: bool = False) -> Answer:
    """The end of an ascent; if there are several starts, they share the gradients, and the end with the largest loss
    counts.

    skip_misclassified: images that are misclassified are not changed.
    """
    first = None
    if method == "pgd" and not skip_misclassified:
        _, logits, first = batch.network.gradient(batch.x, batch.loss)  # of the first step, which starts at the images
    else:
        logits = batch.network.logits(batch.x)
    correct = margin(logits, batch.y) < 0
    rows = correct.nonzero()[:, 0] if skip_misclassified else torch.arange(len(batch), device=batch.x.device)
    if not len(rows):
        return _answer(batch, correct, rows, batch.x[rows], batch.radius[rows], 0)
    part = batch.rows(rows) if skip_misclassified else batch
    each = batch.gradients // starts
    ends = [_pgd(part, each, n, first) if method == "pgd" else _lpa(part, method, each) for n in range(starts)]
    image, distance = ends[0]
    if starts > 1:
        losses = torch.stack([part.loss(batch.network.logits(end)) for end, _ in ends])
        best, every = losses.argmax(0), torch.arange(len(rows), device=rows.device)
        image = torch.stack([end for end, _ in ends])[best, every]
        distance = torch.stack([far for _, far in ends])[best, every]
    return _answer(batch, correct, rows, image, distance, each * starts)


def _answer(batch: Batch, correct: Tensor, rows: Tensor, image: Tensor, distance: Tensor, gradients: int) -> Answer:
    """With the end points of some rows; the others stay at their images."""
    zero, fine = torch.zeros_like(batch.radius), finite_rows(image)
    return Answer(
        x_adv=put_fine(batch.x, rows, image, fine),
        distance=put_fine(zero, rows, distance, fine),
        radius=batch.radius.index_fill(0, rows[~fine], torch.nan),
        multiplier=torch.full_like(zero, torch.nan),
        correct=correct,
        gradients=torch.zeros_like(batch.y).index_fill(0, rows, gradients),
    )


def norm_step(batch: Batch, length: Float[Tensor, " b"]) -> Step:
    """A steepest step of this length in the norm of the question, followed by the projection onto the ball."""
    metric, bounds, x = batch.question.metric, batch.bounds, batch.x
    p = plain_p(metric)
    if p in EXACT:

        def exact(z: Tensor, grad: Tensor) -> Tensor:
            step = pgd.steepest(grad.flatten(1), z.flatten(1), length, p, bounds)
            return project(z + step.view_as(z), x, batch.radius, p, bounds)

        return exact
    settings, flat = prox_settings(metric, x, bounds), x.flatten(1)
    low, high = settings.box(flat)
    work = torch.empty_like(flat)

    def scaled(z: Tensor, grad: Tensor) -> Tensor:
        u = settings.scaled(z.flatten(1) - flat)
        u = u + length[:, None] * steepest_step(settings, settings.pull(grad.flatten(1)), work)
        u = into_ball(settings, u, batch.radius[:, None], low, high, work)
        settings.point(flat, u, point := torch.empty_like(flat))
        return point.view_as(z)

    return scaled


def _pgd(batch: Batch, gradients: int, number: int, first: Tensor | None) -> tuple[Tensor, Tensor]:
    """An ascent from the image itself (`first` is the gradient there, if it is known), or for number >= 1 from a point
    of the ball in a random direction."""
    z = batch.x
    if number:
        z, first = norm_step(batch, batch.radius)(z, batch.noise(z)), None
    step = norm_step(batch, pgd.SETTINGS.total_length / gradients * batch.radius)
    for _ in range(gradients):
        z, first = step(z, batch.network.gradient(z, batch.loss)[2] if first is None else first), None
    return z, batch.question.metric(batch.x, z)


def _lpa(batch: Batch, method: str, gradients: int) -> tuple[Tensor, Tensor]:
    unknowns = batch.unknowns
    exponent = getattr(unknowns.metric, "exponent", 1)
    ball = Ball(unknowns.metric, unknowns.origin, batch.radius ** (1 / exponent), unknowns.bounds)

    def climb(z: Tensor) -> Tensor:
        return unknowns.pull(z, batch.network.gradient(unknowns.image(z), batch.loss)[2])

    z = PENALISED[method].search(ball, unknowns.beside(batch.noise(unknowns.origin)), gradients, climb)
    return unknowns.image(z), ball.distance(z) ** exponent
