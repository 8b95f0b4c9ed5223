"""The verdict on each run, and the headline numbers of each model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from plica.analysis import compare
from plica.analysis.contenders import Contender, Group
from plica.analysis.intervals import Interval, share_interval
from plica.report.collect import ReportData
from plica.report.formatting import budget, distance, percent, span
from plica.report.templates import fragment


def section(report: ReportData) -> Markup:
    runs = [
        {"directory": str(run.directory), "verdict": str(verdict.get("verdict") or "")}
        for run, verdict in report.verdicts
    ]
    curves_cross = any(pair.crossings for group, pairs in report.pairs if group.budget is None for pair in pairs)
    return fragment("verdict.html", runs=runs, curves_cross=curves_cross, headlines=headlines(report.models))


def headlines(models: Sequence[Group]) -> list[dict[str, Any]]:
    """Per model: accuracy, a number with its interval for each question, and a summary in a sentence."""
    out: dict[str, dict[str, Any]] = {}
    answers: dict[str, list[tuple[Group, Contender]]] = {}
    for group in models:
        for rank in compare.ranking(group):
            contender = next(c for c in group.contenders if c.name == rank.name)
            entry = out.setdefault(rank.name, {"name": rank.name, "facts": []})
            right = (contender.radius > 0)[contender.attacked]
            accuracy = share_interval(right)
            entry |= {"accuracy": percent(accuracy.value), "range": span(accuracy, percent), "images": len(right)}
            entry["facts"] += _facts(group, rank, contender)
            answers.setdefault(rank.name, []).append((group, contender))
    return [entry | {"sentence": _sentence(answers[name])} for name, entry in out.items()]


def _facts(group: Group, rank: compare.Rank, c: Contender) -> list[dict[str, str]]:
    if group.budget is None:
        return [_fact(f"median {group.metric} radius", rank.value, distance)]
    within = f"within {group.metric} {group.budget:.3g}"
    facts = [_fact(f"not broken {within}", rank.value, percent)]
    if c.lower is not None:
        facts.append(_fact(f"proved {within}", share_interval(c.proved(group.budget)[c.attacked]), percent))
    return facts


def _fact(label: str, value: Interval, write: Callable[[float], str]) -> dict[str, str]:
    return {"label": label, "value": write(value.value), "range": span(value, write)}


def _sentence(answers: list[tuple[Group, Contender]]) -> str:
    """Such as: half of all images have a misclassified neighbour within ...; 19 of 100 are not broken within ..."""
    medians = [
        (group, float(np.quantile(c.radius[c.attacked], 0.5, method="inverted_cdf")))
        for group, c in answers
        if group.budget is None
    ]
    words = [f"{group.metric} distance {distance(median)}" for group, median in medians if 0 < median < np.inf]
    out = [f"Half of all images have a misclassified neighbour within {_or(words)}."] if words else []
    if any(median == 0 for _, median in medians):
        out.append("At least half of all images are misclassified without a perturbation.")
    for group, c in answers:
        if group.budget is not None:
            proved = "" if c.lower is None else f", {int(c.proved(budget(group)).sum())} of them proved"
            out.append(
                f"{int(c.robust.sum())} of {int(c.attacked.sum())} are not broken within {group.metric} distance "
                f"{budget(group):.3g}{proved}."
            )
    return " ".join(out)


def _or(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
