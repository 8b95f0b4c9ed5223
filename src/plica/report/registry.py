"""The sections of a report, in their order: one line each in SECTIONS, by the id that links point to (#id)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from plica.report import checks, comparison, cost, curves, gallery, methods, pattern_tables, reproduce, verdict
from plica.report.collect import ReportData
from plica.utils.registry import Registry


@dataclass(frozen=True)
class Section:
    """One section of a report.

    Attributes:
        title: in the list of sections.
        heading: above the section.
        body: makes its HTML; an empty text leaves the section out. A markupsafe.Markup is used as it is, such as the
            result of plica.report.templates.fragment; a plain str is escaped.
        fills_rest: made last; may use `ReportData.room`, the characters that the other sections leave.
    """

    title: str
    heading: str
    body: Callable[[ReportData], str]
    fills_rest: bool = False


SECTIONS = Registry(
    "plica.report",
    {
        "verdict": Section("Verdict", "Verdict", verdict.section),
        "curves": Section("Accuracy by radius", "Accuracy by radius", curves.section),
        "methods": Section("Methods", "What each method found", methods.section),
        "comparison": Section("Comparison", "Models side by side", comparison.section),
        "patterns": Section("Patterns", "What the perturbations look like", pattern_tables.section),
        "gallery": Section("Gallery", "Gallery", gallery.section, fills_rest=True),
        "checks": Section("Checks", "Checks", checks.section),
        "cost": Section("Cost", "Cost", cost.section),
        "reproduce": Section("Reproduce", "Reproduce", reproduce.section),
    },
)
