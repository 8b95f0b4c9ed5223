"""Who is compared in one or several runs, image by image: models (nearest point by any method) or methods.

Radii are upper bounds, as every attack's are: a larger one may be a harder image or a weaker attack.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64

from plica.runs import Run, Task


@dataclass(frozen=True)
class Contender:
    """The answers of one model or method to one question, an entry per image.

    Attributes:
        name: of the model or method.
        ids: rows of the images in the data.
        label: their classes.
        radius: distance of the nearest point found, inf where none was; for max-loss that is inside its budget.
        prediction: what that point is taken for.
        place: which of `places` found the point, -1 where none did.
        asked: whether the question was asked at all; a method may be spared the images that others have broken.
        places: the tasks that were joined.
    """

    name: str
    ids: Int64[np.ndarray, " b"]
    label: Int64[np.ndarray, " b"]
    radius: Float64[np.ndarray, " b"]
    prediction: Int64[np.ndarray, " b"]
    place: Int64[np.ndarray, " b"]
    asked: Bool[np.ndarray, " b"]
    places: list[tuple[Run, Task]]

    @property
    def broken(self) -> Bool[np.ndarray, " b"]:
        """Where a misclassified point was found."""
        return np.isfinite(self.radius)

    @property
    def model(self) -> str:
        """The model that was asked."""
        return self.places[0][1].model if self.places else self.name

    @property
    def by(self) -> list[str]:
        """The method that found each point, "" where none did."""
        return [self.places[k][1].method if k >= 0 else "" for k in self.place.tolist()]

    def take(self, rows: Bool[np.ndarray, " b"] | Int64[np.ndarray, " k"]) -> Contender:
        """The same for some of the images."""
        columns = ("ids", "label", "radius", "prediction", "place", "asked")
        return replace(self, **{name: getattr(self, name)[rows] for name in columns})


@dataclass(frozen=True)
class Group:
    """One question (smallest distance, or broken within a budget) and who answered it, about the same images in the
    same order. by: "model" or "method"."""

    by: str
    metric: str
    budget: float | None
    contenders: list[Contender]

    def __str__(self) -> str:
        """smallest l2 distance, or: within l2 distance 0.5"""
        start = "smallest" if self.budget is None else "within"
        return f"{start} {self.metric} distance" + ("" if self.budget is None else f" {self.budget:.3g}")


def by_model(asked: Sequence[Group]) -> list[tuple[Group, str]]:
    """The groups with the contenders of each model apart, and the model's name: "" where there is one model."""
    models = list(dict.fromkeys(c.model for group in asked for c in group.contenders))
    parts = [(group, model, [c for c in group.contenders if c.model == model]) for group in asked for model in models]
    return [(replace(g, contenders=own), model if len(models) > 1 else "") for g, model, own in parts if own]


def groups(runs: Sequence[Run], by: str = "auto") -> list[Group]:
    """One group per question: the smallest distances first, then the budgets.

    by: "model", "method", or "auto": models where there are several, else methods.

    Raises:
        ValueError: the runs hold different images.
    """
    places = [(run, task) for run in runs for task in run.tasks if len(run.rows(task))]
    models, methods = {task.model for _, task in places}, {task.method for _, task in places}
    if by == "auto":
        by = "method" if len(models) == 1 and len(methods) > 1 else "model"
    _same_images(runs)
    found: dict[tuple[str, float | None], list[tuple[Run, Task]]] = {}
    for run, task in places:
        found.setdefault((task.distance, task.radius), []).append((run, task))
    keys = sorted(found, key=lambda key: key[1] is not None)
    return [_group(key, found[key], by, len(models) > 1) for key in keys]


def _group(key: tuple[str, float | None], members: list[tuple[Run, Task]], by: str, several: bool) -> Group:
    joined: dict[tuple[str, str], list[tuple[Run, Task]]] = {}
    for run, task in members:
        name = task.model if by == "model" else _method(task, [other for _, other in members], several)
        joined.setdefault((str(run.directory), name), []).append((run, task))
    names = [name for _, name in joined]
    ids = np.unique(np.concatenate([run.rows(task)["id"].to_numpy() for run, task in members]))
    contenders = [
        _join(f"{name} ({directory})" if names.count(name) > 1 else name, places, ids)
        for (directory, name), places in joined.items()
    ]
    return Group(by, *key, contenders)


def _method(task: Task, others: list[Task], several: bool) -> str:
    """The method, with its loss and its model as far as they tell it from the others."""
    losses = {other.loss for other in others if other.method == task.method}
    method = f"{task.method} {task.loss}" if len(losses) > 1 else task.method
    if not several:
        return method
    return task.model if len({(o.method, o.loss) for o in others}) == 1 else f"{task.model}, {method}"


def _join(name: str, places: list[tuple[Run, Task]], ids: Int64[np.ndarray, " b"]) -> Contender:
    """The nearest point of each image over all of these tasks."""
    radius = np.full((len(places), len(ids)), np.inf)
    label, asked = np.full(len(ids), -1), np.zeros(len(ids), bool)
    taken = np.full((len(places), len(ids)), -1)
    for k, (run, task) in enumerate(places):
        held = {key: run.rows(task)[key].to_numpy() for key in ("id", "label", "distance", "success", "prediction")}
        rows = np.searchsorted(ids, held["id"])
        radius[k, rows] = np.where(held["success"], held["distance"], np.inf)
        taken[k, rows], label[rows], asked[rows] = held["prediction"], held["label"], True
    first, every = radius.argmin(0), np.arange(len(ids))
    least = radius[first, every]
    place = np.where(np.isfinite(least), first, -1)
    return Contender(name, ids, label, least, taken[first, every], place, asked, places)


def _same_images(runs: Sequence[Run]) -> None:
    """Runs can be paired where the images of the same number agree in label and, as far as kept, in every pixel."""
    told: dict[int, int] = {}
    for run in runs:
        if not len(run.samples):
            continue
        for image, label in zip(run.samples["id"].to_pylist(), run.samples["label"].to_pylist(), strict=True):
            if told.setdefault(image, label) != label:
                raise ValueError(
                    f"Image {image} has class {told[image]} in one run and {label} in {run.directory}; "
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
            raise ValueError(f"{run.directory} holds other images than the first run; give runs on the same images.")
