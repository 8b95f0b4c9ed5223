"""The points of a run as 8-bit PNG files, and whether they are still misclassified there.

In a run with 256 levels, a file contains exactly the point that was judged. Other points are rounded, after which many
are classified correctly again, so the rounded image is measured again by the code of the audit (trust/audit).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from plica.core.domain.bounds import Bounds
from plica.evaluation.tasks import folder_name
from plica.runs import Run, Task
from plica.trust.audit.audit import SIZES, context_of
from plica.trust.audit.images import Images
from plica.trust.audit.load import metrics_of
from plica.trust.audit.reference import Model, margins
from plica.utils.files import check_replaceable

FOLDER = "png"


@dataclass(frozen=True)
class Pictures:
    """Counts of files written for a task: `files`, of which `exact` contain the judged points bit for bit. Of the
    others, which are rounded, `kept` still reach the goal, inside the radius."""

    task: Task
    files: list[Path]
    exact: int
    kept: int


def export_png(
    run: Run, folder: Path, models: Callable[[], Mapping[str, Model]], trust: bool = False, overwrite: bool = False
) -> list[Pictures]:
    """Write every point that was found, images wrong from the start left out, as FOLDER/TASK/000ID.png.

    Args:
        run: whose inputs are images.
        folder: the files go into a folder `png` there.
        models: loads the models by name; called where points are rounded.
        trust: whether distances and goals may be Python code that the run names.
        overwrite: replace files that are there.

    Raises:
        ValueError: the inputs are not images of 1 or 3 channels between two numbers, or a model is missing.
        FileExistsError: a file is there.
    """
    if run.bounds.per_feature:
        raise ValueError(f"{run.directory} has bounds for each feature, so that its inputs are not images of 8 bits.")
    for task in run.tasks:
        for _, x_adv in run.points(task):
            _check_images(run, x_adv)
            break
    names = {task.name: _found(run, task) for task in run.tasks}
    # names may come from anybody, and that of a single question contains the path of a model
    places = {name: folder / FOLDER / (folder_name(name).lstrip(".") or "task") for name in names}
    check_replaceable((places[name] / _file(number) for name in names for number in sorted(names[name])), overwrite)
    judged = _Judge(run, models, trust)
    return [_write(run, task, names[task.name], places[task.name], judged) for task in run.tasks]


def to_bytes(x: Float[Tensor, "b *image"], bounds: Bounds) -> UInt8[Tensor, "b *image"]:
    """The nearest of the 256 values that the bounds span."""
    low, high = bounds.numbers
    return ((x.double() - low) / (high - low) * 255).round().clamp(0, 255).to(torch.uint8)


def from_bytes(pixels: UInt8[Tensor, "b *image"], bounds: Bounds, dtype: torch.dtype) -> Float[Tensor, "b *image"]:
    """The pixels as a reader gets them."""
    low, high = bounds.numbers
    return (low + (high - low) * pixels.double() / 255).to(dtype)


class _Judge:
    """Whether rounded points still count; models are loaded at the first one."""

    def __init__(self, run: Run, models: Callable[[], Mapping[str, Model]], trust: bool):
        self.run, self.load, self.trust = run, models, trust
        self.loaded: tuple[Mapping[str, Model], Mapping[str, Callable[..., Tensor]], Images] | None = None

    def __call__(self, task: Task, ids: Int64[Tensor, " b"], points: Float[Tensor, "b *image"]) -> Bool[Tensor, " b"]:
        if self.loaded is None:
            self.loaded = self.load(), metrics_of(self.run, None, self.trust), Images(self.run, None)
        models, metrics, images = self.loaded
        context = context_of(models, metrics, task, self.run.bounds.pair, self.run.bounds.mask, SIZES)
        x, y = images(ids)
        targets = images.targets(task, ids)
        if targets is not None:
            y, context = targets, replace(context, goal=lambda output, target: -margins(output, target))
        context = context.with_float64(points)
        good = context.margins(points, y.numpy()) > 0
        if task.radius is not None and task.through is None:  # a rounded image is no longer T(x, theta)
            good &= context.distances(x.to(points), points, None)[0] <= task.radius
        return torch.as_tensor(good)


def _write(run: Run, task: Task, found: set[int], folder: Path, judged: _Judge) -> Pictures:
    files: list[Path] = []
    exact = kept = 0
    for ids, x_adv in run.points(task):
        rows = torch.tensor([number in found for number in ids.tolist()], dtype=torch.bool)
        ids, x_adv = ids[rows], x_adv[rows]
        if not len(ids):
            continue
        pixels = to_bytes(x_adv, run.bounds)
        points = from_bytes(pixels, run.bounds, x_adv.dtype)
        rounded = (points != x_adv).flatten(1).any(1)
        exact += int((~rounded).sum())
        if bool(rounded.any()):
            kept += int(judged(task, ids[rounded], points[rounded]).sum())
        folder.mkdir(parents=True, exist_ok=True)
        for number, picture in zip(ids.tolist(), pixels.numpy(), strict=True):
            files.append(folder / _file(number))
            _save(picture, files[-1])
    return Pictures(task, files, exact, kept)


def _save(pixels: UInt8[np.ndarray, "*image"], file: Path) -> None:
    from PIL import Image  # not above: most exports need no pictures

    picture = np.moveaxis(pixels, 0, 2) if pixels.ndim == 3 and len(pixels) == 3 else pixels.reshape(pixels.shape[-2:])
    Image.fromarray(np.ascontiguousarray(picture)).save(file)


def _found(run: Run, task: Task) -> set[int]:
    rows = run.rows(task, ["id", "success", "distance"]).to_pylist()
    return {row["id"] for row in rows if row["success"] and row["distance"] > 0}


def _file(number: int) -> str:
    return f"{number:06d}.png"


def _check_images(run: Run, x: Tensor) -> None:
    shape = tuple(x.shape[1:])
    if len(shape) == 2 or (len(shape) == 3 and shape[0] in (1, 3)):
        return
    raise ValueError(
        f"The inputs of {run.directory} have shape {shape}; PNG files take images of 1 or 3 channels, (c, h, w) or "
        "(h, w)."
    )
