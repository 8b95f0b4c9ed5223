"""The information needed to repeat the runs: plans, hashes, versions, data, arithmetic."""

from __future__ import annotations

import json
from typing import Any

import torch
from markupsafe import Markup

from plica.core.model.precision import DTYPES
from plica.report.collect import ReportData
from plica.report.templates import fragment
from plica.runs import Run


def section(report: ReportData) -> Markup:
    return fragment("reproduce.html", runs=[_origin(run) for run in report.runs])


def _origin(run: Run) -> dict[str, Any]:
    manifest = run.manifest
    data = {key: value for key, value in (manifest.get("data") or {}).items() if key != "classes"}
    return {
        "directory": str(run.directory),
        "plan": json.dumps(manifest.get("plan", {}), indent=2, ensure_ascii=False, default=str),
        "hashes": _flat(manifest.get("hashes") or {}),
        "versions": _flat(manifest.get("versions") or {}),
        "data": _flat(data),
        "arithmetic": _arithmetic(run),
    }


def _arithmetic(run: Run) -> list[tuple[str, str]]:
    """The precision that each model was judged and searched in."""
    precision = (run.manifest.get("plan") or {}).get("precision")
    search = f", searched in {precision} (autocast)" if precision in DTYPES else ""
    own = dict[str, torch.dtype]()
    for task in run.tasks:
        if task.model not in own and (points := next(run.points(task), None)) is not None:
            own[task.model] = points[1].dtype
    return [(f"arithmetic/{model}", f"{str(dtype).removeprefix('torch.')}{search}") for model, dtype in own.items()]


def _flat(record: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """(name, value) pairs; a record within a record is written name/name."""
    pairs: list[tuple[str, str]] = []
    for key, value in record.items():
        pairs += _flat(value, f"{prefix}{key}/") if isinstance(value, dict) else [(f"{prefix}{key}", str(value))]
    return pairs
