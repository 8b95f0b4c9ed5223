"""Reads a run directory: tables at once, tensors chunk by chunk, so that memory does not grow with the run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

from plica.core.domain.bounds import Bounds
from plica.core.domain.read_bounds import read_bounds
from plica.core.formulations import parse_radius
from plica.perturbations import join_distance
from plica.runs import schema
from plica.runs.check.common import BrokenRunError
from plica.runs.check.json_files import Audit, Checks, Manifest, Summary, TaskRecord, check_record, read_object
from plica.runs.check.tables import count_rows, read_constants, read_leaves, read_notes, read_samples
from plica.runs.check.tensors import read_box, read_image_notes, read_images, read_points
from plica.runs.encode import unpack
from plica.runs.points import unmoved_ids, with_unmoved
from plica.runs.schema import MEASURED, arrow_schema
from plica.runs.task import LATER, Task, question_text
from plica.utils.files import check_unicode
from plica.utils.messages import few, one_line
from plica.utils.notebook import ShownInNotebooks


@dataclass(frozen=True)
class Run(ShownInNotebooks):
    """A run, finished or not.

    Attributes:
        directory: of the run.
        manifest: the content of manifest.json.
        summary: the content of summary.json; empty while the run is unfinished.
        tasks: in the order of the plan.
        tables: the files of samples of each task, by its name; a file per finished chunk.
        files: the files of points, in the order of `tables`.
        images: the files of images, a file per chunk.
        notes: sentences about images that failed and batches that were halved.
    """

    directory: Path
    manifest: dict[str, Any]
    summary: dict[str, Any]
    tasks: list[Task]
    tables: dict[str, list[Path]]
    files: dict[str, list[Path]]
    images: list[Path]
    notes: list[str] = field(default_factory=list)

    @cached_property
    def samples(self) -> pa.Table:
        """A row per task and image, by task as in `tasks`, then by id; read at the first access."""
        tables = [self.rows(task) for task in self.tasks if self.tables[task.name]]
        return pa.concat_tables(tables, promote_options="default") if tables else pa.table({})

    @property
    def classes(self) -> list[str] | None:
        """Names of the classes; None where the data have none."""
        return (self.manifest.get("data") or {}).get("classes")

    @cached_property
    def bounds(self) -> Bounds:
        """Bounds of the inputs, and which features may move."""
        file, plan = self.directory / schema.BOUNDS, self.manifest.get("plan") or {}
        if file.is_file():
            return read_box(file)
        return read_bounds(plan.get("bounds") or (0.0, 1.0))

    def task(self, name: str | Task) -> Task:
        """The task of that name.

        Raises:
            ValueError: the run has no task of that name.
        """
        for task in self.tasks:
            if name in (task, task.name):
                return task
        raise ValueError(f"{self.directory} has no task {name!r}; it has {few(task.name for task in self.tasks)}.")

    def rows(self, task: str | Task, columns: list[str] | None = None) -> pa.Table:
        """The samples of one task, by id.

        Args:
            task: the task or its name.
            columns: those to read, `id` among them; all, with the constant ones and `task`, if not given.

        Raises:
            ValueError: a file is broken, or the run has no such task.
        """
        task = self.task(task)
        samples = _read_parts(self.tables[task.name], columns)
        return (samples if columns else task.complete(samples)).sort_by("id")

    def points(self, task: str | Task) -> Iterator[tuple[Int64[Tensor, " b"], Float[Tensor, "b *image"]]]:
        """ids and x_adv of a task, chunk by chunk; x_adv is x where no point was found."""
        for part in self.parts(task):
            yield part["id"], part["x_adv"]

    def thetas(self, task: str | Task) -> Iterator[Float[Tensor, "b k"] | None]:
        """The perturbation's parameters, x_adv = T(x, theta), chunk by chunk as `points`; None for x + delta.

        A row is nan where the point is the image itself; its theta is the perturbation's start.
        """
        for part in self.parts(task):
            yield part.get("theta")

    def parts(self, task: str | Task) -> Iterator[dict[str, Tensor]]:
        """id, x_adv and, with a perturbation, theta of a task, chunk by chunk: `points` and `thetas` at once."""
        name, images = self.task(task).name, {file.name: file for file in self.images}
        for table, file in zip(self.tables[name], self.files[name], strict=True):
            points = read_points(file)
            if file.name in images and len(points["id"]) < count_rows(table):
                points = with_unmoved(points, unmoved_ids(table), read_images(images[file.name]))
            yield points

    def lower(self, task: str | Task) -> pa.Table | None:
        """id and lower of a task, by id; None where it has no lower bounds."""
        samples = _read_parts(self.tables[self.task(task).name], None)
        return samples.select(["id", "lower"]).sort_by("id") if "lower" in samples.column_names else None

    def leaves(self, task: str | Task) -> Iterator[pa.Table]:
        """The proofs of the lower bounds of a task, chunk by chunk: schema.LEAVES."""
        for table in self.tables[self.task(task).name]:
            yield read_leaves(schema.leaves_file(table))

    def inputs(self) -> Iterator[tuple[Int64[Tensor, " b"], Float[Tensor, "b *image"], Shaped[Tensor, "b *label"]]]:
        """ids, x and y of the images, chunk by chunk; nothing where the run does not contain them.

        Of `plica evaluate` x is as in the data, in float32. A model in another precision is attacked at x rounded to
        it, from where distances are measured: x.to(x_adv.dtype), with x_adv of `points`.
        """
        for file in self.images:
            images = read_images(file)
            yield images["id"], unpack(images["x"]), images["y"]


def load(directory: str | Path) -> Run:
    """Read a run; of an unfinished one, the finished parts.

    Args:
        directory: of the run, or a file in it.

    Raises:
        FileNotFoundError: there is no run, or an incomplete one of `plica radius` or `plica attack`.
        ValueError: a file of it is broken.
    """
    given = directory = Path(directory)
    if directory.is_file():
        directory = directory.parent
    check_unicode(directory)
    try:
        for name, record in ((schema.CHECKS, Checks), (schema.AUDIT, Audit)):  # for those who will read them
            read_object(directory / name, record)
        if (directory / schema.MANIFEST).is_file():
            return _load_evaluation(directory)
        if (directory / schema.SAMPLES).is_file():
            return _load_single(directory)
    except BrokenRunError:  # the message names the file, and says what to do
        raise
    except (ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise ValueError(f"The run {directory} is broken ({one_line(error)}); run it again.") from error
    why = "it holds no results of plica" if given.exists() else "there is no such directory"
    raise FileNotFoundError(
        f"{given} is not a run: {why}; give the directory that plica radius, attack, bracket or evaluate wrote."
    )


def _load_evaluation(directory: Path) -> Run:
    """The directory of `plica evaluate`."""
    manifest = read_object(directory / schema.MANIFEST, Manifest)
    tables = {
        folder.name: sorted(folder.glob("[0-9]*.parquet"))  # written last, so it marks a finished part
        for folder in sorted((directory / "parts").glob("*"))
    }
    images = sorted((directory / "inputs").glob("[0-9]*.safetensors"))
    tasks = [Task.of_record(record) for record in manifest.get("tasks", [])]
    tasks = tasks or [task for name in tables for task in _task_of_parts(name, tables[name])]
    tables = {task.name: tables.get(task.name, []) for task in tasks}
    return Run(
        directory=directory,
        manifest=manifest,
        summary=read_object(directory / schema.SUMMARY, Summary),
        tasks=tasks,
        tables=tables,
        files={name: [file.with_suffix(".safetensors") for file in files] for name, files in tables.items()},
        images=images,
        notes=_unreadable(images) + [note for files in tables.values() for file in files for note in read_notes(file)],
    )


def _load_single(directory: Path) -> Run:
    """The directory of `plica radius` or `plica attack`: a run with one task and one chunk."""
    for name in (schema.POINTS, schema.SUMMARY):
        if not (directory / name).is_file():
            raise FileNotFoundError(f"{directory} is not a complete run: it has no {name}; run it again.")
    summary = read_object(directory / schema.SUMMARY, Summary)
    arguments = summary.get("arguments", {})
    metric, method, model = (str(arguments.get(key, "?")) for key in ("metric", "method", "model"))
    through, goal, draws, levels, target = (arguments.get(name) for name in LATER)
    if target is None and arguments.get("targets"):  # of an older version
        target = Path(arguments["targets"]).name
    kind, radius, loss = "min-radius", None, None
    if arguments.get("radius") is not None:
        kind, radius, loss = "max-loss", parse_radius(str(arguments["radius"])), str(arguments.get("loss", "margin"))
    words = (kind, join_distance(metric, through), None if radius is None else f"{radius:.3g}", goal)
    target = None if target is None else str(target)
    question = question_text(*words, levels=levels, target=target)
    task = Task(
        f"{model}--{question}--{method}",
        model,
        question,
        kind,
        metric,
        radius,
        loss,
        method,
        through,
        goal,
        draws,
        levels,
        target,
    )
    table, images = directory / schema.SAMPLES, directory / schema.INPUTS
    data = {"n": count_rows(table), "classes": summary.get("classes")}
    return Run(
        directory=directory,
        manifest={
            "format": schema.FORMAT,
            "plan": arguments,
            "versions": summary.get("versions", {}),
            "data": data,
        },
        summary=summary,
        tasks=[task],
        tables={task.name: [table]},
        files={task.name: [directory / schema.POINTS]},
        images=[images] if images.is_file() else [],
    )


def _read_parts(files: list[Path], columns: list[str] | None) -> pa.Table:
    tables = [read_samples(file, columns) for file in files]
    return pa.concat_tables(tables, promote_options="default") if tables else _no_samples(columns)


def _no_samples(columns: list[str] | None) -> pa.Table:
    samples = arrow_schema(MEASURED).empty_table()
    return samples.select(columns) if columns else samples


def _task_of_parts(name: str, files: list[Path]) -> list[Task]:
    """A task from the constant columns of its first part that has rows; none where no part has."""
    for file in files:
        row = read_constants(file)
        if row is not None:
            check_record(file, row | {"name": name}, TaskRecord)
            return [Task.of_record(row | {"name": name})]
    return []


def _unreadable(images: list[Path]) -> list[str]:
    """A sentence for each image of the plan that could not be read."""
    notes = [note for file in images for note in read_image_notes(file).items()]
    return [f"image {number} could not be read: {why}" for number, why in notes]
