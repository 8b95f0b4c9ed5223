"""Ways to train against a union of perturbations: how one of several questions is chosen for each image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from plica.attacks import pgd
from plica.attacks.prox_settings import has_prox, prox_settings
from plica.core.formulations import MaxLoss, MinRadius
from plica.core.losses import margin
from plica.metrics import Unsupported, plain_p
from plica.training.ascent import EXACT, norm_step
from plica.training.inner_question import InnerQuestion
from plica.training.problem import Answer, Batch
from plica.training.radius import First, convex_metric, first_gradient

EXPLORED = 0.2  # share of images whose question is drawn in place of the one of least estimate

Picked = tuple[Answer, Int[Tensor, " b"]]


def random(questions: Sequence[InnerQuestion], batches: Sequence[Batch]) -> Picked:
    """One random question for each batch (E-AT: Croce, Hein 2022), the same on every rank."""
    index = int(torch.randint(len(questions), (), generator=batches[0].shared, device="cpu"))
    answer = questions[index].solve(batches[index])
    return answer, torch.full_like(batches[0].y, index)


def estimate(questions: Sequence[InnerQuestion], batches: Sequence[Batch]) -> Picked:
    """For each image the question whose boundary is nearest by the linear model at the image, in caps or radii; for a
    fifth of the images, drawn at random, any."""
    first, batch = first_gradient(batches[0]), batches[0]
    reach = torch.stack([_reach(part, first) / part.radius for part in batches])
    picked = reach.nan_to_num(nan=torch.inf).argmin(0)
    drawn = torch.rand(len(batch), generator=batch.generator, dtype=torch.float32, device="cpu") < EXPLORED
    other = torch.randint(len(questions), (len(batch),), generator=batch.generator, device="cpu")
    picked = torch.where(drawn.to(picked.device), other.to(picked), picked)
    parts = []
    for index, (question, part) in enumerate(zip(questions, batches, strict=True)):
        rows = (picked == index).nonzero()[:, 0]
        if len(rows):
            parts.append((rows, question.solve(part.rows(rows), first.rows(rows))))
    order = torch.cat([rows for rows, _ in parts]).argsort()
    names = [f.name for f in fields(Answer)]
    joined = Answer(*(torch.cat([getattr(answer, name) for _, answer in parts])[order] for name in names))
    if isinstance(questions[0].question, MaxLoss):
        joined.gradients.add_(1)  # the gradient of the estimate, with which MinRadius begins
    return joined, picked


def worst(questions: Sequence[InnerQuestion], batches: Sequence[Batch]) -> Picked:
    """Every question is solved for every image; the one with the smallest radius in caps, or the largest cross-entropy
    at its point, counts."""
    first = first_gradient(batches[0]) if isinstance(questions[0].question, MinRadius) else None
    answers = [question.solve(batch, first) for question, batch in zip(questions, batches, strict=True)]
    if first is not None:
        score = -torch.stack([answer.radius / batch.radius for answer, batch in zip(answers, batches, strict=True)])
    else:
        score = torch.stack(
            [cross_entropy(batches[0].network.logits(a.x_adv), batches[0].y, reduction="none") for a in answers]
        )
    picked = score.nan_to_num(nan=-torch.inf).argmax(0)
    every = torch.arange(len(picked), device=picked.device)
    best = Answer(*(torch.stack([getattr(a, f.name) for a in answers])[picked, every] for f in fields(Answer)))
    best.gradients.copy_(torch.stack([answer.gradients for answer in answers]).sum(0))
    if first is not None:
        best.gradients.sub_(len(questions) - 1)  # the first is shared
    return best, picked


@torch.no_grad()
def msd(questions: Sequence[InnerQuestion], batches: Sequence[Batch]) -> Picked:
    """At each step, the norm whose step gives the largest loss (MSD: Maini, Wong, Kolter 2020)."""
    batch = batches[0]
    steps = [norm_step(part, pgd.SETTINGS.total_length / part.gradients * part.radius) for part in batches]
    correct = margin(batch.network.logits(batch.x), batch.y) < 0
    z, picked, every = batch.x, torch.zeros_like(batch.y), torch.arange(len(batch), device=batch.x.device)
    for _ in range(batch.gradients):
        grad = batch.network.gradient(z, batch.loss)[2]
        # a point in another ball is first projected into this one: the step's own projection does so
        ends = torch.stack([step(z, grad) for step in steps])
        picked = torch.stack([batch.loss(batch.network.logits(end)) for end in ends]).argmax(0)
        z = ends[picked, every]
    distance = torch.stack([part.question.metric(part.x, z) for part in batches])[picked, every]
    radius = torch.stack([part.radius for part in batches])[picked, every]
    unknown = torch.full_like(radius, torch.nan)
    return Answer(z, distance, radius, unknown, correct, torch.full_like(batch.y, batch.gradients)), picked


PICKS: dict[str, Callable[[Sequence[InnerQuestion], Sequence[Batch]], Picked]] = {
    "random": random,
    "estimate": estimate,
    "max": worst,
    "msd": msd,
}


def check(questions: Sequence[InnerQuestion], pick: str) -> None:
    """Raises ValueError or Unsupported if the questions cannot be compared in the way that `pick` names."""
    if pick == "random":
        return
    kinds = {type(one.question) for one in questions}
    if len(kinds) > 1:
        raise ValueError(
            f"pick={pick!r} compares questions of one kind; give MinRadius questions or MaxLoss questions only."
        )
    if kinds == {MinRadius} and any(one.cap is None for one in questions) and pick != "msd":
        raise ValueError(f"pick={pick!r} compares radii in units of their caps; give caps=[...], one each.")
    if pick == "estimate" and not all(_has_norm(one) for one in questions):
        raise Unsupported("pick='estimate' computes radii from the dual norm; use 'max' if a distance is not a norm.")
    exact = all(one.question.through is None and plain_p(one.question.metric) in EXACT for one in questions)
    if pick == "msd" and not (kinds == {MaxLoss} and exact):
        raise Unsupported("pick='msd' takes MaxLoss in l1, l2 and linf; for other questions use 'max' or 'random'.")


def _has_norm(question: InnerQuestion) -> bool:
    return question.question.through is None and has_prox(question.question.metric)


def _reach(batch: Batch, first: First) -> Float[Tensor, " b"]:
    """The distance from the image to the boundary of its linear model."""
    settings = prox_settings(convex_metric(batch.question.metric), batch.x, batch.bounds)
    return first.margin.abs() / settings.race.prox.dual(settings.pull(first.grad.flatten(1)))
