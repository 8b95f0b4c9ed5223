"""Reads a plan. The error for an invalid one names the key, its value, and the most similar valid one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml
from pydantic import ValidationError

from plica.evaluation.plan import Plan
from plica.evaluation.strict import PlanError, Strict, nearest
from plica.utils.files import read_small
from plica.utils.messages import one_line, sentence, shown


def read_plan(plan: str | Path | Mapping[str, Any] | Plan, **changes: Any) -> Plan:
    """A plan from a YAML file, a dict or a Plan; `changes` overwrite keys, such as "data.n" in a nested record.

    Raises:
        PlanError: it is not a valid plan.
    """
    return read_as(Plan, plan, changes)


R = TypeVar("R", bound=Strict)
EXAMPLE = "`plica plan` writes one to start from"


def read_as(
    kind: type[R], plan: str | Path | Mapping[str, Any] | R, changes: Mapping[str, Any], example: str = EXAMPLE
) -> R:
    """`read_plan` of any kind of plan. example: for messages, where one is to be had."""
    where = "The plan"
    if isinstance(plan, str | Path):
        where, plan = f"The plan {plan}", _read_yaml(Path(plan), example)
    keys: Any = plan.model_dump(exclude_unset=True) if isinstance(plan, Strict) else dict(plan)
    for key, value in changes.items():
        keys = _changed(keys, key.split("."), value)
    try:
        return kind.model_validate(keys)
    except ValidationError as error:
        raise PlanError(sentence(ValueError(f"{where}: {_fault(error)}"))) from None


def _changed(record: Any, keys: list[str], value: Any) -> Any:
    if len(keys) == 1:
        return {**record, keys[0]: value}
    inner = record.get(keys[0], {})
    inner = {"path": str(inner)} if isinstance(inner, str | Path) else inner  # the short form of data
    return {**record, keys[0]: _changed(inner, keys[1:], value)}


def _read_yaml(file: Path, example: str) -> dict[str, Any]:
    try:
        content = yaml.safe_load(read_small(file))
    except FileNotFoundError:
        raise PlanError(f"There is no plan {file}; {example}.") from None
    except RecursionError:
        raise PlanError(f"The plan {file} is nested too deep; {example}.") from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f" at line {mark.line + 1}" if mark else ""
        reason = getattr(error, "problem", None) or one_line(error)
        raise PlanError(f"The plan {file} cannot be read as YAML{line} ({reason}); {example}.") from None
    if not isinstance(content, dict):
        raise PlanError(f"The plan {file} holds no keys; {example}.")
    return cast(dict[str, Any], content)


def _fault(error: ValidationError) -> str:
    """The first fault: the key, what is wrong, the value."""
    fault: Any = error.errors(include_url=False)[0]
    where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in fault["loc"]).lstrip(".")
    at = f"{where}: " if where else ""
    if fault["type"] == "missing":
        return f"{where} is missing"
    if fault["type"] == "value_error":
        return at + str(fault["ctx"]["error"]).rstrip(".")
    if fault["type"] == "literal_error":
        known = re.findall(r"'([^']*)'", fault["ctx"]["expected"])
        return f"{at}there is no {shown(fault['input'])}{nearest(fault['input'], known)}"
    if fault["type"] == "model_type":
        return f"{at}keys are needed, as in {{key: value}}, got {shown(fault['input'])}"
    message = fault["msg"][0].lower() + fault["msg"][1:]
    return f"{at}{message}, got {shown(fault['input'])}"
