"""The numbers of a run: accuracies with intervals, what each method broke, radii, and the most robust images.

For max-loss an image is broken when some method found a point within the radius. For min-radius the radius of an image
is the least that any method found, and the share of images with a larger one than r is the accuracy at radius r.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from plica import runs, trust
from plica.analysis.intervals import accuracy, wilson
from plica.core.status import Status
from plica.evaluation.shards import shard_chunks
from plica.runs.schema import FORMAT, SUMMARY
from plica.runs.single import quantiles
from plica.utils.files import write_json

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


def share(hits: int, total: int) -> dict[str, Any]:
    """A proportion with its 95 % interval."""
    value = hits / total if total else None
    low, high = (float(end) for end in wilson(np.array(value or 0.0), total))
    return {"value": value, "low": low, "high": high, "images": total}


def _question(run: runs.Run, tasks: list[runs.Task]) -> dict[str, Any]:
    tables = [run.rows(task, COLUMNS) for task in tasks]
    first = tasks[0]
    ids = np.unique(np.concatenate([table["id"].to_numpy() for table in tables]))
    wrong = {n for table in tables for n in _ids(table, lambda d, s: s & (d == 0))}
    question = {
        key: getattr(first, key) for key in ("model", "question", "kind", "metric", "through", "radius", "loss")
    }
    answered = {n for table in tables for n in _answered(table)}
    question |= {"images": len(ids), "unanswered": len(ids) - len(answered)}
    question |= {"accuracy": share(len(ids) - len(wrong), len(ids))}
    return question | (_inside if first.kind == "max-loss" else _nearest)(tasks, tables, ids)


def _inside(tasks: list[runs.Task], tables: list[pa.Table], ids: np.ndarray) -> dict[str, Any]:
    """Of max-loss. `broken` by a method, `alone` by no other; `standing` after it and all before it."""
    broken = [set(_ids(table, lambda d, s: s)) for table in tables]
    union_broken = set().union(*broken)
    all_attacked = all(len(table) == len(ids) for table in tables)  # else the other methods did not attack them
    methods = []
    for k, (task, table) in enumerate(zip(tasks, tables, strict=True)):
        others = set().union(*broken[:k], *broken[k + 1 :])
        before = set().union(*broken[: k + 1])
        attacked_all = len(table) == len(ids)
        methods.append(
            {"method": task.method, "asked": len(table), "broken": len(broken[k])}
            | {"alone": len(broken[k] - others) if all_attacked else None}
            | {"robust_accuracy": share(len(ids) - len(broken[k]), len(ids)) if attacked_all else None}
            | {"standing": share(len(ids) - len(before), len(ids))}
            | _spent(table)
        )
    union = {"broken": len(union_broken), "robust_accuracy": share(len(ids) - len(union_broken), len(ids))}
    return {"methods": methods, "union": union, "hard": _hardest(sorted(set(ids.tolist()) - union_broken))}


def _nearest(tasks: list[runs.Task], tables: list[pa.Table], ids: np.ndarray) -> dict[str, Any]:
    """Of min-radius. `best`: images, not wrong from the start, on which no method found a smaller radius; `alone`: on
    which no other found as small a one."""
    radius = np.full((len(tasks), len(ids)), np.inf)
    for row, table in zip(radius, tables, strict=True):
        row[np.searchsorted(ids, table["id"].to_numpy())] = table["distance"].to_numpy()
    least = radius.min(0) if len(ids) else np.zeros(0)
    best = (radius == least) & np.isfinite(least) & (least > 0)
    methods = [
        {"method": task.method, "asked": len(table), "found": int(np.isfinite(row).sum()), "radius": quantiles(row)}
        | {"best": int(is_best.sum()), "alone": int((is_best & (best.sum(0) == 1)).sum())}
        | _spent(table)
        for task, table, row, is_best in zip(tasks, tables, radius, best, strict=True)
    ]
    finite = least[np.isfinite(least)]
    levels = np.linspace(0, finite.max() if len(finite) else 0, LEVELS)
    curve = {"radius": levels.tolist(), "accuracy": accuracy(least, levels).tolist() if len(ids) else [0.0] * LEVELS}
    union = {"found": len(finite), "radius": quantiles(least), "curve": curve}
    return {"methods": methods, "union": union, "hard": _hardest(ids[np.argsort(-least, kind="stable")].tolist())}


def _ids(table: pa.Table, which: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> list[int]:
    chosen = which(table["distance"].to_numpy(), table["success"].to_numpy())
    return table["id"].to_numpy()[chosen].tolist()


def _answered(table: pa.Table) -> list[int]:
    """Images for which a method has an answer."""
    status = table["status"].to_pylist()
    return [n for n, name in zip(table["id"].to_pylist(), status, strict=True) if name not in UNANSWERED]


def _spent(table: pa.Table) -> dict[str, Any]:
    """Totals over the images that the method attacked."""
    spent = {name: table[name].to_numpy().sum().item() for name in ("gradients", "forwards", "seconds")}
    return spent | {"status": dict(Counter(table["status"].to_pylist()).most_common())}


def _hardest(ids: list[int]) -> list[int]:
    return ids[:HARD]


def complete(run: runs.Run) -> bool:
    """Whether every chunk of every task is finished."""
    plan, data = run.manifest.get("plan", {}), run.manifest.get("data", {})
    if "chunk" not in plan:
        return True
    expected = {f"{number:05d}" for number in shard_chunks(run.manifest.get("shard"), data["n"], plan["chunk"])}
    return all({file.stem for file in run.files[task.name]} >= expected for task in run.tasks)
