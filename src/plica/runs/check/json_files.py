"""manifest.json, summary.json, checks.json and audit.json of a run: their keys, and how they are read."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, RootModel, ValidationError, model_validator

from plica.runs.check.common import ADVICE, BrokenRunError, printable
from plica.utils.messages import one_line, plain, shown


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
    precision: str | None = None
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

    @model_validator(mode="after")
    def _counted(self) -> Manifest:
        if self.plan is not None and self.plan.chunk and (self.data is None or "n" not in self.data.model_fields_set):
            raise ValueError("data.n, the number of images, is missing")
        return self


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
    precision: str | None = None
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
        value = printable(json.loads(text, parse_float=_finite, parse_constant=_finite))
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
