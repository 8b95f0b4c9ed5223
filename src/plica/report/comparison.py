"""Models side by side: their ranking, differences with intervals, and where their accuracy curves cross."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from plica.analysis import compare
from plica.analysis.contenders import Contender, Group
from plica.report.collect import ReportData
from plica.report.formatting import between, distance, percent, points, title
from plica.report.templates import fragment


def section(report: ReportData) -> Markup:
    """Left out where there is one model."""
    comparisons = [_comparison(group, pairs) for group, pairs in report.pairs]
    return fragment("comparison.html", comparisons=comparisons) if comparisons else Markup()


def _comparison(group: Group, pairs: Sequence[compare.Pair]) -> dict[str, Any]:
    """The ranking, every pair, crossings, and the hardest images of each model."""
    out = {
        "title": title(group),
        "budget": group.budget,
        "pairs": [_pair(p, group) for p in pairs],
        "ranking": [_rank(rank, group) for rank in compare.ranking(group)],
        "certain": [text for p in pairs if (text := certain_sentence(p, group))],
        "crossings": [],
        "hardest": [],
    }
    if group.budget is None:
        out["crossings"] = [crossing_sentence(c, group.metric) for pair in pairs for c in pair.crossings]
        out["hardest"] = [{"name": c.name, "images": _hardest(c)} for c in group.contenders]
    return out


def crossing_sentence(c: compare.Crossing, metric: str) -> str:
    """Which model is ahead at which distance, and by how much."""
    (r1, before), (r2, after) = c.before, c.after
    return (
        f"{c.first} and {c.second} cross near {metric} distance {distance(c.radius)}: at {distance(r1)} {c.first} is "
        f"ahead by {points(before.value)} points ({points(before.low)} to {points(before.high)}), at {distance(r2)} "
        f"{c.second} by {points(-after.value)} ({points(-after.high)} to {points(-after.low)}). "
        "No single radius ranks them."
    )


def certain_sentence(p: compare.Pair, group: Group) -> str:
    """On how many images which model is certainly more robust; "" where there are no lower bounds."""
    parts = [
        f"{name} is certainly more robust on {count}"
        for name, count in ((p.b, p.surely_larger), (p.a, p.surely_smaller))
        if count is not None
    ]
    why = "the intervals of their radii are apart" if group.budget is None else "one is proved, the other broken"
    return f"{', '.join(parts)} of {p.images} images: {why}." if parts else ""


def _rank(rank: compare.Rank, group: Group) -> dict[str, str]:
    return {
        "name": rank.name,
        "ranks": ranks_text(rank),
        "value": between(rank.value, distance if group.budget is None else percent),
    }


def ranks_text(rank: compare.Rank) -> str:
    """The ranks that are possible when the images are resampled: "2", "1 to 3"."""
    return str(rank.best) if rank.best == rank.worst else f"{rank.best} to {rank.worst}"


def _pair(p: compare.Pair, group: Group) -> dict[str, str]:
    chance = "< 0.0001" if p.p < 1e-4 else f"{p.p:.2g}"
    value = between(p.right) if group.budget is None else between(p.accuracy, points)
    return {
        "a": p.a,
        "b": p.b,
        "difference": value,
        "larger": percent(p.larger),
        "smaller": percent(p.smaller),
        "p": chance,
    }


def _hardest(c: Contender) -> str:
    return ", ".join(f"{image} ({distance(radius)})" for image, radius in compare.hardest(c.take(c.radius > 0)))
