"""Patterns of each method's perturbations: a table of measures, their distributions, magnitudes and cosines."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from markupsafe import Markup
from torch import Tensor

from plica.analysis.contenders import Group, by_model
from plica.analysis.counts import bins
from plica.analysis.patterns import MEASURES, l1_over_l2
from plica.report.collect import EDGES, ReportData, TaskStats, contender_stats, cosine
from plica.report.data_uri import is_image, perturbation_uri
from plica.report.formatting import distance, percent, title
from plica.report.svg import COLOURS, Chart, swatch
from plica.report.templates import fragment

NAMES = {
    "l1_over_l2": "l1/l2",
    "hoyer": "Hoyer",
    "gini": "Gini",
    "changed": "changed pixels",
    "total_variation": "total variation",
    "high_frequency": "high frequencies",
}
MEANINGS = {
    "l1_over_l2": "sum of magnitudes over Euclidean length: 1 for one entry, √n for all alike; larger is denser",
    "hoyer": "sparsity after Hoyer: 0 all alike, 1 one entry",
    "gini": "inequality of the magnitudes: 0 all alike, near 1 one entry",
    "changed": "share of pixels that moved by more than half a grey level",
    "total_variation": "difference of neighbours over magnitude: 0 constant, 1.41 noise, 2 chessboard",
    "high_frequency": "share of the energy above a quarter cycle per pixel along an axis: noise has 0.71 to 0.75",
}


def section(report: ReportData) -> Markup:
    """Left out where the runs contain no images or no perturbation."""
    patterns = tables(report.by_method, report.stats)
    if not patterns:
        return Markup()
    panels = [{"image": image, "rows": _panels(report, image)} for image in report.examples]
    return fragment("patterns.html", patterns=patterns, panels=panels, measures=meanings())


def _panels(report: ReportData, image: int) -> list[dict[str, Any]]:
    """One image under every question and method (Fig. 3 and 4 of "Implications of Solution Patterns"): perturbation,
    distance, l1/l2."""
    rows = []
    for group in report.by_method:
        cells = []
        for c in group.contenders:
            row = np.flatnonzero(c.ids == image)
            stats = contender_stats(c, report.stats)
            if not len(row) or not 0 < c.radius[row[0]] < np.inf or image not in stats.shown:
                continue
            x, x_adv = stats.shown[image]
            if is_image(tuple(x.shape)):
                cells.append(_panel(c.name, x_adv - x, float(c.radius[row[0]])))
        if cells:
            rows.append({"question": title(group), "cells": cells})
    return rows


def _panel(name: str, delta: Float[Tensor, " *image"], radius: float) -> dict[str, str]:
    uri, times = perturbation_uri(delta)
    dense = f"{float(l1_over_l2(delta[None])):.3g}"
    return {"name": name, "uri": uri, "times": f"{times:g}", "distance": distance(radius), "dense": dense}


def meanings() -> list[dict[str, str]]:
    """Each measure by name, with its meaning."""
    return [{"name": NAMES[name], "text": MEANINGS[name]} for name in MEASURES]


def tables(by_method: Sequence[Group], stats: dict[tuple[str, str], TaskStats]) -> list[dict[str, Any]]:
    """Per question (and model, where there are more methods than one chart can show): the measures of each method's
    perturbations, their distribution, their magnitudes, and cosines."""
    many = any(len(group.contenders) > COLOURS for group in by_method)
    parts = by_model(by_method) if many else [(group, "") for group in by_method]
    all_tables = [_table(number, group, model, stats) for number, (group, model) in enumerate(parts)]
    return [table for table in all_tables if table["rows"]]


def _table(number: int, group: Group, model: str, stats: dict[tuple[str, str], TaskStats]) -> dict[str, Any]:
    shown = [(c.name, contender_stats(c, stats)) for c in group.contenders]
    shown = [(name, stats) for name, stats in shown if len(stats.measures["hoyer"])]
    if not shown:
        return {"rows": []}
    rows = [
        {
            "name": name,
            "images": len(one.measures["hoyer"]),
            "swatch": swatch(k),
            "cells": [_cell(one.measures[measure], measure) for measure in MEASURES],
        }
        for k, (name, one) in enumerate(shown)
    ]
    return {
        "title": title(group, model),
        "rows": rows,
        "density": _density(number, group, shown),
        "sizes": _sizes(number, group, shown),
        "cosines": _cosines(shown),
    }


def _cell(values: np.ndarray, measure: str) -> dict[str, str]:
    low, middle, high = np.nanquantile(values, [0.25, 0.5, 0.75])
    write = percent if measure in ("changed", "high_frequency") else (lambda v: f"{v:.3g}")
    return {"value": write(middle), "range": f"{write(low)} to {write(high)}"}


def _density(number: int, group: Group, shown: list[tuple[str, TaskStats]]) -> Chart:
    values = np.concatenate([one.measures["l1_over_l2"] for _, one in shown])
    low, high = np.quantile(values, [0.002, 0.998])
    count = bins(max(len(one.measures["l1_over_l2"]) for _, one in shown))
    edges = np.linspace(max(0, low - 0.03 * (high - low)), high + 0.03 * (high - low) + 1e-9, count + 1)
    shares = [np.histogram(one.measures["l1_over_l2"], edges)[0] / len(one.measures["l1_over_l2"]) for _, one in shown]
    medians = [f"{name}: median {np.median(one.measures['l1_over_l2']):.3g}" for name, one in shown]
    chart = Chart(
        f"density{number}",
        f"Distribution of l1/l2 over images, {group}",
        "; ".join(medians) + ".",
        (float(edges[0]), float(edges[-1])),
        (0, float(max(s.max() for s in shares)) * 1.1),
        "l1/l2 of the perturbation (larger: denser)",
        "share of images",
        percent=True,
        high=220,
    )
    for k, ((name, _), share) in enumerate(zip(shown, shares, strict=True)):
        chart.steps(edges.tolist(), [*share.tolist(), 0.0], k, name)
    return chart


def _sizes(number: int, group: Group, shown: list[tuple[str, TaskStats]]) -> Chart:
    tops = max(float(one.magnitudes.max()) for _, one in shown) or 1.0
    unchanged = [
        f"{name}: {percent(1 - float(one.magnitudes.sum()))} of entries outside this range" for name, one in shown
    ]
    chart = Chart(
        f"sizes{number}",
        f"Magnitudes of single entries from 0.00001 to 1, {group}",
        "; ".join(unchanged) + ".",
        (-5, 0),
        (0, tops * 1.1),
        "log10 of |perturbation| of an entry",
        "share of entries",
        percent=True,
        high=220,
    )
    for k, (name, one) in enumerate(shown):
        chart.steps(np.log10(EDGES).tolist(), [*one.magnitudes.tolist(), 0.0], k, name)
    return chart


def _cosines(shown: list[tuple[str, TaskStats]]) -> list[dict[str, str]]:
    cosines = [(a, b, cosine(one, other)) for (a, one), (b, other) in itertools.combinations(shown, 2)]
    cosines = [(a, b, c) for a, b, c in cosines if math.isfinite(c)]
    return [{"a": a, "b": b, "value": f"{c:.2f}"} for a, b, c in sorted(cosines, key=lambda t: t[2])]
