"""Tries points found on one model of a run on its other models: those they break better were attacked too weakly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from torch import Tensor

from plica.runs import Run, Task
from plica.trust.audit.images import Images
from plica.trust.audit.load import measured_goal
from plica.trust.audit.reference import Model
from plica.trust.audit.remeasure import MeasureContext

COLUMNS = ["id", "label", "success", "distance"]
NEARER = 0.98  # of a radius: more than rounding can explain


@dataclass(frozen=True)
class Transfer:
    """`beaten`: the number of `images` with results for both models for which a point of `origin` is the better one."""

    question: str
    origin: str
    model: str
    images: int
    beaten: int

    def record(self) -> dict[str, Any]:
        """The record as a JSON object, as in audit.json."""
        return asdict(self)


def transfers(
    run: Run,
    models: Mapping[str, Model],
    bounds: tuple[float | Tensor, float | Tensor],
    data: tuple[Tensor, Tensor] | None = None,
) -> list[Transfer]:
    """One record per question and ordered pair of models; data: x and y, where the run has no images.

    A point counts where the model misclassifies it and its own methods found none (max-loss) or none so near.
    """
    records = []
    for question in dict.fromkeys(task.question for task in run.tasks):
        tasks = [task for task in run.tasks if task.question == question]
        names = list(dict.fromkeys(task.model for task in tasks))
        best = {name: _best(run, [task for task in tasks if task.model == name]) for name in names}
        for model in names:
            for origin in names:
                if origin != model:
                    origin_tasks = [task for task in tasks if task.model == origin]
                    beaten = _beaten(run, origin_tasks, models[model], best[model], bounds, data)
                    images = len(best[model].keys() & best[origin].keys())
                    records.append(Transfer(question, origin, model, images, beaten))
    return records


def _best(run: Run, tasks: list[Task]) -> dict[int, float]:
    """The least distance of each image, inf where nothing was found."""
    best: dict[int, float] = {}
    for task in tasks:
        table = run.rows(task, ["id", "success", "distance"])
        for i, ok, d in zip(*(table[c].to_pylist() for c in ("id", "success", "distance")), strict=True):
            best[i] = min(best.get(i, np.inf), d if ok else np.inf)
    return best


def _beaten(
    run: Run,
    tasks: list[Task],
    model: Model,
    best: dict[int, float],
    bounds: tuple[float | Tensor, float | Tensor],
    data: tuple[Tensor, Tensor] | None,
) -> int:
    beaten: set[int] = set()
    for task in tasks:
        rows = {row["id"]: row for row in run.rows(task, COLUMNS).to_pylist()}
        context = MeasureContext(model, 2.0, task.radius, bounds, (50,), goal=measured_goal(task.goal))
        for ids, x_adv in run.points(task):
            better = [k for k, i in enumerate(ids.tolist()) if _better(rows.get(i), best.get(i), task)]
            if better:
                context = context.with_float64(x_adv)
                chosen = ids[better].tolist()
                y = np.array([rows[i]["label"] for i in chosen])
                if task.goal is not None:
                    y = Images(run, data)(ids[better])[1].numpy()
                wrong = context.margins(x_adv[better], y) > 0
                if task.draws is not None:
                    wrong = context.shares(x_adv[better], y) > 0.5
                beaten |= {i for i, w in zip(chosen, wrong, strict=True) if w}
    return len(beaten)


def _better(row: dict[str, Any] | None, own_distance: float | None, task: Task) -> bool:
    """Whether a point found on another model would be better here than the model's own, if it is misclassified."""
    if row is None or own_distance is None or not row["success"] or row["distance"] == 0:
        return False
    return bool(np.isinf(own_distance)) if task.kind == "max-loss" else row["distance"] < NEARER * own_distance
