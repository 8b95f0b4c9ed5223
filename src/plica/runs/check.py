"""Reads the files of a run and checks them against `schema`. A run may come from anybody, cut off or changed on the
way: what is not as the schema has it is one sentence here, and nothing else of plica has to expect it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, RootModel, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from plica.core.domain.bounds import Bounds
from plica.core.domain.read_bounds import checked_bounds
from plica.core.status import Status
from plica.runs.schema import BOX, CERTIFIED, CONSTANT, IMAGES, LEAVES, MEASURED, MOVED, NOTES, arrow_schema, names
from plica.utils.messages import few, one_line, plain, shown

DEEPEST = 50  # levels of a JSON file
ADVICE = "restore the file or run it again"
KEYS = ("id", "success", "distance")  # columns that every part has


class BrokenRunError(ValueError):
    """A file of a run is missing, broken or not as the schema has it; one sentence that names it."""


class _Record(BaseModel):
    """A JSON object with these keys; others are let through, for versions before and after this one."""

    model_config = ConfigDict(extra="allow", strict=True)


class TaskRecord(_Record):
    name: Annotated[str, Field(pattern=r"^[^/\\]+$")]
    model: str
    question: str
    kind: Literal["min-radius", "max-loss"]
    metric: str
    radius: Annotated[FiniteFloat, Field(ge=0)] | None
    loss: str | None
    method: str
    through: str | None = None
    goal: str | None = None
    draws: Annotated[int, Field(ge=1)] | None = None
    levels: Annotated[int, Field(ge=2)] | None = None
    target: str | None = None


class _Verdict(_Record):
    verdict: str = ""
    findings: list[dict[str, Any]] = []
    checks: list[str] = []


class _Data(_Record):
    n: Annotated[int, Field(ge=0)] = 0
    shape: list[int] = []
    classes: list[str] | None = None


class _Plan(_Record):
    bounds: list[FiniteFloat] | str | None = None
    chunk: Annotated[int, Field(ge=1)] | None = None
    models: list[dict[str, Any]] = []
    identity: dict[str, Any] = {}


class _Hashes(_Record):
    plan: str = ""
    data: str = ""
    models: dict[str, str] = {}


class _Versions(_Record):
    threads: Annotated[int, Field(ge=1, le=4096)] | None = None


class _Answers(_Record):
    images: list[int] = []
    models: dict[str, list[list[float]]] = {}
    distances: dict[str, list[list[float]]] = {}


class Manifest(_Record):
    """manifest.json. Other tools may write one without plan and hashes."""

    plan: _Plan | None = None
    hashes: _Hashes = _Hashes()
    versions: _Versions | None = None
    data: _Data | None = None
    tasks: list[TaskRecord] = []
    shard: str | None = None
    answers: _Answers = _Answers()


class _Arguments(_Record):
    metric: str = "?"
    method: str = "?"
    model: str = "?"
    radius: str | FiniteFloat | None = None
    loss: str | None = None
    through: str | None = None
    goal: str | None = None
    draws: Annotated[int, Field(ge=1)] | None = None
    levels: Annotated[int, Field(ge=2)] | None = None
    target: int | str | None = None
    targets: str | None = None
    bounds: list[FiniteFloat] | str | None = None
    weights: str | None = None


class Summary(_Record):
    """summary.json, of `plica evaluate` and of `plica radius` and `attack`."""

    arguments: _Arguments = _Arguments()
    versions: dict[str, Any] = {}
    classes: list[str] | None = None
    verdict: _Verdict | str | None = None


class Checks(RootModel[dict[str, _Verdict]]):
    """checks.json: the verdict on each model."""


class _Audited(_Record):
    differences: dict[str, Any] = {}


class _Transfer(_Record):
    beaten: int
    images: int
    model: str
    question: str
    origin: str


class Audit(_Record):
    """audit.json."""

    agrees: bool = True
    tasks: list[_Audited] = []
    transfers: list[_Transfer] = []


def read_object(file: Path, record: type[BaseModel] | None = None) -> dict[str, Any]:
    """The object in a JSON file, its texts without what a terminal would obey; an empty dict where there is no file.

    Args:
        file: manifest.json, summary.json, checks.json or audit.json.
        record: what has to stand in it; anything if not given.

    Raises:
        ValueError: the file is broken.
    """
    if not file.is_file():
        return {}
    try:
        text = file.read_text(encoding="utf-8")
        value = _printable(json.loads(text, parse_float=_finite, parse_constant=_finite))
    except (ValueError, OSError, RecursionError) as error:
        raise BrokenRunError(f"{file} is broken ({one_line(error)}); {ADVICE}.") from error
    if not isinstance(value, dict):
        raise BrokenRunError(f"{file} contains a {type(value).__name__}, not an object; {ADVICE}.")
    if record is not None:
        check_record(file, value, record)
    return cast(dict[str, Any], value)


def _finite(number: str) -> float:
    """A number of JSON, which has none that is not finite; Python reads NaN and 1e999 all the same."""
    value = float(number)
    if not math.isfinite(value):
        raise ValueError(f"{shown(number)} is not a finite number")
    return value


def check_record(file: Path, value: Mapping[str, Any], record: type[BaseModel]) -> None:
    """Raises ValueError unless the value has the keys of the record, of their types."""
    try:
        record.model_validate(value)
    except ValidationError as error:
        fault: Any = error.errors(include_url=False)[0]
        where = ".".join(plain(str(part)) for part in fault["loc"])
        said = fault["msg"][0].lower() + fault["msg"][1:]
        raise BrokenRunError(f"{file} is broken ({where}: {said}, got {shown(fault['input'])}); {ADVICE}.") from None


def read_samples(file: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """The samples of a part.

    Args:
        file: the part.
        columns: those of schema.MEASURED and CERTIFIED that are needed; if not given, all that the file has.

    Raises:
        ValueError: the file is broken, or a column is missing, of another type or without a value in some row.
    """
    found = _parquet_schema(file)
    missing = [name for name in columns or KEYS if name not in found.names]
    if missing:
        raise BrokenRunError(f"{file} has no column {missing[0]} (it has {few(found.names)}); {ADVICE}.")
    known = (*MEASURED, *CERTIFIED)
    table = _read_table(file, arrow_schema(c for c in known if c.name in (found.names if columns is None else columns)))
    if "status" in table.column_names:
        unknown = [status for status in table["status"].unique().to_pylist() if status not in Status.__members__]
        if unknown:
            raise BrokenRunError(f"{file} has the status {shown(unknown[0])}, which is not one of plica's; {ADVICE}.")
    return table


def read_leaves(file: Path) -> pa.Table:
    """What proves the lower bounds of a part; without rows where there is no file.

    Raises:
        ValueError: the file is broken, or a column is missing, of another type or without a value in some row.
    """
    wanted = arrow_schema(LEAVES)
    if not file.exists():
        return wanted.empty_table()
    missing = [name for name in wanted.names if name not in _parquet_schema(file).names]
    if missing:
        raise BrokenRunError(f"{file} has no column {missing[0]}; {ADVICE}.")
    return _read_table(file, wanted)


def _read_table(file: Path, wanted: pa.Schema) -> pa.Table:
    """These columns of a table, of these types."""
    found = _parquet_schema(file)
    for field in wanted:
        if found.names.count(field.name) > 1 or found.field(field.name).type != field.type:
            seen = ", ".join(str(other.type) for other in found if other.name == field.name)
            raise BrokenRunError(f"The column {field.name} of {file} is {seen}, not {field.type}; {ADVICE}.")
    try:
        table = pq.ParquetFile(file.absolute()).read(wanted.names)
    except (OSError, pa.ArrowException) as error:
        raise BrokenRunError(f"{file} cannot be read ({one_line(error)}); {ADVICE}.") from error
    for name in wanted.names:
        if table[name].null_count:
            raise BrokenRunError(
                f"The column {name} of {file} has no value in {table[name].null_count} rows; {ADVICE}."
            )
    return table


def read_constants(file: Path) -> dict[str, Any] | None:
    """The constant columns of a part's first row; None where it has no rows.

    Raises:
        ValueError: the file is broken.
    """
    kept = [name for name in names(CONSTANT) if name in _parquet_schema(file).names]  # old runs lack some
    try:
        rows = pq.ParquetFile(file.absolute()).read(kept).slice(0, 1).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise BrokenRunError(f"{file} cannot be read ({one_line(error)}); {ADVICE}.") from error
    return _printable(rows[0]) if rows else None


def count_rows(file: Path) -> int:
    """Rows of a part. Raises ValueError where the file is broken."""
    _parquet_schema(file)
    return pq.read_metadata(file.absolute()).num_rows


def read_notes(file: Path) -> list[str]:
    """The notes in the schema of a part. Raises ValueError where the file is broken."""
    content = (_parquet_schema(file).metadata or {}).get(NOTES, b"[]")
    notes = _parsed(file, content)
    if not isinstance(notes, list) or not all(isinstance(note, str) for note in notes):
        raise BrokenRunError(f"The notes of {file} are not a list of sentences; {ADVICE}.")
    return notes


def read_image_notes(file: Path) -> dict[str, str]:
    """Why images could not be read, by id, from the header of their file. Raises ValueError where it is broken."""
    _check_file(file)
    try:
        with safe_open(file, "pt") as header:
            content = (header.metadata() or {}).get(NOTES.decode(), "{}")
    except (SafetensorError, OSError) as error:
        raise BrokenRunError(f"{file} cannot be read ({one_line(error)}); {ADVICE}.") from error
    notes = _parsed(file, content)
    if not isinstance(notes, dict):
        raise BrokenRunError(f"The notes of {file} are not an object; {ADVICE}.")
    return {number: str(why) for number, why in notes.items()}


def read_tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, by name.

    Raises:
        ValueError: it is broken.
    """
    _check_file(file)
    try:
        return load_file(file)
    except (SafetensorError, OSError, RuntimeError, ValueError) as error:
        raise BrokenRunError(f"{file} cannot be read ({one_line(error)}); {ADVICE}.") from error


