"""Grid search for perturbations with few parameters (Engstrom et al. 2019), with forward runs only."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from plica.attacks.base import AttackInput, AttackOutput, treats_perturbations, unmeasured
from plica.attacks.boundary_search import boundary_search
from plica.metrics import Unsupported
from plica.perturbations.base import apply


@dataclass(frozen=True)
class GridSettings:
    """How the budget is spent.

    Attributes:
        forwards: forward runs per gradient of the budget; a gradient costs about as much.
        boundary_forwards: those of them that, at the end, move the best point towards the boundary.
    """

    forwards: int = 3
    boundary_forwards: int = 6


SETTINGS = GridSettings()


@treats_perturbations
def grid(task: AttackInput) -> AttackOutput:
    """Try every theta of the grid on every image; the grid has about three nodes for each gradient of the budget.

    Raises Unsupported for a perturbation without a grid.
    """
    through = task.question.through
    if through is None or not hasattr(through, "grid"):
        raise Unsupported(
            "grid tries all values of a few unknowns, those of plica.RotateTranslate() or plica.HueSaturation();"
            f' {"x + delta" if through is None else type(through).__name__} has none. Use "auto".'
        )
    nodes = through.grid(max(1, SETTINGS.forwards * task.gradients - SETTINGS.boundary_forwards))  # type: ignore[attr-defined]
    every = torch.arange(len(task.x), device=task.x.device)
    for images in every.split(max(1, task.batch_size)):
        for node in nodes.to(task.x):
            theta = node.expand(len(images), -1)
            z = apply(through, task.x[images], theta, task.bounds)
            task.best.offer(z, images, task.model.logits(z, images), theta=theta)
        boundary_search(task, images, SETTINGS.boundary_forwards)
        task.progress(int(images[-1]) + 1)
    return unmeasured(task)
