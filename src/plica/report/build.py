"""`write_report` turns runs into one HTML file that needs no other file."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from plica.report.collect import collect
from plica.report.registry import SECTIONS
from plica.report.templates import fragment
from plica.runs import Run
from plica.utils.files import write_whole

SIZE = 2_900_000  # characters of a report, at most


def write_report(runs: Sequence[Run], file: str | Path, title: str | None = None) -> int:
    """Write the report of one or several runs on the same images; gives its size in bytes.

    Raises:
        ValueError: the runs contain no answers, or different images.
        ModuleNotFoundError: jinja2 or scipy is not installed.
    """
    page = render(runs, title).encode()
    write_whole(Path(file), page)
    return len(page)


def render(runs: Sequence[Run], title: str | None = None) -> str:
    """The page as text.

    Raises:
        ValueError, ModuleNotFoundError: as write_report.
    """
    report = collect(runs)
    names = sorted({task.model for run in runs for task in run.tasks})
    head = {
        "title": title or f"Robustness of {', '.join(names)}",
        "images": max(len(c.ids) for group in report.models for c in group.contenders),
        "models": len({c.name for group in report.models for c in group.contenders}),
        "questions": len(report.models),
        "proofs": any(c.lower is not None for group in report.models for c in group.contenders),
        "made": datetime.date.today().isoformat(),
        "version": version("plica"),
    }
    report.room = SIZE - len(fragment("page.html", **head, sections=[]))
    bodies = {}
    for key in sorted(SECTIONS, key=lambda key: SECTIONS[key].fills_rest):
        bodies[key] = SECTIONS[key].body(report)
        report.room -= len(bodies[key])
    sections = [
        {"id": key, "title": section.title, "heading": section.heading, "body": bodies[key]}
        for key, section in SECTIONS.items()
        if bodies[key]
    ]
    return fragment("page.html", **head, sections=sections)
