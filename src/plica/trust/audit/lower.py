"""Checks the lower bounds of a task from the proofs that the run stores."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from plica.core.model.fitting import unfitted
from plica.metrics.base import LpForm, lp_form
from plica.runs import Run, Task
from plica.trust.audit.balls import Ball
from plica.trust.audit.certificates import RefusedError, check
from plica.trust.audit.images import Images
from plica.trust.audit.layers import Step, trace
from plica.trust.audit.reference import Model, norm_of, precision_of

COLUMNS = ["id", "label", "success", "distance", "lower", "closed", "arithmetic"]
CLOSED, ROUNDING = 1e-3, 1e-9  # a gap that counts as closed, and what may decide it either way


@dataclass
class Rechecked:
    """The number of images with a positive lower bound; a sentence for each whose proof is not valid; and a sentence
    for each whose stored `closed` is wrong."""

    certified: int = 0
    refused: list[str] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)


def recheck(
    run: Run,
    task: Task,
    model: Model,
    metrics: Mapping[str, Callable[[Tensor, Tensor], Tensor]],
    images: Images,
    bounds: tuple[float | Tensor, float | Tensor],
    mask: Tensor | None,
    on_progress: Callable[[str, int], None],
) -> Rechecked:
    """Check the proofs of a task; the result is empty if it has no lower bounds.

    Args:
        run, task, images: of the results.
        model: that of the task.
        metrics: distances other than l_p norms, by the text in the tasks.
        bounds: of the inputs, two numbers or two tensors of an image's shape.
        mask: the features that may change, all of them if not given.
        on_progress: called with the task's name and 1 after each image.
    """
    found, proofs = Rechecked(), _proofs(run, task)
    if not run.tables[task.name] or "lower" not in run.rows(task).column_names:
        return found
    steps: tuple[Step, ...] | None = None
    stored = run.rows(task, COLUMNS).to_pylist()
    found.closed = _closed(run, task, stored)
    rows = {row["id"]: row for row in stored if row["lower"] > 0 or row["lower"] != row["lower"]}
    found.certified = len(rows)
    for number, leaves in proofs:
        row = rows.pop(number, None)
        if row is None:
            continue
        x, _ = images(torch.tensor([number]))
        target = images.targets(task, torch.tensor([number]))
        try:
            if row["success"] and row["lower"] > row["distance"]:
                raise RefusedError(
                    f"its bound {row['lower']:.6g} exceeds the distance {row['distance']:.6g} of its point"
                )
            steps = _steps(model, x) if steps is None else steps
            ball = _ball(task, metrics.get(task.distance), x, row["lower"], bounds, mask)
            check(steps, ball, row["label"], None if target is None else int(target), leaves, row["arithmetic"])
        except RefusedError as error:
            found.refused.append(f"image {number}, lower bound {row['lower']:.6g}: {error}")
        on_progress(task.name, 1)
    found.refused += [
        f"image {number}, lower bound {row['lower']:.6g}: no proof is stored" for number, row in rows.items()
    ]
    return found


def _closed(run: Run, task: Task, rows: list[dict[str, Any]]) -> list[str]:
    """A sentence for each row whose `closed` contradicts its bound and the distances of all methods."""
    least = dict.fromkeys((row["id"] for row in rows), math.inf)
    for other in run.tasks:
        if (other.model, other.question) == (task.model, task.question):
            for row in run.rows(other, ["id", "success", "distance"]).to_pylist():
                if row["success"] and row["id"] in least:
                    least[row["id"]] = min(least[row["id"]], row["distance"])
    sentences = []
    for row in rows:
        lower, upper = row["lower"], least[row["id"]]
        most = lower * (1 + CLOSED * (1 + (ROUNDING if row["closed"] else -ROUNDING)))
        if row["closed"] != (upper == lower or upper <= most):
            word = "closed" if row["closed"] else "open"
            sentences.append(f"image {row['id']}: from {lower:.6g} to {upper:.6g} is stored as {word}")
    return sentences


def _proofs(run: Run, task: Task) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """The leaves of each image. Those of one image lie in one chunk."""
    for table in run.leaves(task):
        for number in table["id"].unique().to_pylist():
            yield number, table.filter(_is(table, number)).to_pylist()


def _is(table: Any, number: int) -> Any:
    import pyarrow.compute as pc

    return pc.equal(table["id"], number)  # type: ignore[attr-defined]


def _steps(model: Model, x: Tensor) -> tuple[Step, ...]:
    try:
        with torch.no_grad():
            return trace(unfitted(model), x.to(precision_of(model, x)))
    except Exception as error:  # a model that is traced may raise anything
        raise RefusedError(f"the model cannot be taken apart ({error})") from error


def _ball(
    task: Task, metric: Callable[[Tensor, Tensor], Tensor] | None, x: Tensor, radius: float,
    bounds: tuple[float | Tensor, float | Tensor], mask: Tensor | None,
) -> Ball:  # fmt: skip
    """The ball of the task's norm, an l_p norm by its name or one of the user's with weights."""
    form = LpForm(norm_of(task.metric) or 0.0) if metric is None else lp_form(metric)
    if form is None or form.p not in (1, 2, math.inf) or task.through is not None or task.goal is not None:
        raise RefusedError(f"bounds for {task.question} are not known")
    low, high = (torch.as_tensor(end, dtype=torch.float64).expand_as(x) for end in bounds)
    if mask is not None:
        low, high = (torch.where(mask, end, x.double()) for end in (low, high))
    return Ball.around(x, low, high, radius, form.p, form.weights)