def read_images(file: Path) -> dict[str, Tensor]:
    """x, y and id of a chunk of images, and the targets if any; id is 0, 1, 2, ... where the file has none.

    Raises:
        ValueError: it is broken, or a tensor is missing or of another type or length.
    """
    tensors = read_tensors(file)
    _check_names(file, tensors, names(IMAGES), needed=("x", "y"))
    _check(
        file,
        "x",
        tensors["x"],
        tensors["x"].ndim > 1,
        tensors["x"].dtype == torch.uint8 or tensors["x"].is_floating_point(),
    )
    tensors.setdefault("id", torch.arange(len(tensors["x"])))
    y, b = tensors["y"], len(tensors["x"])
    _check(file, "y", y, y.ndim > 0 and len(y) == b, y.dtype == torch.int64 or y.is_floating_point())
    for name in ("id", "targets"):
        if name in tensors:
            _check_integers(file, name, tensors[name], b)
    return tensors


def read_points(file: Path) -> dict[str, Tensor]:
    """x_adv, id and, where a perturbation made the points, theta; id is 0, 1, 2, ... where the file has none.

    Raises:
        ValueError: it is broken, or a tensor is missing or of another type or length.
    """
    tensors = read_tensors(file)
    _check_names(file, tensors, names(MOVED), needed=("x_adv",))
    x_adv = tensors["x_adv"]
    _check(file, "x_adv", x_adv, x_adv.ndim > 1, x_adv.is_floating_point())
    tensors.setdefault("id", torch.arange(len(x_adv)))
    _check_integers(file, "id", tensors["id"], len(x_adv))
    theta = tensors.get("theta")
    if theta is not None:
        _check(file, "theta", theta, theta.ndim == 2 and len(theta) == len(x_adv), theta.is_floating_point())
    return tensors


