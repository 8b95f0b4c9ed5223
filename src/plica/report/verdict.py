"""How far the numbers can be believed, and the few that matter most."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from plica.analysis import compare
from plica.analysis.contenders import Contender, Group
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
    """Per model: accuracy, per question a number with its interval, and what they say in a sentence."""
    out: dict[str, dict[str, Any]] = {}
    answers: dict[str, list[tuple[Group, Contender]]] = {}
    for group in models:
        for place in compare.ranking(group):
            contender = next(c for c in group.contenders if c.name == place.name)
            entry = out.setdefault(place.name, {"name": place.name, "facts": []})
            accuracy = 1 - float((contender.radius == 0)[contender.asked].mean())
            entry |= {"accuracy": percent(accuracy), "images": int(contender.asked.sum())}
            entry["facts"].append(_fact(group, place))
            answers.setdefault(place.name, []).append((group, contender))
    return [entry | {"sentence": _sentence(answers[name])} for name, entry in out.items()]


def _fact(group: Group, place: compare.Place) -> dict[str, str]:
    if group.budget is None:
        label, write = f"median {group.metric} radius", distance
    else:
        label, write = f"withstand {group.metric} {group.budget:.3g}", percent
    return {"label": label, "value": write(place.value.value), "range": span(place.value, write)}


def _sentence(answers: list[tuple[Group, Contender]]) -> str:
    """Half of all images are misclassified within l2 distance 0.2 or linf 0.01. 19 of 100 withstand l2 0.5."""
    medians = [
        (group, float(np.quantile(c.radius[c.asked], 0.5, method="inverted_cdf")))
        for group, c in answers
        if group.budget is None
    ]
    words = [f"{group.metric} distance {distance(median)}" for group, median in medians if np.isfinite(median)]
    out = [f"Half of all images have a misclassified neighbour within {_or(words)}."] if words else []
    for group, c in answers:
        if group.budget is not None:
            left = int((c.asked & ~c.broken).sum())
            out.append(f"{left} of {int(c.asked.sum())} withstand {group.metric} distance {budget(group):.3g}.")
    return " ".join(out)


def _or(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
