"""The reading side of a run directory: tables at once, tensors chunk by chunk, so that memory stays flat."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Float, Int64
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from plica.core.formulations import parse_radius
from plica.data.bounds import FILE, Bounds, read_bounds
from plica.perturbations import join_distance
from plica.runs.encode import unpack
from plica.runs.points import filled, unmoved
from plica.utils.messages import few, one_line
from plica.utils.notebook import ShownInNotebooks


@dataclass(frozen=True)
class Task:
    """One model, asked one question by one method. radius and loss are None for min-radius, in the metric's units.

    metric: "l2"; with a perturbation "l2 through flow", or its own distance, "theta through flow".
    """

    name: str
    model: str
    question: str
    kind: str
    metric: str
    radius: float | None
    loss: str | None
    method: str


CONSTANT = tuple(each.name for each in fields(Task) if each.name != "name")  # columns beside the measured ones
SAMPLES = pa.schema(
    {"id": pa.int64(), "label": pa.int64(), "prediction": pa.int64(), "success": pa.bool_()}
    | dict.fromkeys(("distance", "margin", "violation", "stationarity"), pa.float64())
    | {"status": pa.string(), "gradients": pa.int64(), "forwards": pa.int64(), "seconds": pa.float64()}
)  # what is measured of each image
NOTES = b"notes"  # in the schema of a part: what happened while it was made, a JSON list of sentences


@dataclass(frozen=True)
class Run(ShownInNotebooks):
    """A run as far as it has come: per task the files of its finished parts, and the files of the images."""

    directory: Path
    manifest: dict[str, Any]
    summary: dict[str, Any]
    tasks: list[Task]
    tables: dict[str, list[Path]]
    files: dict[str, list[Path]]
    images: list[Path]
    notes: list[str] = field(default_factory=list)  # what happened on the way: images that failed, batches halved

    @cached_property
    def samples(self) -> pa.Table:
        """A row per task and image, by task as in `tasks`, then by id; read when it is asked for."""
        held = [self.rows(task) for task in self.tasks if self.tables[task.name]]
        return pa.concat_tables(held) if held else pa.table({})

    @property
    def classes(self) -> list[str] | None:
        """Names of the classes, where the data have some."""
        return (self.manifest.get("data") or {}).get("classes")

    @cached_property
    def bounds(self) -> Bounds:
        """Those of the inputs, and which features may move."""
        file, plan = self.directory / FILE, self.manifest.get("plan") or {}
        if file.is_file():
            return Bounds(**read_tensors(file))
        return read_bounds(plan.get("bounds") or (0.0, 1.0))

    def task(self, name: str | Task) -> Task:
        """The task of that name.

        Raises:
            ValueError: there is none.
        """
        found = [task for task in self.tasks if name in (task, task.name)]
        if not found:
            raise ValueError(f"{self.directory} has no task {name!r}; it has {few(task.name for task in self.tasks)}.")
        return found[0]

    def rows(self, task: str | Task, columns: list[str] | None = None) -> pa.Table:
        """The samples of one task, by id; of these columns only, id among them, where some are named.

        Raises:
            ValueError: a file is broken.
        """
        told = self.task(task)
        if not self.tables[told.name]:
            none = _complete(told, SAMPLES.empty_table())
            return none.select(columns) if columns else none
        try:
            held = [pq.read_table(file, columns=columns) for file in self.tables[told.name]]
            held = pa.concat_tables([part if columns else _complete(told, part) for part in held])
        except (OSError, pa.ArrowException) as error:
            raise ValueError(f"The samples of {told.name} cannot be read ({one_line(error)}).") from error
        return held.sort_by("id") if len(held) else held

    def points(self, task: str | Task) -> Iterator[tuple[Int64[Tensor, " b"], Float[Tensor, "b *image"]]]:
        """ids and x_adv of a task, chunk by chunk; x_adv is x where nothing was found."""
        for held in self.parts(task):
            yield held["id"], held["x_adv"]

    def thetas(self, task: str | Task) -> Iterator[Float[Tensor, "b k"] | None]:
        """What a perturbation made the points of, chunk by chunk as `points` has them; None for x + delta.

        A row is nan where nothing was found: its point is the image, and its theta the perturbation's start.
        """
        for held in self.parts(task):
            yield held.get("theta")

    def parts(self, task: str | Task) -> Iterator[dict[str, Tensor]]:
        """id, x_adv and, of a perturbation, theta of a task, chunk by chunk: `points` and `thetas` at once."""
        name, images = self.task(task).name, {file.name: file for file in self.images}
        for table, file in zip(self.tables[name], self.files[name], strict=True):
            held = read_tensors(file)
            held["id"] = _ids(held, "x_adv")
            if file.name in images and len(held["id"]) < pq.read_metadata(table).num_rows:
                held = filled(held, unmoved(table), read_tensors(images[file.name]))
            yield held

    def inputs(self) -> Iterator[tuple[Int64[Tensor, " b"], Float[Tensor, "b *image"], Int64[Tensor, " b"]]]:
        """ids, x and y chunk by chunk, as they were attacked; nothing where the run did not keep them."""
        for file in self.images:
            held = read_tensors(file)
            yield _ids(held, "x"), unpack(held["x"]), held["y"]


def load(directory: str | Path) -> Run:
    """Read a run, or what there is of one that is unfinished.

    Raises:
        FileNotFoundError: there is no run.
        ValueError: a file of it is broken.
    """
    directory = Path(directory)
    if directory.is_file():
        directory = directory.parent  # a file of the run was named
    try:
        if (directory / "manifest.json").is_file():
            return _load_parts(directory)
        if (directory / "samples.parquet").is_file():
            return _load_single(directory)
    except (ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise ValueError(f"The run {directory} is broken ({one_line(error)}); make it anew.") from error
    raise FileNotFoundError(f"{directory} holds no run (no manifest.json, no samples.parquet); give one's directory.")


def read_tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a file.

    Raises:
        ValueError: it is broken.
    """
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{file} cannot be read ({one_line(error)}); make the run anew.") from error


