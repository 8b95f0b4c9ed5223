"""Accuracy by radius, and histograms of the radii, both with marks at the budgets of max-loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64
from markupsafe import Markup

from plica.analysis import compare, gaps
from plica.analysis.contenders import Contender, Group
from plica.analysis.counts import bins
from plica.report.collect import ReportData
from plica.report.formatting import budget, distance, percent
from plica.report.svg import Chart, swatch, thin
from plica.report.templates import fragment


def section(report: ReportData) -> Markup:
    """Left out where there is no min-radius question with a radius."""
    charts = curves(report.models)
    return fragment("curves.html", curves=charts, histograms=histograms(report.models)) if charts else Markup()


def curves(models: Sequence[Group]) -> list[dict[str, Any]]:
    """A chart per metric with a line per model; accuracies under attack at a budget are circles."""
    return [_curve(k, group, _balls(models, group.metric)) for k, group in enumerate(_radii(models))]


def _curve(number: int, group: Group, balls: Sequence[Group]) -> dict[str, Any]:
    top = float(np.quantile(np.concatenate([c.radius[np.isfinite(c.radius)] for c in group.contenders]), 0.98)) or 1.0
    top = max([top, *[1.05 * budget(ball) for ball in balls if budget(ball) < 2 * top]])
    names = [c.name for c in group.contenders]
    chart = Chart(
        f"curve{number}",
        f"Accuracy against {group.metric} distance",
        _description(group),
        (0, top),
        (0, 1),
        f"{group.metric} distance",
        "accuracy",
        percent=True,
    )
    for ball in balls:
        chart.rule(budget(ball), f"{budget(ball):.3g}")
    for series, c in enumerate(group.contenders):
        radius = c.radius[c.attacked]
        if c.lower is not None:
            lower = c.lower[c.attacked]
            ends = np.concatenate([radius, lower, [0.0, top]])
            xs = thin(np.unique(ends[ends <= top]))
            low, high = (compare.accuracy(side, xs).tolist() for side in (lower, radius))
            chart.band(xs.tolist(), low, high, series, f"{c.name}: certified")
        xs = thin(np.unique(np.append(radius[radius <= top], [0.0, top])))
        chart.steps(xs.tolist(), compare.accuracy(radius, xs).tolist(), series, c.name)
    for ball in balls:
        for c in ball.contenders:
            accuracy = float(c.robust[c.attacked].mean())
            series = names.index(c.name) if c.name in names else len(names)
            if budget(ball) <= top:
                label = f"{c.name}: {percent(accuracy)} not broken within {budget(ball):.3g}"
                chart.dot(budget(ball), accuracy, series, label)
    sides = [(c.name, c.radius[c.attacked]) for c in group.contenders]
    sides += [(f"{c.name}, certified", c.lower[c.attacked]) for c in group.contenders if c.lower is not None]
    rows = [
        [distance(r), *[percent(float(compare.accuracy(side, np.array([r]))[0])) for _, side in sides]]
        for r in np.linspace(0, top, 9)
    ]
    legend = [{"swatch": swatch(k), "name": name} for k, name in enumerate(names)]
    return {
        "metric": group.metric,
        "chart": chart,
        "legend": legend,
        "rows": rows,
        "names": [name for name, _ in sides],
        "gaps": gap_sentences(group),
        "budgets": bool(balls),
    }


def gap_sentences(group: Group) -> list[str]:
    """For each contender with lower bounds, how many of its radii are known exactly, and where the gap is largest."""
    return [_gaps(c, c.lower, group.metric) for c in group.contenders if c.lower is not None]


def _gaps(c: Contender, lower: Float64[np.ndarray, " b"], metric: str) -> str:
    lower, upper = lower[c.attacked], c.radius[c.attacked]
    count = int(gaps.closed(lower, upper).sum())
    known = f"{c.name}: {count} of {len(lower)} {metric} radii are exact to a thousandth"
    known += f", {zero} of them 0" if (zero := int((upper == 0).sum())) else ""
    widest = [
        f"{g.id} ({distance(g.lower)} to {distance(g.upper)})" for g in gaps.widest(c.ids[c.attacked], lower, upper)
    ]
    return f"{known}; widest gaps: image {', '.join(widest)}." if widest else f"{known}."


def _description(group: Group) -> str:
    """The chart in words, for screen readers."""
    parts = []
    for c in group.contenders:
        median = float(np.quantile(c.radius[c.attacked], 0.5, method="inverted_cdf"))
        accuracy = percent(1 - float((c.radius == 0)[c.attacked].mean()))
        parts.append(f"{c.name}: {accuracy} at 0, half at {distance(median)}")
    return "; ".join(parts) + "."


def histograms(models: Sequence[Group]) -> list[dict[str, Any]]:
    """How many images have which radius (Fig. 1 and 7 of "Implications of Solution Patterns"), on one scale for all
    models of a metric."""
    out = []
    for number, group in enumerate(_radii(models)):
        marks = [budget(ball) for ball in _balls(models, group.metric)]
        shown = [(k, c, c.radius[c.broken]) for k, c in enumerate(group.contenders)]
        top = 1.02 * float(np.quantile(np.concatenate([radius for _, _, radius in shown]), 0.99))
        top = max([top, *[1.05 * mark for mark in marks if mark < 3 * top]])
        edges = np.linspace(0, top, bins(max(len(radius) for _, _, radius in shown)) + 1)
        high = max(int(np.histogram(radius, edges)[0].max()) for _, _, radius in shown)
        for k, c, radius in shown:
            if len(radius):
                out.append(_histogram(f"hist{number}-{k}", k, c, radius, edges, high, group.metric, marks))
    return out


def _histogram(
    name: str,
    series: int,
    c: Contender,
    radius: np.ndarray,
    edges: np.ndarray,
    high: int,
    metric: str,
    marks: list[float],
) -> dict[str, Any]:
    below = ", ".join(
        f"{percent(float((radius <= mark).mean()))} of the radii are at most {mark:.3g}" for mark in marks
    )
    chart = Chart(
        name,
        f"{c.name}: {metric} radii of {len(radius)} images",
        below or f"Median {distance(np.median(radius).item())}.",
        (0, float(edges[-1])),
        (0, 1.15 * high),
        f"{metric} radius",
        "images",
        counts=True,
        high=190,
    )
    chart.bars(edges.tolist(), np.histogram(radius, edges)[0].tolist(), series)
    for mark in marks:
        chart.rule(mark, f"budget {mark:.3g}")
    return {"name": c.name, "metric": metric, "chart": chart, "below": below}


def _radii(models: Sequence[Group]) -> list[Group]:
    """The min-radius questions with a radius above 0."""
    return [g for g in models if g.budget is None and any(c.broken.any() for c in g.contenders)]


def _balls(models: Sequence[Group], metric: str) -> list[Group]:
    """The max-loss questions of a metric, by budget."""
    return sorted((g for g in models if g.budget is not None and g.metric == metric), key=budget)
