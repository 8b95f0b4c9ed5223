"""`write_report`: runs in, one HTML file out that needs nothing beside it."""

from __future__ import annotations

import datetime
import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from plica import trust
from plica.analysis.contenders import Group, groups
from plica.report import comparison, curves, formatting, methods, pattern_tables
from plica.report.collect import TaskStats, look
from plica.report.gallery import cards, examples, panels, picks
from plica.runs import Run
from plica.utils.files import write_whole
from plica.utils.optional import require

SIZE = 2_900_000  # characters that a report may have
CARDS = 1200  # images in the gallery, if they fit


def write_report(runs: Sequence[Run], file: str | Path, title: str | None = None) -> int:
    """Write the report of one or several runs on the same images; gives its size in bytes.

    Raises:
        ValueError: the runs hold no answers, or different images.
        ModuleNotFoundError: jinja2 or scipy is not installed.
    """
    page = render(runs, title).encode()
    write_whole(Path(file), page)
    return len(page)


def render(runs: Sequence[Run], title: str | None = None) -> str:
    """The page as text."""
    jinja2 = require("jinja2", "A report")
    where = jinja2.PackageLoader("plica.report", "page")
    page = jinja2.Environment(loader=where, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    content = gathered(runs, title)
    held = len(page.get_template("page.html").render(**content, cards=[]))
    content["cards"] = cards(content["picked"], content["looks"], content["classes"], SIZE - held)
    return page.get_template("page.html").render(**content)


def gathered(runs: Sequence[Run], title: str | None) -> dict[str, Any]:
    """Everything that the template shows but the gallery."""
    models, by_method = groups(runs, "model"), groups(runs, "method")
    if not models:
        raise ValueError("There is nothing to report: the runs hold no answers yet.")
    chosen, shown = picks(models, CARDS), examples(by_method)
    looks = looked(runs, {pick.image for pick in chosen} | set(shown))
    names = sorted({task.model for run in runs for task in run.tasks})
    return {
        "title": title or f"Robustness of {', '.join(names)}",
        "runs": [origin(run) for run in runs],
        "images": max(len(c.ids) for group in models for c in group.contenders),
        "made": datetime.date.today().isoformat(),
        "version": version("plica"),
        "questions": [formatting.title(group) for group in models],
        "headlines": methods.headlines(models),
        "curves": curves.curves(models),
        "histograms": curves.histograms(models),
        "methods": methods.methods(by_method),
        "costs": methods.costs(runs),
        "comparisons": comparison.comparisons(models),
        "patterns": pattern_tables.tables(by_method, looks),
        "measures": pattern_tables.explained(),
        "panels": [{"image": image, "rows": panels(by_method, looks, image)} for image in shown],
        "classes": next((run.classes for run in runs if run.classes), None),
        "checks": [checks(run) for run in runs],
        "several": len({c.name for group in models for c in group.contenders}) > 1,
        "looks": looks,
        "picked": chosen,
        "possible": total(models),
    }


def looked(runs: Sequence[Run], wanted: set[int]) -> dict[tuple[str, str], TaskStats]:
    """One pass over every task of every run."""
    return {(str(run.directory), task.name): look(run, task, wanted) for run in runs for task in run.tasks}


def total(models: Sequence[Group]) -> int:
    """Cards there would be if all fitted."""
    return len(picks(models, 10**9))


def origin(run: Run) -> dict[str, Any]:
    """What one needs to make the run again."""
    manifest = run.manifest
    return {
        "directory": str(run.directory),
        "plan": json.dumps(manifest.get("plan", {}), indent=2, ensure_ascii=False, default=str),
        "hashes": flat(manifest.get("hashes") or {}),
        "versions": flat(manifest.get("versions") or {}),
        "data": flat({k: v for k, v in (manifest.get("data") or {}).items() if k != "classes"}),
        "verdict": str(verdict(run).get("verdict") or ""),
    }


def flat(record: dict[str, Any], before: str = "") -> list[tuple[str, str]]:
    """(name, value) pairs; a record within a record is written name/name."""
    out: list[tuple[str, str]] = []
    for key, value in record.items():
        out += flat(value, f"{before}{key}/") if isinstance(value, dict) else [(f"{before}{key}", str(value))]
    return out


def verdict(run: Run) -> dict[str, Any]:
    """How far the numbers can be believed, as the run's summary or, where that is silent, plica.trust says."""
    told = run.summary.get("verdict")
    told = told or trust.verdict(run)
    return told if isinstance(told, dict) else {"verdict": told}


def checks(run: Run) -> dict[str, Any]:
    """What was found by the checks of the models, heaviest first, and the names of all that were made."""
    told = verdict(run)
    findings = [finding for finding in told.get("findings", []) if isinstance(finding, dict)]
    return {
        "directory": str(run.directory),
        "findings": findings,
        "made": [str(name) for name in told.get("checks", [])],
    }
