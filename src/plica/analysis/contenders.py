"""What is compared in one or several runs, image by image: models (nearest point by any method) or methods.

Radii found by attacks are upper bounds: a larger one may mean a more robust image or a weaker attack.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64

from plica.runs import Run, Task
from plica.utils.messages import plain


@dataclass(frozen=True)
class Contender:
    """The answers of one model or method to one question, an entry per image.

    Attributes:
        name: of the model or method.
        ids: rows of the images in the data.
        label: their classes.
        radius: distance of the nearest misclassified point found, 0 where the image itself is misclassified, inf where
            none was found; for max-loss points within the radius.
        prediction: the class of that point.
        source: index in `sources` of the task that found the point, -1 where none did.
        attacked: whether there is an answer for the image; a method may be spared the images that others have broken.
        sources: the tasks that were joined.
        lower: no misclassified input lies nearer: the largest bound that was proved, 0 where none was. None where the
            tasks have no lower bounds.
    """

    name: str
    ids: Int64[np.ndarray, " b"]
    label: Int64[np.ndarray, " b"]
    radius: Float64[np.ndarray, " b"]
    prediction: Int64[np.ndarray, " b"]
    source: Int64[np.ndarray, " b"]
    attacked: Bool[np.ndarray, " b"]
    sources: list[tuple[Run, Task]]
    lower: Float64[np.ndarray, " b"] | None = None

    @property
    def broken(self) -> Bool[np.ndarray, " b"]:
        """Where the image is classified correctly and a misclassified point was found."""
        return np.isfinite(self.radius) & (self.radius > 0)

    @property
    def robust(self) -> Bool[np.ndarray, " b"]:
        """Where the image was attacked, is classified correctly, and no misclassified point was found."""
        return self.attacked & np.isinf(self.radius)

    def proved(self, budget: float) -> Bool[np.ndarray, " b"]:
        """Where it is proved that no misclassified input lies within the budget; nowhere without lower bounds."""
        return np.isinf(self.radius) & (self.lower >= budget) if self.lower is not None else self.attacked & False

    @property
    def model(self) -> str:
        """The name of the model."""
        return self.sources[0][1].model if self.sources else self.name

    @property
    def target(self) -> str | None:
        """The target class, or the name of the file with one for each image; None for any other class."""
        return self.sources[0][1].target if self.sources else None

    @property
    def by(self) -> list[str]:
        """The method that found each point, "" where none did."""
        return [self.sources[k][1].method if k >= 0 else "" for k in self.source.tolist()]

    def take(self, rows: Bool[np.ndarray, " b"] | Int64[np.ndarray, " k"]) -> Contender:
        """The same for some of the images."""
        columns = ("ids", "label", "radius", "prediction", "source", "attacked")
        lower = None if self.lower is None else self.lower[rows]
        return replace(self, lower=lower, **{name: getattr(self, name)[rows] for name in columns})


@dataclass(frozen=True)
class Group:
    """One question (smallest distance, or broken within a budget); contenders have the same images in the same order.

    by: "model" or "method"."""

    by: str
    metric: str
    budget: float | None
    contenders: list[Contender]

    def __str__(self) -> str:
        """smallest l2 distance, or: within l2 distance 0.5"""
        start = "smallest" if self.budget is None else "within"
        return f"{start} {self.metric} distance" + ("" if self.budget is None else f" {self.budget:.3g}")


def by_model(questions: Sequence[Group]) -> list[tuple[Group, str]]:
    """Groups of methods split by model, each with the model's name, which the names of its methods leave out; "" where
    there is one model only. Groups of models are left as they are."""
    models = list(dict.fromkeys(c.model for group in questions for c in group.contenders))
    if len(models) < 2 or questions[0].by == "model":
        return [(group, "") for group in questions]
    parts = [
        (group, model, [_without_model(c) for c in group.contenders if c.model == model])
        for group in questions
        for model in models
    ]
    return [(replace(group, contenders=part), model) for group, model, part in parts if part]


def _without_model(c: Contender) -> Contender:
    method = c.sources[0][1].method if c.name == c.model else c.name.removeprefix(f"{c.model}, ")
    return replace(c, name=method)


def groups(runs: Sequence[Run], by: str = "auto") -> list[Group]:
    """One group per question: the smallest distances first, then the budgets.

    by: "model", "method", or "auto": models if there are several, else methods.

    Raises:
        ValueError: the runs hold different images.
    """
    sources = [(run, task) for run in runs for task in run.tasks if len(run.rows(task, ["id"]))]
    models, methods = {task.model for _, task in sources}, {task.method for _, task in sources}
    if by == "auto":
        by = "method" if len(models) == 1 and len(methods) > 1 else "model"
    _same_images(runs)
    questions: dict[tuple[str, float | None], list[tuple[Run, Task]]] = {}
    for run, task in sources:
        questions.setdefault((task.asked_distance, task.radius), []).append((run, task))
    keys = sorted(questions, key=lambda key: key[1] is not None)
    return [_group(key, questions[key], by, len(models) > 1) for key in keys]


def _group(key: tuple[str, float | None], members: list[tuple[Run, Task]], by: str, several: bool) -> Group:
    """The tasks `members` of one question as a group, a contender for each model or method of each run.

    several: whether the runs have several models; the name of a method then says whose it is.
    """
    joined: dict[tuple[str, str], list[tuple[Run, Task]]] = {}
    for run, task in members:
        name = task.model if by == "model" else _method(task, [other for _, other in members], several)
        joined.setdefault((str(run.directory), name), []).append((run, task))
    names = [name for _, name in joined]
    ids = np.unique(np.concatenate([run.rows(task, ["id"])["id"].to_numpy() for run, task in members]))
    contenders = [
        _join(f"{name} ({plain(directory)})" if names.count(name) > 1 else name, sources, ids)
        for (directory, name), sources in joined.items()
    ]
    return Group(by, *key, contenders)


def _method(task: Task, others: list[Task], several: bool) -> str:
    """The method, with its loss and its model where these distinguish it from the others."""
    losses = {other.loss for other in others if other.method == task.method}
    method = f"{task.method} {task.loss}" if len(losses) > 1 else task.method
    if not several:
        return method
    return task.model if len({(o.method, o.loss) for o in others}) == 1 else f"{task.model}, {method}"


def _join(name: str, sources: list[tuple[Run, Task]], ids: Int64[np.ndarray, " b"]) -> Contender:
    """The nearest point of each image over all of these tasks."""
    radius = np.full((len(sources), len(ids)), np.inf)
    label, attacked = np.full(len(ids), -1), np.zeros(len(ids), bool)
    predictions = np.full((len(sources), len(ids)), -1)
    for k, (run, task) in enumerate(sources):
        names = ["id", "label", "distance", "success", "prediction"]
        columns = {
            name: column.to_numpy() for name, column in zip(names, run.rows(task, names).select(names), strict=True)
        }
        rows = np.searchsorted(ids, columns["id"])
        radius[k, rows] = np.where(columns["success"], columns["distance"], np.inf)
        predictions[k, rows], label[rows], attacked[rows] = columns["prediction"], columns["label"], True
    first, rows = radius.argmin(0), np.arange(len(ids))
    least = radius[first, rows]
    source = np.where(np.isfinite(least), first, -1)
    return Contender(name, ids, label, least, predictions[first, rows], source, attacked, sources, _lower(sources, ids))


def _lower(sources: list[tuple[Run, Task]], ids: Int64[np.ndarray, " b"]) -> Float64[np.ndarray, " b"] | None:
    tables = [table for run, task in sources if (table := run.lower(task)) is not None]
    lower = np.zeros(len(ids))
    for table in tables:
        rows = np.searchsorted(ids, table["id"].to_numpy())
        lower[rows] = np.maximum(lower[rows], table["lower"].to_numpy())
    return lower if tables else None


def _same_images(runs: Sequence[Run]) -> None:
    """Raises ValueError unless images of the same number agree in label and, where stored, in every pixel."""
    labels: dict[int, int] = {}
    for run in runs:
        tables = [run.rows(task, ["id", "label"]) for task in run.tasks]
        pairs = [
            pair for table in tables for pair in zip(*table.select(["id", "label"]).to_pydict().values(), strict=True)
        ]
        for image, label in pairs:
            if labels.setdefault(image, label) != label:
                raise ValueError(
                    f"Image {image} has class {labels[image]} in one run and {label} in {run.directory}; "
                    "only runs on the same images can be compared."
                )
    first: tuple[torch.Tensor, torch.Tensor] | None = None
    for run in runs:
        chunk = next(run.inputs(), None)
        if chunk is None:
            continue
        if first is None:
            first = chunk[0], chunk[1]
            continue
        n = int((chunk[0][: len(first[0])] == first[0][: len(chunk[0])]).long().cumprod(0).sum())
        if first[1].shape[1:] != chunk[1].shape[1:] or not torch.equal(first[1][:n], chunk[1][:n]):
            raise ValueError(f"{run.directory} contains other images than the first run; give runs on the same images.")
