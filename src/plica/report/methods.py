"""Per question and model, for each method: quantiles of its radii, what it broke, and what it alone broke."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from markupsafe import Markup

from plica.analysis.contenders import Group, by_model
from plica.analysis.patterns import overlap
from plica.report.collect import ReportData
from plica.report.formatting import DASH, distance, percent, title
from plica.report.svg import box
from plica.report.templates import fragment

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def section(report: ReportData) -> Markup:
    return fragment("methods.html", methods=methods(report.by_method))


def methods(by_method: Sequence[Group]) -> list[dict[str, Any]]:
    """A table per question and model, a row per method."""
    return [_table(group, model) for group, model in by_model(by_method)]


def _table(group: Group, model: str) -> dict[str, Any]:
    broke = overlap({c.name: torch.from_numpy(c.broken & (c.radius > 0)) for c in group.contenders})
    least = np.min([c.radius for c in group.contenders], axis=0)
    finite = [c.radius[c.broken] for c in group.contenders]
    top = float(np.quantile(np.concatenate(finite), 0.95)) if any(map(len, finite)) else 1.0
    rows = []
    for series, c in enumerate(group.contenders):
        quantiles = np.quantile(c.radius[c.asked], QUANTILES, method="inverted_cdf").tolist()
        texts = [distance(q) for q in quantiles]
        label = f"from the 5 % to the 95 % quantile: {texts[0]} to {texts[4]}, median {texts[2]}"
        rows.append(
            {
                "name": c.sources[0][1].method if c.name == model else c.name.removeprefix(f"{model}, "),
                "asked": int(c.asked.sum()),
                "quantiles": texts,
                "box": box(quantiles, (0, top), series, label),
                "left": percent(1 - float(c.broken.mean())) if c.asked.all() else DASH,
                **broke[c.name],
                "nearest": int(((c.radius == least) & (least > 0) & c.broken).sum()),
            }
        )
    return {
        "title": f"{title(group)}, {model}" if model else title(group),
        "budget": group.budget,
        "rows": rows,
        "images": len(least),
        "wrong": int((least == 0).sum()),
        "union": percent(1 - float(np.isfinite(least).mean())),
    }
