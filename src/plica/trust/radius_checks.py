"""Do radii end at the boundary? Under a norm, a point that keeps its class when its perturbation is made smaller shows
by itself that a nearer one exists.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from plica.runs import Run, Task
from plica.trust.audit.reference import norm_of
from plica.trust.findings import Finding, Severity
from plica.trust.probe import OneLogit, logits_of

IMAGES = 64  # whose points are tried, with a forward run each for every question
SMALLER = 0.9  # factor of the perturbation
LUCKY, SHARE = 2, 0.1  # images, and share of the points, that may keep their class


def beyond_boundary(
    run: Run, name: str, model: Callable[[Tensor], Tensor], ids: Int64[Tensor, " b"], x: Float[Tensor, "b *image"]
) -> Iterator[Finding]:
    """A finding for each question about the model of that name whose points keep their class when their perturbation is
    a tenth smaller. ids, x: the first images of the run."""
    tasks = [task for task in run.tasks if task.model == name and _has_norm(task)]
    for question in dict.fromkeys(task.question for task in tasks):
        nearest = _nearest(run, [task for task in tasks if task.question == question])
        places = [k for k, number in enumerate(ids[:IMAGES].tolist()) if nearest.get(number, (0,))[0] > 0]
        if not places:
            continue
        points = torch.stack([nearest[number][2] for number in ids[places].tolist()]).to(x)
        logits = logits_of(model, x[places] + SMALLER * (points - x[places]))
        logits = logits if logits.ndim == 2 and logits.shape[1] > 1 else OneLogit(lambda z: z)(logits)
        kept = logits.argmax(1).cpu() == torch.tensor([nearest[number][1] for number in ids[places].tolist()])
        share = float(kept.double().mean())
        if kept.sum() > LUCKY and share > SHARE:
            yield Finding(
                "beyond the boundary",
                Severity.RESERVATION,
                f"{question}: on {share:.0%} of {len(places)} images the point found keeps its class when its "
                "perturbation is made a tenth smaller, so a nearer one exists: the methods end beyond the boundary; "
                "add the method auto.",
                share,
            )


def _has_norm(task: Task) -> bool:
    """Whether a point with a smaller perturbation is a valid and nearer one."""
    others = (task.through, task.levels, task.goal, task.draws)
    return task.kind == "min-radius" and (norm_of(task.metric) or 0) > 0 and not any(others)


def _nearest(run: Run, tasks: list[Task]) -> dict[int, tuple[float, int, Tensor]]:
    """Distance, class and pixels of the nearest point of each image of the first chunk, by id."""
    nearest: dict[int, tuple[float, int, Tensor]] = {}
    for task in tasks:
        ids, x_adv = next(run.points(task), ((), ()))
        points = {int(number): point for number, point in zip(ids, x_adv, strict=True)}
        for row in run.rows(task, ["id", "success", "distance", "prediction"]).to_pylist():
            number, distance = row["id"], row["distance"]
            if row["success"] and number in points and distance < nearest.get(number, (math.inf,))[0]:
                nearest[number] = distance, row["prediction"], points[number]
    return nearest
