"""For each question, model and method: quantiles of the radii, the images it broke, and those that no other method
broke."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from plica.analysis.contenders import Group, by_model
from plica.analysis.counts import counts, robust, wrong
from plica.report.collect import ReportData
from plica.report.formatting import DASH, distance, percent, title
from plica.report.svg import box
from plica.report.templates import fragment

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
COUNTS = (
    "attacked: images that the method was run on. broke: images that are classified correctly without a perturbation "
    "and that it found a misclassified point for. only it: those that no other method broke, where all attacked the "
    "same images. missed: images that it attacked and did not break, and another method did. not broken: share of "
    "all images that are classified correctly and that it did not break."
)
RADII = (
    "nearest: images that it broke at the smallest distance of all methods. 5 % to 95 %: quantiles of the radii of the "
    "images that it attacked; the radius of a misclassified image is 0."
)


def section(report: ReportData) -> Markup:
    tables = [table | {"sentence": wrong_sentence(table)} for table in methods(report.by_method)]
    return fragment("methods.html", methods=tables, legend=legend(tables))


def legend(tables: Sequence[dict[str, Any]]) -> str:
    """What the columns of these tables count."""
    return f"{COUNTS} {RADII}" if any(table["budget"] is None for table in tables) else COUNTS


def methods(by_method: Sequence[Group]) -> list[dict[str, Any]]:
    """A table per question and model, a row per method."""
    return [_table(group, model) for group, model in by_model(by_method)]


def _table(group: Group, model: str) -> dict[str, Any]:
    radius, attacked = np.stack([c.radius for c in group.contenders]), np.stack([c.attacked for c in group.contenders])
    finite = [c.radius[np.isfinite(c.radius)] for c in group.contenders]
    top = float(np.quantile(np.concatenate(finite), 0.95)) if any(map(len, finite)) else 1.0
    rows = []
    for series, (c, count) in enumerate(zip(group.contenders, counts(radius, attacked), strict=True)):
        quantiles = np.quantile(c.radius[c.attacked], QUANTILES, method="inverted_cdf").tolist()
        texts = [distance(q) for q in quantiles]
        label = f"from the 5 % to the 95 % quantile: {texts[0]} to {texts[4]}, median {texts[2]}"
        rows.append(
            {
                "name": c.name,
                "attacked": count.attacked,
                "broken": count.broken,
                "alone": DASH if count.alone is None else count.alone,
                "missed": count.missed,
                "nearest": count.nearest,
                "unbroken": percent(float(c.robust.mean())) if count.attacked_all else DASH,
                "quantiles": texts,
                "box": box(quantiles, (0, top), series, label),
            }
        )
    return {
        "title": title(group, model),
        "budget": group.budget,
        "rows": rows,
        "images": len(group.contenders[0].ids),
        "wrong": int(wrong(radius).sum()),
        "reached": "misclassified" if group.contenders[0].target is None else "classified as the target",
        "union": percent(float(robust(radius).mean())),
        "proved": _proved(group),
    }


def _proved(group: Group) -> str | None:
    """The share of images that no method broke and for which it is proved that none can; None without proofs."""
    if group.budget is None or all(c.lower is None for c in group.contenders):
        return None
    unbroken = robust(np.stack([c.radius for c in group.contenders]))
    proved = np.any([c.proved(group.budget) for c in group.contenders], axis=0)
    return percent(float((unbroken & proved).mean()))


def wrong_sentence(table: dict[str, Any]) -> str:
    """How many images need no perturbation, and how many no method broke."""
    proved = "" if table["proved"] is None else f"; {table['proved']} are proved"
    return (
        f"{table['images']} images, {table['wrong']} of them {table['reached']} without a perturbation. All "
        f"methods together leave {table['union']} of all images not broken{proved}."
    )
