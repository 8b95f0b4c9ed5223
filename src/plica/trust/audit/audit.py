"""Checks every stored result of a run again, in float64 and at other batch sizes, and records what differs.

Neither the judge nor the attacks' losses and norms are used: a mistake there would be repeated. Only how a model is
given its batches (core/model/fitting.py) is shared.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from plica.core.model.fitting import fitted
from plica.runs import Run, Task
from plica.trust.audit.attacked import attacked
from plica.trust.audit.images import Images
from plica.trust.audit.load import measured_goal, through_of
from plica.trust.audit.lower import recheck
from plica.trust.audit.quantization import eight_bits, round8
from plica.trust.audit.reference import Metric, Model, margins, norm_of
from plica.trust.audit.remeasure import Answers, MeasureContext

COLUMNS = ["id", "label", "prediction", "success", "distance", "margin", "status"]
SIZES = (1, 50)  # batch sizes in the model's own precision; float64 uses the last one
SHOWN = 5  # sentences that audit.json keeps of each kind of difference


@dataclass
class Audited:
    """What was measured for one task.

    Attributes:
        task: the task.
        float64: whether the model was also run in float64.
        answers: number of stored results.
        successes: of these.
        confirmed: of the successes.
        perturbed: of the confirmed ones, those at a distance above 0.
        survive: of the perturbed ones, those still misclassified in 8 bits.
        within: of these, those inside the radius.
        prices: distance of the point repaired to 8 bits over the stored distance; nan where no repair was found.
        certified: images with a positive lower bound.
        proved: of these, those whose stored proof is correct.
        differences: for each kind of difference, a sentence for each image.

    Points of a perturbation T(x, theta) are not repaired, and have neither `within` nor prices.
    """

    task: Task
    float64: bool = False
    answers: int = 0
    successes: int = 0
    confirmed: int = 0
    perturbed: int = 0
    survive: int = 0
    within: int = 0
    certified: int = 0
    proved: int = 0
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
        finite = [price for price in self.prices if not np.isnan(price)]
        return float(np.median(finite)) if finite else None

    def record(self) -> dict[str, Any]:
        """The record as a JSON object, as in audit.json."""
        counts = ("answers", "successes", "confirmed", "float64", "perturbed", "survive", "within")
        counts += ("certified", "proved") if self.certified else ()
        return {
            "task": self.task.name,
            **{name: getattr(self, name) for name in counts},
            "repaired": sum(not np.isnan(price) for price in self.prices) - self.survive if self.prices else 0,
            "price": self.price,
            "differences": {
                kind: {"count": len(sentences), "first": sentences[:SHOWN]}
                for kind, sentences in self.differences.items()
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
    on_progress: Callable[[str, int], None] = lambda task, rows: None,
) -> list[Audited]:
    """Measure every answer of every task again.

    Args:
        run: the run whose answers are measured.
        models: by the names in the tasks, modules in eval mode.
        metrics: distances other than l_p norms, by the text in the tasks.
        data: x and y, rows by id, where the run has no images.
        bounds: two numbers, or two tensors of an image's shape.
        mask: the features that may move, all of them if not given.
        sizes: batch sizes at which the model is run.
        on_progress: called with a task's name and the number of its rows after each chunk.

    Raises:
        ValueError: a model, a metric or the images are missing.
    """
    images = Images(run, data)
    contexts = [context_of(models, metrics or {}, task, bounds, mask, sizes) for task in run.tasks]
    audited = [
        _task(run, task, context, images, on_progress) for task, context in zip(run.tasks, contexts, strict=True)
    ]
    for one in audited:
        _lower_bounds(one, run, _model(models, one.task), metrics or {}, images, bounds, mask, on_progress)
    return audited


def _lower_bounds(audited: Audited, run: Run, model: Model, metrics, images: Images, bounds, mask, on_progress) -> None:
    found = recheck(run, audited.task, model, metrics, images, bounds, mask, on_progress)
    audited.certified, audited.proved = found.certified, found.certified - len(found.refused)
    for sentence in found.refused:
        audited.differ("lower bound", sentence)
    for sentence in found.closed:
        audited.differ("closed", sentence)


def context_of(models: Mapping[str, Model], metrics, task: Task, bounds, mask, sizes) -> MeasureContext:
    """The context in which the results of a task are measured; arguments as of `audit`."""
    return MeasureContext(
        _model(models, task),
        _metric(metrics, task),
        task.radius,
        bounds,
        sizes,
        mask=mask,
        through=through_of(task, bounds),
        by_theta=task.metric == "theta",
        goal=measured_goal(task.goal),
        at_random=task.draws is not None,
        levels=task.levels,
        classes=task.goal is None,
    )


def _model(models: Mapping[str, Model], task: Task) -> Model:
    """The model of a task, wrapped so that it takes any number of images and cannot change its input."""
    if task.model not in models:
        raise ValueError(f"No model was given for {task.model!r} of {task.name}; give one with --model.")
    return fitted(models[task.model])


def _metric(metrics: Mapping[str, Callable[[Tensor, Tensor], Tensor]], task: Task) -> Metric:
    p = norm_of(task.metric)
    if p is None and task.distance not in metrics:
        raise ValueError(f"The distance {task.distance!r} of {task.name} is not an l_p norm; give it with --metric.")
    return metrics[task.distance] if p is None else p


def _task(
    run: Run, task: Task, context: MeasureContext, images: Images, on_progress: Callable[[str, int], None]
) -> Audited:
    columns = COLUMNS if task.draws is None else [*COLUMNS, "share"]
    stored = run.rows(task, columns).to_pylist()
    rows = {row["id"]: row for row in stored}
    audited = Audited(task)
    if len(rows) < len(stored):
        audited.differ("twice", f"{len(stored)} rows are of {len(rows)} images")
    seen: set[int] = set()
    for part in run.parts(task):
        ids, x_adv, theta = part["id"], part["x_adv"], part.get("theta")
        # a part is empty where methods before this one broke all its images
        for piece in torch.arange(len(ids)).split(256) if len(ids) else ():
            context = context.with_float64(x_adv)
            audited.float64 = context.fine is not None
            part_theta = None if theta is None else theta[piece]
            _chunk(audited, rows, ids[piece], x_adv[piece], part_theta, images, context)
            on_progress(task.name, len(piece))
        twice = sorted(seen & set(ids.tolist()))
        if twice:
            audited.differ("twice", f"image {twice[0]} is answered twice ({len(twice)} such images in one chunk)")
        seen |= set(ids.tolist())
    missing = sorted(set(rows) - seen)
    if missing:
        audited.differ("no point", f"image {missing[0]} has a row and no point ({len(missing)} such images)")
    left_out = sorted(attacked(run, task) - set(rows))
    if left_out:
        audited.differ("left out", f"image {left_out[0]} has no row ({len(left_out)} such images)")
    return audited


def _chunk(
    audited: Audited,
    rows: dict,
    ids: Tensor,
    x_adv: Tensor,
    theta: Tensor | None,
    images: Images,
    context: MeasureContext,
) -> None:
    """Measure some answers and record what differs."""
    extra = [i for i in ids.tolist() if i not in rows]
    if extra:
        audited.differ("no row", f"image {extra[0]} has a point and no row ({len(extra)} such images)")
        keep = torch.tensor([i in rows for i in ids.tolist()])
        ids, x_adv, theta = ids[keep], x_adv[keep], None if theta is None else theta[keep]
        if not len(ids):
            return
    x, y = images(ids)
    x, targets = x.to(x_adv.dtype), images.targets(audited.task, ids)
    is_label = y.ndim == 1 and not y.is_floating_point()
    if not is_label and audited.task.goal is None:
        raise ValueError(f"The y of {audited.task.name} are not labels, and it names no goal; restore the run.")
    label = y if is_label else torch.full((len(y),), -1)
    if targets is not None:
        y, context = targets, replace(context, goal=lambda output, target: -margins(output, target))
    rows_here = [rows[i] for i in ids.tolist()]
    answers = Answers(rows_here, x, y.numpy(), x_adv, label.numpy(), context.made_of(x, theta))
    audited.answers += len(ids)
    audited.successes += int(answers.claimed.sum())
    confirmed = answers.claimed & ~answers.compare(context, audited.differences)
    audited.confirmed += int(confirmed.sum())
    _in_8_bits(audited, answers.of(confirmed & (answers.column("distance") > 0)), context)


def _in_8_bits(audited: Audited, answers: Answers, context: MeasureContext) -> None:
    """Round the points of confirmed, perturbed answers to 8 bits; only for images with one pair of bounds, and models
    without random outputs."""
    low, high = context.bounds
    if (
        answers.x.ndim != 4
        or not len(answers.x)
        or isinstance(low, Tensor)
        or isinstance(high, Tensor)
        or context.mask is not None
        or context.at_random
    ):
        return
    audited.perturbed += len(answers.x)
    if context.through is not None:  # a rounded image is no longer T(x, theta): only its class counts
        audited.survive += int((context.margins(round8(answers.x_adv, (low, high)), answers.y) > 0).sum())
        return
    x, x_adv = answers.x, answers.x_adv
    if context.counts:  # in the files: rounding a pixel that did not move is no change
        file = round8(x, (low, high))
        x, x_adv = file, torch.where(x_adv == x, file, x_adv)
    rounded = eight_bits(
        lambda points, rows: context.margins(points, answers.y[rows]) > 0,
        lambda points, rows: context.distances(x[rows], points, None)[0],
        x, x_adv, context.radius, (low, high),
    )  # fmt: skip
    audited.survive += int(rounded.survives.sum())
    audited.within += int(rounded.within.sum())
    audited.prices += rounded.price.tolist()