def _load_parts(directory: Path) -> Run:
    manifest = _json(directory / "manifest.json")
    tables = {
        folder.name: sorted(folder.glob("[0-9]*.parquet"))  # the parquet comes last, so it marks a whole part
        for folder in sorted((directory / "parts").glob("*"))
    }
    images = sorted((directory / "inputs").glob("[0-9]*.safetensors"))
    told = [Task(**{key: task[key] for key in ("name", *CONSTANT)}) for task in manifest.get("tasks", [])]
    told = told or [task for name in tables for task in _constant(name, tables[name])]
    tables = {task.name: tables.get(task.name, []) for task in told}
    return Run(
        directory=directory,
        manifest=manifest,
        summary=_json(directory / "summary.json") if (directory / "summary.json").is_file() else {},
        tasks=told,
        tables=tables,
        files={name: [file.with_suffix(".safetensors") for file in files] for name, files in tables.items()},
        images=images,
        notes=_unreadable(images) + [note for files in tables.values() for file in files for note in _notes(file)],
    )


def _load_single(directory: Path) -> Run:
    """The directory of `plica radius` or `plica attack`."""
    summary = _json(directory / "summary.json") if (directory / "summary.json").is_file() else {}
    given = summary.get("arguments", {})
    radius = given.get("radius")
    kind = "min-radius" if radius is None else "max-loss"
    value = None if radius is None else parse_radius(str(radius))
    metric, method, model = (str(given.get(key, "?")) for key in ("metric", "method", "model"))
    metric = join_distance(metric, given.get("through"))
    question = f"{kind} {metric}" if value is None else f"{kind} {metric} {value:.3g}"
    loss = None if radius is None else str(given.get("loss", "margin"))
    task = Task(f"{model}--{question}--{method}", model, question, kind, metric, value, loss, method)
    count = pq.read_metadata(directory / "samples.parquet").num_rows
    images = directory / "inputs.safetensors"
    data = {"n": count, "classes": summary.get("classes")}
    return Run(
        directory=directory,
        manifest={"format": 1, "plan": given, "versions": summary.get("versions", {}), "data": data},
        summary=summary,
        tasks=[task],
        tables={task.name: [directory / "samples.parquet"]},
        files={task.name: [directory / "x_adv.safetensors"]},
        images=[images] if images.is_file() else [],
    )


def constant_columns(task: Task, rows: int) -> dict[str, pa.Array]:
    """What every row of a task says about it."""
    return {key: pa.array([value] * rows, type=_type(key)) for key, value in asdict(task).items() if key != "name"}


def _type(key: str) -> pa.DataType:
    return pa.float64() if key == "radius" else pa.string()


def _complete(task: Task, samples: pa.Table) -> pa.Table:
    """With the columns of the task, its name among them."""
    for key, column in constant_columns(task, len(samples)).items():
        if key not in samples.column_names:
            samples = samples.append_column(key, column)
    return samples.append_column("task", pa.array([task.name] * len(samples), type=pa.string()))


def _constant(name: str, files: list[Path]) -> list[Task]:
    """A task from the columns of its first part that has rows."""
    for file in files:
        for row in pq.read_table(file, columns=list(CONSTANT)).slice(0, 1).to_pylist():
            return [Task(name=name, **row)]
    return []


def _notes(file: Path) -> list[str]:
    return json.loads((pq.read_schema(file).metadata or {}).get(NOTES, b"[]"))


def _unreadable(images: list[Path]) -> list[str]:
    """What is noted of images that were asked for and are not there."""
    held = []
    for file in images:
        with safe_open(file, "pt") as opened:
            notes = json.loads((opened.metadata() or {}).get("notes", "{}"))
        held += [f"image {number} could not be read: {why}" for number, why in notes.items()]
    return held


def _ids(held: dict[str, Tensor], name: str) -> Tensor:
    return held.get("id", torch.arange(len(held[name])))


def _json(file: Path) -> dict[str, Any]:
    held = json.loads(file.read_text())
    if not isinstance(held, dict):
        raise ValueError(f"{file.name} holds a {type(held).__name__}, not an object")
    return cast(dict[str, Any], held)
