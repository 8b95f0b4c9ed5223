"""What the perturbations of each method look like: a table of measures, their distributions, magnitudes and cosines."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from plica.analysis.contenders import Contender, Group, by_model
from plica.analysis.patterns import MEASURES
from plica.report.collect import EDGES, TaskStats, cosine
from plica.report.formatting import percent, title
from plica.report.svg import COLOURS, Chart, bins, swatch

WORDS = {
    "l1_over_l2": "l1/l2",
    "hoyer": "Hoyer",
    "gini": "Gini",
    "changed": "changed pixels",
    "total_variation": "total variation",
    "high_frequency": "high frequencies",
}
EXPLAINED = {
    "l1_over_l2": "sum of magnitudes over Euclidean length: 1 for one entry, √n for all alike; larger is denser",
    "hoyer": "sparsity after Hoyer: 0 all alike, 1 one entry",
    "gini": "inequality of the magnitudes: 0 all alike, near 1 one entry",
    "changed": "share of pixels that moved by more than half a grey level",
    "total_variation": "difference of neighbours over magnitude: 0 constant, 1.41 noise, 2 chessboard",
    "high_frequency": "share of the energy above a quarter cycle per pixel: noise has 0.75",
}


def explained() -> list[dict[str, str]]:
    """Each measure by name, with what it says."""
    return [{"name": WORDS[name], "text": EXPLAINED[name]} for name in MEASURES]


def tables(by_method: Sequence[Group], looks: dict[tuple[str, str], TaskStats]) -> list[dict[str, Any]]:
    """Per question (and model, where there are more methods than one chart can show): the measures of each method's
    perturbations, their distribution, their magnitudes, and cosines."""
    many = any(len(group.contenders) > COLOURS for group in by_method)
    parts = by_model(by_method) if many else [(group, "") for group in by_method]
    found = [_table(number, group, model, looks) for number, (group, model) in enumerate(parts)]
    return [table for table in found if table["rows"]]


def _table(number: int, group: Group, model: str, looks: dict[tuple[str, str], TaskStats]) -> dict[str, Any]:
    seen = [(c.name.removeprefix(f"{model}, "), _look(c, looks)) for c in group.contenders]
    seen = [(name, one) for name, one in seen if len(one.measures["hoyer"])]
    if not seen:
        return {"rows": []}
    rows = [
        {
            "name": name,
            "images": len(one.measures["hoyer"]),
            "swatch": swatch(k),
            "cells": [_cell(one.measures[measure], measure) for measure in MEASURES],
        }
        for k, (name, one) in enumerate(seen)
    ]
    return {
        "title": f"{title(group)}, {model}" if model else title(group),
        "rows": rows,
        "density": _density(number, group, seen),
        "sizes": _sizes(number, group, seen),
        "cosines": _cosines(seen),
    }


def _look(c: Contender, looks: dict[tuple[str, str], TaskStats]) -> TaskStats:
    run, task = c.places[0]
    return looks[str(run.directory), task.name]


def _cell(values: np.ndarray, measure: str) -> dict[str, str]:
    low, middle, high = np.nanquantile(values, [0.25, 0.5, 0.75])
    tell = percent if measure in ("changed", "high_frequency") else (lambda v: f"{v:.3g}")
    return {"value": tell(middle), "range": f"{tell(low)} to {tell(high)}"}


def _density(number: int, group: Group, seen: list[tuple[str, TaskStats]]) -> Chart:
    every = np.concatenate([one.measures["l1_over_l2"] for _, one in seen])
    low, high = np.quantile(every, [0.002, 0.998])
    count = bins(max(len(one.measures["l1_over_l2"]) for _, one in seen))
    edges = np.linspace(max(0, low - 0.03 * (high - low)), high + 0.03 * (high - low) + 1e-9, count + 1)
    shares = [np.histogram(one.measures["l1_over_l2"], edges)[0] / len(one.measures["l1_over_l2"]) for _, one in seen]
    told = [f"{name}: median {np.median(one.measures['l1_over_l2']):.3g}" for name, one in seen]
    chart = Chart(
        f"density{number}",
        f"Distribution of l1/l2 over images, {group}",
        "; ".join(told) + ".",
        (float(edges[0]), float(edges[-1])),
        (0, float(max(s.max() for s in shares)) * 1.1),
        "l1/l2 of the perturbation (larger: denser)",
        "share of images",
        percent=True,
        high=220,
    )
    for k, ((name, _), share) in enumerate(zip(seen, shares, strict=True)):
        chart.steps(edges.tolist(), [*share.tolist(), 0.0], k, name)
    return chart


def _sizes(number: int, group: Group, seen: list[tuple[str, TaskStats]]) -> Chart:
    tops = max(float(one.magnitudes.max()) for _, one in seen) or 1.0
    unchanged = [f"{name}: {percent(1 - float(one.magnitudes.sum()))} of entries below 0.00001" for name, one in seen]
    chart = Chart(
        f"sizes{number}",
        f"Magnitudes of single entries, {group}",
        "; ".join(unchanged) + ".",
        (-5, 0),
        (0, tops * 1.1),
        "log10 of |perturbation| of an entry",
        "share of entries",
        percent=True,
        high=220,
    )
    for k, (name, one) in enumerate(seen):
        chart.steps(np.log10(EDGES).tolist(), [*one.magnitudes.tolist(), 0.0], k, name)
    return chart


def _cosines(seen: list[tuple[str, TaskStats]]) -> list[dict[str, str]]:
    found = [(a, b, cosine(one, other)) for (a, one), (b, other) in itertools.combinations(seen, 2)]
    found = [(a, b, c) for a, b, c in found if math.isfinite(c)]
    return [{"a": a, "b": b, "value": f"{c:.2f}"} for a, b, c in sorted(found, key=lambda t: t[2])]
