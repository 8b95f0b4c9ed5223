"""The numbers of a run: accuracies with intervals, what each method broke, radii, and the most robust images.

analysis/counts.py defines when an image is wrong, broken, missed or robust. For min-radius the radius of an image
is the smallest that any method found, and the accuracy at radius r is the share of images with a larger radius.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from plica import runs, trust
from plica.analysis import gaps
from plica.analysis.counts import Counts, broken, counts, robust, wrong
from plica.analysis.intervals import accuracy
from plica.core.status import Status
from plica.evaluation.shards import shard_chunks
from plica.runs.schema import FORMAT, MANIFEST, SUMMARY
from plica.runs.single import quantiles
from plica.utils.files import write_json
from plica.utils.wilson import wilson

HARD = 10  # images that are listed as the most robust
LEVELS = 101  # points of the curve
UNANSWERED = (Status.FAILED.name, Status.NOT_FINITE.name)  # counted as not broken, and reported
COLUMNS = ["id", "distance", "success", "gradients", "forwards", "seconds", "status"]


def write_summary(directory: Path) -> runs.Run:
    """Write the summary.json of a run; the run with it."""
    run = runs.load(directory)
    summary = summarise(run)
    write_json(directory / SUMMARY, summary)
    return replace(run, summary=summary)


def summarise(run: runs.Run) -> dict[str, Any]:
    """All numbers of a run."""
    keys = dict.fromkeys((task.model, task.question) for task in run.tasks)
    questions = [[task for task in run.tasks if (task.model, task.question) == key] for key in keys]
    return {
        "format": FORMAT,
        "complete": complete(run),
        "questions": [_question(run, tasks) for tasks in questions],
        "notes": run.notes,
        "verdict": trust.verdict(run),
    }


def contradictions(run: runs.Run) -> dict[tuple[str, str], str]:
    """A sentence for each question whose numbers in summary.json differ from those of its results, by model and
    question. Keys that only other versions write are ignored."""
    if not (run.directory / MANIFEST).is_file() or not run.summary:
        return {}
    stored = {(one.get("model"), one.get("question")): one for one in run.summary.get("questions", [])}
    found = {}
    for fresh in json.loads(json.dumps(summarise(run)["questions"])):
        key = fresh["model"], fresh["question"]
        path = "" if key not in stored else _difference(stored[key], fresh)
        if path is not None:
            found[key] = f"{path or key[1]} in {SUMMARY} is not what the answers say; run the command again"
    return found


def _difference(stored: Any, fresh: Any, at: str = "") -> str | None:
    """The first key that both have and whose values differ by more than rounding."""
    if isinstance(stored, dict) and isinstance(fresh, dict):
        common = [key for key in fresh if key in stored]
        paths = (_difference(stored[key], fresh[key], f"{at}.{key}" if at else key) for key in common)
        return next((path for path in paths if path is not None), None)
    if isinstance(stored, list) and isinstance(fresh, list) and len(stored) == len(fresh):
        paths = (_difference(a, b, f"{at}[{k}]") for k, (a, b) in enumerate(zip(stored, fresh, strict=True)))
        return next((path for path in paths if path is not None), None)
    if isinstance(stored, float) and isinstance(fresh, float) and math.isclose(stored, fresh, rel_tol=1e-9):
        return None
    return None if stored == fresh else at


def share(hits: int, total: int) -> dict[str, Any]:
    """A proportion with its 95 % interval."""
    value = hits / total if total else None
    low, high = (float(end) for end in wilson(np.array(value or 0.0), total))
    return {"value": value, "low": low, "high": high, "images": total}


def _question(run: runs.Run, tasks: list[runs.Task]) -> dict[str, Any]:
    tables = [run.rows(task, COLUMNS) for task in tasks]
    first = tasks[0]
    ids = np.unique(np.concatenate([table["id"].to_numpy() for table in tables]))
    radius, attacked = np.full((len(tasks), len(ids)), np.inf), np.zeros((len(tasks), len(ids)), dtype=bool)
    for k, table in enumerate(tables):
        rows = np.searchsorted(ids, table["id"].to_numpy())
        radius[k, rows] = np.where(table["success"].to_numpy(), table["distance"].to_numpy(), np.inf)
        attacked[k, rows] = True
    number_wrong, answered = int(wrong(radius).sum()), {n for table in tables for n in _answered(table)}
    numbers = counts(radius, attacked)
    additions, union = (_max_loss if first.kind == "max-loss" else _min_radius)(radius, numbers)
    keys = ("model", "question", "kind", "metric", "through", "radius", "loss", "goal", "draws", "levels", "target")
    return (
        {key: getattr(first, key) for key in keys}
        | {
            "dtype": _dtype(run, tasks),
            "images": len(ids),
            "unanswered": len(ids) - len(answered),
            "wrong": number_wrong,
            "accuracy": share(len(ids) - number_wrong, len(ids)),
            "methods": [
                {
                    "method": task.method,
                    "attacked": n.attacked,
                    "broken": n.broken,
                    "alone": n.alone,
                    "missed": n.missed,
                }
                | addition
                | _spent(table)
                for task, table, n, addition in zip(tasks, tables, numbers, additions, strict=True)
            ],
            "union": {"broken": int(broken(radius).sum())} | union,
            "hard": _hardest(radius, ids, first.kind),
        }
        | _certified(run, tasks, ids, radius.min(0))
    )


def _dtype(run: runs.Run, tasks: list[runs.Task]) -> str | None:
    """The dtype of the points, which is that of the model."""
    points = next((points for task in tasks for _, points in run.points(task)), None)
    return None if points is None else str(points.dtype).removeprefix("torch.")


def _max_loss(radius: np.ndarray, numbers: list[Counts]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Entries of each method, and of all together. `standing`: robust against the method and all before it."""
    images, right = radius.shape[1], ~wrong(radius)

    def share_robust(rows: slice) -> dict[str, Any]:
        return share(int((robust(radius[rows]) & right).sum()), images)

    additions = [
        {
            "robust_accuracy": share_robust(slice(k, k + 1)) if number.attacked_all else None,
            "standing": share_robust(slice(k + 1)),
        }
        for k, number in enumerate(numbers)
    ]
    return additions, {"robust_accuracy": share_robust(slice(None))}


