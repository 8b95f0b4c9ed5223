"""Who is compared in one or several runs, image by image: models (nearest point by any method) or methods.

Radii are upper bounds, as every attack's are: a larger one may be a harder image or a weaker attack.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64

from plica.runs import Run, Task


@dataclass(frozen=True)
class Contender:
    """The answers of one model or method to one question, an entry per image.

    radius: distance of the nearest point found, inf where none was; for max-loss that is inside its budget.
    prediction: what that point is taken for. by: the method that found it, "" where none did. places: what was joined.
    """

    name: str
    ids: Int64[np.ndarray, " b"]
    label: Int64[np.ndarray, " b"]
    radius: Float64[np.ndarray, " b"]
    prediction: Int64[np.ndarray, " b"]
    by: list[str]
    places: list[tuple[Run, Task]]

    @property
    def broken(self) -> Bool[np.ndarray, " b"]:
        """Where a misclassified point was found."""
        return np.isfinite(self.radius)

    def at(self, ids: Int64[np.ndarray, " k"]) -> Contender:
        """The same for some of the images, in the order given."""
        order = np.argsort(self.ids)
        rows = order[np.searchsorted(self.ids, ids, sorter=order)]
        fields = {name: getattr(self, name)[rows] for name in ("ids", "label", "radius", "prediction")}
        return Contender(self.name, **fields, by=[self.by[row] for row in rows], places=self.places)


@dataclass(frozen=True)
class Group:
    """One question and who answered it, about the same images in the same order. by: "model" or "method"."""

    by: str
    question: str
    kind: str
    metric: str
    budget: float | None
    contenders: list[Contender]


def groups(runs: Sequence[Run], by: str = "auto") -> list[Group]:
    """One group per question, in the order of the runs.

    by: "model", "method", or "auto": models where there are several, else methods.

    Raises:
        ValueError: the runs hold different images.
    """
    places = [(run, task) for run in runs for task in run.tasks if len(run.rows(task))]
    models, methods = {task.model for _, task in places}, {task.method for _, task in places}
    if by == "auto":
        by = "method" if len(models) == 1 and len(methods) > 1 else "model"
    _same_images(runs)
    found: dict[tuple, list[tuple[Run, Task]]] = {}
    for run, task in places:
        found.setdefault((task.kind, task.metric, task.radius), []).append((run, task))
    return [_group(key, members, by, len(models) > 1) for key, members in found.items()]


def _group(key: tuple, members: list[tuple[Run, Task]], by: str, several: bool) -> Group:
    kind, metric, budget = key
    joined: dict[tuple[str, str], list[tuple[Run, Task]]] = {}
    losses = {(task.method, task.loss) for _, task in members}
    for run, task in members:
        method = task.method if [m for m, _ in losses].count(task.method) == 1 else f"{task.method} {task.loss}"
        name = task.model if by == "model" else f"{task.model}, {method}" if several else method
        joined.setdefault((str(run.directory), name), []).append((run, task))
    names = [name for _, name in joined]
    contenders = []
    for (directory, name), places in joined.items():
        twice = names.count(name) > 1
        contenders.append(_join(f"{name} ({directory})" if twice else name, places))
    shared = contenders[0].ids
    for contender in contenders[1:]:
        shared = shared[np.isin(shared, contender.ids)]
    question = f"{kind} {metric}" + ("" if budget is None else f" {budget:.3g}")
    return Group(by, question, kind, metric, budget, [contender.at(shared) for contender in contenders])


def _join(name: str, places: list[tuple[Run, Task]]) -> Contender:
    """The nearest point of each image over all of these tasks; images that some task has not reached are left out."""
    tables = [run.rows(task) for run, task in places]
    held = [{key: t[key].to_numpy() for key in ("id", "label", "distance", "success", "prediction")} for t in tables]
    ids = held[0]["id"]
    for part in held[1:]:
        ids = ids[np.isin(ids, part["id"])]
    rows = [np.argsort(part["id"])[np.searchsorted(np.sort(part["id"]), ids)] for part in held]
    radius = np.stack([np.where(h["success"], h["distance"], np.inf)[r] for h, r in zip(held, rows, strict=True)])
    taken = np.stack([h["prediction"][r] for h, r in zip(held, rows, strict=True)])
    first = radius.argmin(0)
    every = np.arange(len(ids))
    methods = [task.method for _, task in places]
    return Contender(
        name=name,
        ids=ids,
        label=held[0]["label"][rows[0]],
        radius=radius[first, every],
        prediction=taken[first, every],
        by=[methods[k] if np.isfinite(radius[k, i]) else "" for i, k in enumerate(first)],
        places=places,
    )


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
