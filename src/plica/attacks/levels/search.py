"""Runs an attack, and the search on the grid that suits it."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from plica.attacks.base import Attack, AttackInput, AttackOutput
from plica.attacks.levels.descent import Descent
from plica.attacks.levels.rounding import Rounding
from plica.attacks.levels.settings import INSIDE, ROUNDING, SETTINGS
from plica.core.domain.levels import LevelGrid
from plica.core.judging.best import BestPoints
from plica.core.status import Status
from plica.metrics import LpForm, counts, lp_form


def on_levels(attack: Attack, task: AttackInput, grid: LevelGrid) -> tuple[AttackInput, AttackOutput]:
    """Run the attack and search the grid. Returns the task with the best points of the grid, and the attack's output.

    grid: of the images of the task; its step is the same for all pixels.
    """
    form = lp_form(task.question.metric)
    # a metric that counts pixels would count those that rounding changes
    runs_on_grid = task.x[0].numel() <= SETTINGS.dimensions or counts(task.question.metric) is not None
    model = task.model.with_grid(grid)
    # if the attack runs on the grid, all points are grid points, and progress reports these
    best = task.best if runs_on_grid else BestPoints(task.question.metric, task.x, task.goal, task.radius)
    best.model = model
    on_grid = replace(task, model=model, best=best)
    attack_radius = _attack_radius(task.radius, form, grid)
    batches = torch.arange(len(task.x), device=task.x.device).split(task.batch_size)
    reserved = task.gradients // SETTINGS.reserved
    if runs_on_grid:
        if form is None or task.radius is not None:
            return on_grid, attack(replace(on_grid, radius=attack_radius))
        output = attack(replace(on_grid, gradients=task.gradients - reserved))
        for images in batches:
            Descent(on_grid, images[best.distance[images].isfinite()], grid, form).run()
        return on_grid, output
    enough = _radius_before_rounding(attack_radius, task.x[0].numel(), form, grid)
    gradients = task.gradients - min(reserved, SETTINGS.most_reserved)
    if task.radius is None:
        anywhere = torch.full_like(task.best.distance, math.inf)
        task.best.also = BestPoints(task.question.metric, task.x, task.goal, anywhere)
    output = attack(replace(task, radius=attack_radius, gradients=gradients, enough=enough, reserved=task.reserved + 1))
    found = task.best.distance.isfinite()
    for images in batches:
        Rounding(on_grid, task.best, images[task.best.distance[images].isfinite()], grid, form).run()
    lost = (found & best.distance.isinf()).tolist()
    status = [Status.OFF_GRID if none else old for none, old in zip(lost, output.status, strict=True)]
    return on_grid, replace(output, status=status)


def _attack_radius(
    radius: Float[Tensor, " b"] | None, form: LpForm | None, grid: LevelGrid
) -> Float[Tensor, " b"] | None:
    """The radius for the attack: slightly larger, because attacks use slightly less than their radius. For l_inf and
    images on the grid, it is first rounded down to a whole number of levels, like all distances there."""
    if radius is None:
        return None
    step = grid.step.double()
    if form is not None and form.p == math.inf and form.weights is None and bool((grid.level >= 0).all()):
        radius = ((radius - grid.rounding) / step + ROUNDING).floor() * step  # api/entry.py has added it
    return radius * (1 + INSIDE)


def _radius_before_rounding(
    radius: Float[Tensor, " b"] | None, n: int, form: LpForm | None, grid: LevelGrid
) -> Float[Tensor, " b"] | None:
    """The radius minus the increase of the distance that rounding is expected to cause: for p > 1 every pixel is
    rounded, which adds n E|r|^p with r uniform between -1/2 and 1/2 level; for p <= 1 few pixels change: two levels."""
    if radius is None or form is None or form.weights is not None or form.p == math.inf:
        return None
    step = float(grid.step)
    if form.p <= 1:
        return (radius - 2 * step).clamp(min=0)
    added = n * (step / 2) ** form.p / (form.p + 1)
    return (radius**form.p - added).clamp(min=0) ** (1 / form.p)