def _min_radius(radius: np.ndarray, numbers: list[Counts]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Entries of each method, and of all together. `found`: images with a radius, including 0."""
    least = radius.min(0)
    finite = least[np.isfinite(least)]
    levels = np.linspace(0, finite.max() if len(finite) else 0, LEVELS)
    curve = {
        "radius": levels.tolist(),
        "accuracy": accuracy(least, levels).tolist() if len(least) else [0.0] * LEVELS,
    }
    additions = [
        {"found": int(np.isfinite(row).sum()), "radius": quantiles(row), "best": number.nearest}
        for row, number in zip(radius, numbers, strict=True)
    ]
    return additions, {"found": len(finite), "radius": quantiles(least), "curve": curve}


def _certified(run: runs.Run, tasks: list[runs.Task], ids: np.ndarray, least: np.ndarray) -> dict[str, Any]:
    """Lower bounds beside the smallest distances; an empty dict if the question has none."""
    tables = [table for task in tasks if (table := run.lower(task)) is not None]
    if not tables:
        return {}
    lower = np.zeros(len(ids))
    for table in tables:
        rows = np.searchsorted(ids, table["id"].to_numpy())
        lower[rows] = np.maximum(lower[rows], table["lower"].to_numpy())
    numbers = {"proved": int((lower > 0).sum()), "lower": quantiles(lower)}
    if tasks[0].radius is not None:
        right = int(((lower >= tasks[0].radius) & np.isinf(least)).sum())  # a bound of 0 reaches the radius 0
        return {"certified": numbers | {"certified_accuracy": share(right, len(ids))}}
    widest = [gap._asdict() | {"upper": _finite(gap.upper)} for gap in gaps.widest(ids, lower, least)]
    return {"certified": numbers | {"closed": int(gaps.closed(lower, least).sum()), "widest": widest}}


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _hardest(radius: np.ndarray, ids: np.ndarray, kind: str) -> list[int]:
    """ids of the images that no method broke, for max-loss, or of the largest radii."""
    order = np.argsort(-radius.min(0), kind="stable")
    chosen = ids[robust(radius)] if kind == "max-loss" else ids[order]
    return chosen[:HARD].tolist()


def _answered(table: pa.Table) -> list[int]:
    """Images for which a method has an answer."""
    status = table["status"].to_pylist()
    return [n for n, name in zip(table["id"].to_pylist(), status, strict=True) if name not in UNANSWERED]


def _spent(table: pa.Table) -> dict[str, Any]:
    """Totals over the images that the method attacked."""
    spent = {name: table[name].to_numpy().sum().item() for name in ("gradients", "forwards", "seconds")}
    return spent | {"status": dict(Counter(table["status"].to_pylist()).most_common())}


def complete(run: runs.Run) -> bool:
    """Whether every chunk of every task is finished."""
    plan, data = run.manifest.get("plan", {}), run.manifest.get("data", {})
    if "chunk" not in plan:
        return True
    expected = {f"{number:05d}" for number in shard_chunks(run.manifest.get("shard"), data["n"], plan["chunk"])}
    return all({file.stem for file in run.files[task.name]} >= expected for task in run.tasks)
