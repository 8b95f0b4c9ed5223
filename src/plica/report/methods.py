"""The report's numbers: headlines, what each method found, and what it cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from plica.analysis import compare
from plica.analysis.contenders import Contender, Group, by_model
from plica.analysis.patterns import overlap
from plica.report.formatting import DASH, budget, distance, percent, span, title
from plica.report.svg import box
from plica.runs import Run

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def headlines(models: Sequence[Group]) -> list[dict[str, Any]]:
    """Per model: accuracy, per question a number with its interval, and what they say in a sentence."""
    out: dict[str, dict[str, Any]] = {}
    for group in models:
        for place in compare.ranking(group):
            own = next(c for c in group.contenders if c.name == place.name)
            entry = out.setdefault(place.name, {"name": place.name, "facts": [], "said": []})
            right = 1 - float((own.radius == 0)[own.asked].mean())
            entry |= {"accuracy": percent(right), "images": int(own.asked.sum())}
            tell = distance if group.budget is None else percent
            label = (
                f"median {group.metric} radius"
                if group.budget is None
                else f"withstand {group.metric} {group.budget:.3g}"
            )
            entry["facts"].append({"label": label, "value": tell(place.value.value), "range": span(place.value, tell)})
            entry["said"].append((group, own))
    return [entry | {"sentence": _sentence(entry["said"])} for entry in out.values()]


def _sentence(said: list[tuple[Group, Contender]]) -> str:
    """Half of all images are misclassified within l2 distance 0.2 or linf 0.01. 19 of 100 withstand l2 0.5."""
    radii = [
        (group, float(np.quantile(c.radius[c.asked], 0.5, method="inverted_cdf")))
        for group, c in said
        if group.budget is None
    ]
    words = [f"{group.metric} distance {distance(half)}" for group, half in radii if np.isfinite(half)]
    out = [f"Half of all images have a misclassified neighbour within {_or(words)}."] if words else []
    for group, c in said:
        if group.budget is not None:
            left = int((c.asked & ~c.broken).sum())
            out.append(f"{left} of {int(c.asked.sum())} withstand {group.metric} distance {budget(group):.3g}.")
    return " ".join(out)


def _or(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def methods(by_method: Sequence[Group]) -> list[dict[str, Any]]:
    """Per question and model a line per method: quantiles of its radii, or what it broke; and what it alone did."""
    return [_methods(group, model) for group, model in by_model(by_method)]


def _methods(group: Group, model: str) -> dict[str, Any]:
    broke = overlap({c.name: torch.from_numpy(c.broken & (c.radius > 0)) for c in group.contenders})
    least = np.min([c.radius for c in group.contenders], axis=0)
    finite = [c.radius[c.broken] for c in group.contenders]
    top = float(np.quantile(np.concatenate(finite), 0.95)) if any(map(len, finite)) else 1.0
    rows = []
    for series, c in enumerate(group.contenders):
        quantiles = np.quantile(c.radius[c.asked], QUANTILES, method="inverted_cdf").tolist()
        told = [distance(q) for q in quantiles]
        label = f"from the 5 % to the 95 % quantile: {told[0]} to {told[4]}, median {told[2]}"
        rows.append(
            {
                "name": c.places[0][1].method if c.name == model else c.name.removeprefix(f"{model}, "),
                "asked": int(c.asked.sum()),
                "quantiles": told,
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


def costs(runs: Sequence[Run]) -> list[dict[str, str]]:
    """Per task, gradients and forward runs per image, and seconds in all."""
    return [_cost(run, task) for run in runs for task in run.tasks if len(run.rows(task))]


def _cost(run: Run, task: Any) -> dict[str, str]:
    rows = run.rows(task)
    mean = {key: float(np.mean(rows[key].to_numpy())) for key in ("gradients", "forwards", "seconds")}
    return {
        "model": task.model,
        "question": task.question,
        "method": task.method,
        "images": str(len(rows)),
        "gradients": f"{mean['gradients']:.0f}",
        "forwards": f"{mean['forwards']:.0f}",
        "seconds": f"{mean['seconds'] * len(rows):.1f}",
    }
