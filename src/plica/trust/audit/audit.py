"""plica.trust.audit.audit: every stored answer measured anew, in float64 and at other batch sizes, and what differs.

The judge's code is not used, nor the attacks' losses and metrics (measure.py): a mistake there would be made twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from plica.runs import Run, Task
from plica.trust.audit.images import Images
from plica.trust.audit.load import through_of
from plica.trust.audit.quantization import eight_bits, round8
from plica.trust.audit.reference import Metric, Model, norm_of
from plica.trust.audit.remeasure import Answers, MeasureContext

SIZES = (1, 50)  # rows of the calls in the model's own precision; float64 takes the last
SHOWN = 5  # differences of a kind that are spelled out


@dataclass
class Audited:
    """One task: `answers` stored, `successes` claimed, `confirmed` of these; kinds of difference with their sentences.

    Of the confirmed answers that are perturbed: `survive` 8 bits misclassified, `within` also inside the radius;
    `prices`: distance of the repaired point over the reported one, nan where no repair was found. Points of a
    perturbation T(x, theta) are not repaired and have neither `within` nor prices.
    """

    task: Task
    float64: bool = False
    answers: int = 0
    successes: int = 0
    confirmed: int = 0
    perturbed: int = 0
    survive: int = 0
    within: int = 0
    prices: list[float] = field(default_factory=list)
    differences: dict[str, list[str]] = field(default_factory=dict)

    def differ(self, kind: str, sentence: str) -> None:
        self.differences.setdefault(kind, []).append(sentence)

    @property
    def agrees(self) -> bool:
        return not self.differences

    @property
    def price(self) -> float | None:
        """Median distance of the points repaired to 8 bits, over the distance reported."""
        known = [price for price in self.prices if not np.isnan(price)]
        return float(np.median(known)) if known else None

    def record(self) -> dict[str, Any]:
        """As audit.json keeps it."""
        counts = ("answers", "successes", "confirmed", "float64", "perturbed", "survive", "within")
        return {
            "task": self.task.name,
            **{name: getattr(self, name) for name in counts},
            "repaired": sum(not np.isnan(price) for price in self.prices) - self.survive if self.prices else 0,
            "price": self.price,
            "differences": {
                kind: {"count": len(told), "first": told[:SHOWN]} for kind, told in self.differences.items()
            },
        }


def audit(
    run: Run,
    models: Mapping[str, Model],
    *,
    metrics: Mapping[str, Callable[[Tensor, Tensor], Tensor]] | None = None,
    data: tuple[Tensor, Tensor] | None = None,
    bounds: tuple[float | Tensor, float | Tensor] = (0.0, 1.0),
    mask: Tensor | None = None,
    sizes: tuple[int, ...] = SIZES,
    told: Callable[[str, int], None] = lambda task, rows: None,
) -> list[Audited]:
    """Measure every answer of every task anew; `models` by the names that the tasks use, modules in eval mode.

    Args:
        run: the run whose answers are measured.
        models: by the names that the tasks use.
        metrics: distances that are no l_p norm, by their text.
        data: x and y by id, where the run did not keep them.
        bounds: two numbers, or two tensors of an image's shape.
        mask: the features that may move, all of them if not given.
        sizes: batch sizes at which the model is asked again.
        told: called with a task's name and the number of its rows after each chunk.

    Raises:
        ValueError: a model, a metric or the images are missing.
    """
    images = Images(run, data)
    rulers = [_ruler(models, metrics or {}, task, bounds, mask, sizes) for task in run.tasks]
    return [_task(run, task, ruler, images, told) for task, ruler in zip(run.tasks, rulers, strict=True)]


def _ruler(models: Mapping[str, Model], metrics, task: Task, bounds, mask, sizes) -> MeasureContext:
    metric, by_theta = _metric(metrics, task), task.metric == "theta"
    through = through_of(task, bounds)
    model = _model(models, task)
    return MeasureContext(model, metric, task.radius, bounds, sizes, mask=mask, through=through, by_theta=by_theta)


def _model(models: Mapping[str, Model], task: Task) -> Model:
    if task.model not in models:
        raise ValueError(f"No model was given for {task.model!r} of {task.name}; give one with --model.")
    return models[task.model]


def _metric(metrics: Mapping[str, Callable[[Tensor, Tensor], Tensor]], task: Task) -> Metric:
    p = norm_of(task.metric)
    if p is None and task.distance not in metrics:
        raise ValueError(f"The distance {task.distance!r} of {task.name} cannot be told from its name; give --metric.")
    return metrics[task.distance] if p is None else p


def _task(run: Run, task: Task, ruler: MeasureContext, images: Images, told: Callable[[str, int], None]) -> Audited:
    rows = {row["id"]: row for row in run.rows(task).to_pylist()}
    seen = Audited(task)
    answered: set[int] = set()
    for held in run.parts(task):
        ids, x_adv, theta = held["id"], held["x_adv"], held.get("theta")
        for part in torch.arange(len(ids)).split(256) if len(ids) else ():  # a chunk of which nothing was left standing
            ruler = ruler.with_float64(x_adv)
            seen.float64 = ruler.fine is not None
            made = None if theta is None else theta[part]
            _chunk(seen, rows, ids[part], x_adv[part], made, images, ruler)
            told(task.name, len(part))
        twice = sorted(answered & set(ids.tolist()))
        if twice:
            seen.differ("twice", f"image {twice[0]} is answered twice ({len(twice)} such images in one chunk)")
        answered |= set(ids.tolist())
    lost = sorted(set(rows) - answered)
    if lost:
        seen.differ("no point", f"image {lost[0]} has a row and no point ({len(lost)} such images)")
    return seen


def _chunk(
    seen: Audited, rows: dict, ids: Tensor, x_adv: Tensor, theta: Tensor | None, images: Images, ruler: MeasureContext
) -> None:
    """Measure some answers and note what differs."""
    stray = [i for i in ids.tolist() if i not in rows]
    if stray:
        seen.differ("no row", f"image {stray[0]} has a point and no row ({len(stray)} such images)")
        keep = torch.tensor([i in rows for i in ids.tolist()])
        ids, x_adv, theta = ids[keep], x_adv[keep], None if theta is None else theta[keep]
        if not len(ids):
            return
    x, y = images(ids)
    x = x.to(x_adv.dtype)
    at = Answers([rows[i] for i in ids.tolist()], x, y.numpy(), x_adv, ruler.made_of(x, theta))
    seen.answers += len(ids)
    seen.successes += int(at.claimed.sum())
    sure = at.claimed & ~at.compare(ruler, seen.differences)
    seen.confirmed += int(sure.sum())
    _as_pictures(seen, at.of(sure & (at.column("distance") > 0)), ruler)


def _as_pictures(seen: Audited, at: Answers, ruler: MeasureContext) -> None:
    """8 bits, of confirmed answers that are perturbed; inputs that are no pictures have no 8 bits."""
    low, high = ruler.bounds
    if at.x.ndim != 4 or not len(at.x) or isinstance(low, Tensor) or isinstance(high, Tensor) or ruler.mask is not None:
        return
    seen.perturbed += len(at.x)
    if ruler.through is not None:  # a rounded image is no longer T(x, theta): only its class can be told
        seen.survive += int((ruler.margins(round8(at.x_adv, (low, high)), at.y) > 0).sum())
        return
    held = eight_bits(
        lambda points, rows: ruler.margins(points, at.y[rows]) > 0,
        lambda points, rows: ruler.far(at.x[rows], points, None)[0],
        at.x, at.x_adv, ruler.radius, (low, high),
    )  # fmt: skip
    seen.survive += int(held.survives.sum())
    seen.within += int(held.within.sum())
    seen.prices += held.price.tolist()