def read_box(file: Path) -> Bounds:
    """The bounds of a run.

    Raises:
        ValueError: the file is broken, or the tensors are not bounds.
    """
    tensors = read_tensors(file)
    _check_names(file, tensors, names(BOX), needed=("low", "high"))
    for name, tensor in tensors.items():
        _check(file, name, tensor, True, tensor.dtype == torch.bool if name == "mask" else tensor.is_floating_point())
    return checked_bounds(Bounds(**tensors), str(file))


def _printable(value: Any, level: int = 0) -> Any:
    """A JSON value whose texts hold nothing that a terminal would obey.

    Raises:
        RecursionError: it is nested too deep.
    """
    if level > DEEPEST:
        raise RecursionError("nested too deep")
    if isinstance(value, dict):
        return {plain(key): _printable(part, level + 1) for key, part in value.items()}
    if isinstance(value, list):
        return [_printable(part, level + 1) for part in value]
    return plain(value) if isinstance(value, str) else value


def _parsed(file: Path, content: str | bytes) -> Any:
    try:
        return _printable(json.loads(content))
    except (ValueError, RecursionError) as error:
        raise BrokenRunError(f"The notes of {file} are broken ({one_line(error)}); {ADVICE}.") from error


def _parquet_schema(file: Path) -> pa.Schema:
    """Read by its absolute path, as everywhere here: pyarrow takes a colon in a relative one for an address."""
    _check_file(file)
    try:
        return pq.read_schema(file.absolute())
    except (OSError, pa.ArrowException, ValueError) as error:
        raise BrokenRunError(f"{file} cannot be read ({one_line(error)}); {ADVICE}.") from error


def _check_file(file: Path) -> None:
    if not file.is_file():  # a pipe would be waited for
        raise BrokenRunError(f"{file} is not there, or not a regular file; {ADVICE}.")


def _check_names(file: Path, tensors: Mapping[str, Tensor], known: Sequence[str], needed: Sequence[str]) -> None:
    missing = [name for name in needed if name not in tensors]
    if missing:
        raise BrokenRunError(f"{file} has no tensor {' and no tensor '.join(missing)}; {ADVICE}.")
    unknown = [name for name in tensors if name not in known]
    if unknown:
        raise BrokenRunError(f"{file} has the tensor {shown(unknown[0])}, which does not belong there; {ADVICE}.")


def _check_integers(file: Path, name: str, tensor: Tensor, rows: int) -> None:
    _check(file, name, tensor, tuple(tensor.shape) == (rows,), tensor.dtype == torch.int64)


def _check(file: Path, name: str, tensor: Tensor, has_shape: bool, has_type: bool) -> None:
    if not (has_shape and has_type):
        seen = f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
        raise BrokenRunError(f"The tensor {name} of {file} is {seen}, which does not fit the others; {ADVICE}.")
