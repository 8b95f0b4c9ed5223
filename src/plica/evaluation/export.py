"""A run as tables for other programs: samples.csv, summary.csv, and table.tex for a paper."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pyarrow.csv

from plica import runs
from plica.evaluation.summary import summarise
from plica.perturbations import join_distance
from plica.trust import Verdict
from plica.utils.files import write_whole
from plica.utils.latex import distance_symbol, escape, tabular

FILES = ("samples.csv", "summary.csv", "table.tex")


def export(directory: str | Path, out: str | Path | None = None) -> list[Path]:
    """Write the tables into `out`, by default the run's own directory; their paths.

    Raises:
        FileNotFoundError, ValueError: there is no run, or it is broken.
    """
    run = runs.load(directory)
    folder = Path(out) if out else run.directory
    memory = io.BytesIO()
    pyarrow.csv.write_csv(run.samples, memory)
    summary = summarise(run)
    texts = [memory.getvalue(), _csv(summary).encode(), latex(summary).encode()]
    for name, content in zip(FILES, texts, strict=True):
        write_whole(folder / name, content)
    return [folder / name for name in FILES]


def latex(summary: dict[str, Any]) -> str:
    """A table with a line per model and question: accuracy, each method, and all methods together.

    For max-loss in per cent, with a 95 % interval of the last column; for min-radius median radii. A note below states
    the verdict.
    """
    methods = list(dict.fromkeys(row["method"] for question in summary["questions"] for row in question["methods"]))
    head = ["model", "question", "accuracy", *(escape(m) for m in methods), "all"]
    rows = []
    for question in summary["questions"]:
        cells = {row["method"]: _cell(question, row) for row in question["methods"]}
        rows.append(
            [escape(question["model"]), _question_text(question), _percent(question["accuracy"])]
            + [cells.get(method, "--") for method in methods]
            + [_cell(question, question["union"], interval=True)]
        )
    note = f"These numbers: {escape(verdict_line(summary))}." if verdict_line(summary) else ""
    return tabular("ll" + "r" * (len(methods) + 2), head, rows, note)


def verdict_line(summary: dict[str, Any]) -> str:
    """The verdict in one line; "" where there is none."""
    return str(Verdict.read(summary["verdict"])) if "verdict" in summary else ""


def _question_text(question: dict[str, Any]) -> str:
    norm = f"${distance_symbol(join_distance(question['metric'], question['through']))}$"
    norm += "" if question["levels"] is None else f" ({question['levels']} levels)"
    if question["kind"] == "min-radius":
        return f"{norm}, median radius"
    return f"{norm} $\\leq$ {question['radius']:.4g}, accuracy under attack"


def _cell(question: dict[str, Any], row: dict[str, Any], interval: bool = False) -> str:
    if question["kind"] == "min-radius":
        median = row["radius"]["0.5"]
        return "--" if median is None else f"{median:.4g}"
    share = row["robust_accuracy"] or row["standing"]
    if not interval or share["value"] is None:
        return _percent(share)
    return f"{_percent(share)} ({100 * share['low']:.1f}--{100 * share['high']:.1f})"


def _percent(share: dict[str, Any]) -> str:
    return "--" if share["value"] is None else f"{100 * share['value']:.1f}"


def _csv(summary: dict[str, Any]) -> str:
    """A line per method, and one called "all" per question."""
    memory = io.StringIO()
    question_keys = (
        "model",
        "question",
        "kind",
        "metric",
        "through",
        "radius",
        "loss",
        "goal",
        "draws",
        "levels",
        "target",
        "images",
        "wrong",
    )
    method_keys = (
        "method",
        "attacked",
        "broken",
        "alone",
        "missed",
        "found",
        "best",
        "gradients",
        "forwards",
        "seconds",
    )
    shares = ("accuracy", "robust_accuracy", "standing")
    radii = [f"{name}_{q}" for name in ("radius", "lower") for q in (25, 50, 75)]
    bounds = ("proved", "closed", "certified_accuracy")
    writer = csv.writer(memory, lineterminator="\n")
    writer.writerow([*question_keys, *method_keys, *shares, "low", "high", *radii, *bounds, "verdict"])
    for question in summary["questions"]:
        for row in [*question["methods"], {"method": "all"} | question["union"] | question.get("certified", {})]:
            share = row.get("robust_accuracy") or row.get("standing") or {}
            values = [
                (question["accuracy"] if key == "accuracy" else row.get(key) or {}).get("value") for key in shares
            ]
            quartiles = [row.get(name, {}).get(q) for name in ("radius", "lower") for q in ("0.25", "0.5", "0.75")]
            certified = row.get("proved"), row.get("closed"), row.get("certified_accuracy", {}).get("value")
            writer.writerow(
                [question.get(key) for key in question_keys]
                + [row.get(key) for key in method_keys]
                + [*values, share.get("low"), share.get("high"), *quartiles, *certified, verdict_line(summary)]
            )
    return memory.getvalue()
