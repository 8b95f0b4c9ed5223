"""Bounds and fixed pixels that differ from image to image: images with equal ones are attacked side by side.

A search uses the same bounds for all its images, so each group needs a separate call. The result for an image does not
depend on the other images, so results are the same as in one call.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from plica.core.formulations import MaxLoss, Question
from plica.core.result import Result
from plica.metrics import Held


@dataclass(frozen=True)
class Group:
    """Images with the same bounds and fixed pixels: their rows, the question restricted to them, and their bounds."""

    rows: Int[Tensor, " r"]
    question: Question
    bounds: Any


def groups(question: Any, bounds: Any, x: Any) -> list[Group] | None:
    """The groups of images, in the order of their first image; None if nothing differs between images.

    Raises:
        ValueError: x lies outside its bounds.
    """
    if not isinstance(x, Tensor) or x.ndim < 2 or not isinstance(bounds, tuple | list) or len(bounds) != 2:
        return None
    metric = getattr(question, "metric", None)
    fixed = metric.pixels if isinstance(metric, Held) and _per_image(metric.pixels, x) else None
    boxes = [bound if _per_image(bound, x) else None for bound in bounds]
    if fixed is None and boxes == [None, None]:
        return None
    for way, box in zip((-1, 1), boxes, strict=True):
        outside = None if box is None else (way * (x.detach() - box.to(x)) > 0).flatten(1).any(1)
        if outside is not None and bool(outside.any()):
            raise ValueError(
                f"x lies outside its bounds in image {int(outside.nonzero()[0])} ({int(outside.sum())} such images); "
                "clamp x or widen the bounds."
            )
    keys = [part.to(x).expand_as(x).flatten(1) for part in (*boxes, fixed) if part is not None]
    _, number = torch.unique(torch.cat(keys, 1), dim=0, return_inverse=True)
    parts = []
    for first in dict.fromkeys(number.tolist()):
        rows = (number == first).nonzero()[:, 0]
        if fixed is not None and bool(fixed[rows[0]].all()):  # Held refuses to fix every pixel: equal bounds instead
            inner = replace(question, metric=question.metric.metric)
            parts += [Group(row, _of_rows(inner, row, None), (x[row[0]], x[row[0]])) for row in rows.split(1)]
            continue
        pair = tuple(bound if box is None else box[rows[0]] for bound, box in zip(bounds, boxes, strict=True))
        parts.append(Group(rows, _of_rows(question, rows, fixed), pair))
    return parts


def each(question: Question, bounds: Any, x: Float[Tensor, "b *image"]) -> list[Group]:
    """A group for each image."""
    rows = torch.arange(len(x), device=x.device).split(1)
    return [Group(row, _of_rows(question, row, None), bounds) for row in rows]


def _per_image(part: Any, x: Tensor) -> bool:
    return isinstance(part, Tensor) and part.ndim == x.ndim and part.ndim > 0 and len(part) == len(x)


def _of_rows(question: Question, rows: Tensor, fixed: Tensor | None) -> Question:
    if fixed is not None:
        question = replace(question, metric=Held(question.metric.metric, fixed[rows[0]]))
    if isinstance(question, MaxLoss) and isinstance(question.radius, Tensor) and question.radius.ndim:
        question = replace(question, radius=question.radius[rows])
    return question


def join_results(parts: list[tuple[Group, Result]], x: Float[Tensor, "b *image"]) -> Result:
    """The results in the order of the images."""
    order = torch.cat([group.rows for group, _ in parts]).argsort()
    results = [result for _, result in parts]
    columns: dict[str, Any] = {}
    for field in fields(Result):
        values = [getattr(result, field.name) for result in results]
        if field.name == "status":
            flat = [status for part in values for status in part]
            columns[field.name] = [flat[k] for k in order.tolist()]
        elif any(value is None for value in values):
            columns[field.name] = None
        else:
            columns[field.name] = torch.cat(values)[order.to(values[0].device)]
    return Result(**columns)


def joined_progress(on_progress: Callable[[Any], None] | None, others: list[Result], total: int) -> Any:
    """on_progress for the attack on one group, which adds what the groups finished before it have done and spent. For
    the median distance, every finished image of the group counts with the group's median."""
    if on_progress is None:
        return None
    done, gradients = sum(len(o) for o in others), sum(int(o.gradients.sum()) for o in others)

    attacked = [other.distance[other.distance > 0].cpu() for other in others]
    found = [distance[distance.isfinite()] for distance in attacked]

    def report(progress: Any) -> None:
        own = torch.full((progress.done,), progress.radius, dtype=torch.float64, device="cpu")
        radius = float(torch.cat([*found, own[~own.isnan()]]).nanmedian())
        spent = gradients + progress.gradients
        on_progress(replace(progress, done=done + progress.done, total=total, gradients=spent, radius=radius))

    return report
