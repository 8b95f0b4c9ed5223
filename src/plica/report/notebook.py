"""How results and runs are shown in a notebook: a small table and a curve."""

from __future__ import annotations

import itertools
from functools import singledispatch

import numpy as np
from markupsafe import Markup

from plica.analysis.compare import accuracy
from plica.analysis.contenders import groups
from plica.core.result import Result
from plica.report.formatting import distance, percent
from plica.report.svg import Chart, thin
from plica.runs import Run
from plica.trust import believed

NUMBER = itertools.count()
# whether a notebook is dark is not known: text has the notebook's colour, lines have one of medium brightness
STYLE = Markup(
    "<style>.plica-nb .chart{width:420px;max-width:100%;font:12px sans-serif}.plica-nb text{fill:currentColor}"
    ".plica-nb .grid{stroke:currentColor;opacity:.15}.plica-nb .axis,.plica-nb .rule{stroke:currentColor;opacity:.6}"
    ".plica-nb .line{fill:none;stroke:#2a86c8;stroke-width:2}.plica-nb .line.s1{stroke:#d9661f;stroke-dasharray:7 3}"
    ".plica-nb .line.s2{stroke:#1f9a72;stroke-dasharray:2 2}.plica-nb .line.s3{stroke:#b65aa8;stroke-dasharray:8 3 2 3}"
    "</style>"
)


@singledispatch
def html(value: object) -> str:
    """A small table and a curve of a Result or a Run."""
    raise TypeError(f"Only results and runs are shown in notebooks, got an object of type {type(value).__name__}.")


@html.register
def result_html(result: Result) -> str:
    """Counts of images, quartiles of the distance, gradients per image, and accuracy by distance."""
    radius = np.where(result.success.cpu().numpy(), result.distance.cpu().numpy(), np.inf)
    misclassified, successes = int((radius == 0).sum()), int(np.isfinite(radius).sum())
    quartiles = np.quantile(radius, [0.25, 0.5, 0.75], method="inverted_cdf").tolist()
    rows = [
        ("images", str(len(radius))),
        ("misclassified without a perturbation", str(misclassified)),
        ("broken", str(successes - misclassified)),
        ("distance, quartiles", ", ".join(map(distance, quartiles))),
        ("gradients per image", f"{float(result.gradients.double().mean()):.0f}"),
    ]
    return _page([("", rows)], [_chart("distance", {"accuracy": radius})])


@html.register
def run_html(run: Run) -> str:
    """Accuracy and radii of each model, and a curve per metric."""
    models = groups([run], "model")
    tables: dict[str, list[tuple[str, str]]] = {}
    for group in models:
        for c in group.contenders:
            radius = c.radius[c.attacked]
            accuracy_text = percent(float((radius > 0).mean()))
            rows = tables.setdefault(c.name, [("images", str(len(radius))), ("accuracy", accuracy_text)])
            if group.budget is None:
                median = float(np.quantile(radius, 0.5, method="inverted_cdf"))
                rows.append((f"median {group.metric} radius", distance(median)))
            else:
                rows.append((f"not broken {group}", percent(float(np.isinf(radius).mean()))))
                if c.lower is not None:
                    rows.append((f"proved {group}", percent(float(c.proved(group.budget)[c.attacked].mean()))))
    minimal = [group for group in models if group.budget is None]
    charts = [_chart(f"{g.metric} distance", {c.name: c.radius[c.attacked] for c in g.contenders}) for g in minimal]
    if tables:
        tables["verdict"] = [("these numbers", str(believed(run)))]
    return _page(list(tables.items()), charts)


def _chart(unit: str, radii: dict[str, np.ndarray]) -> Markup:
    finite = np.concatenate([radius[np.isfinite(radius)] for radius in radii.values()])
    top = float(np.quantile(finite, 0.98)) if len(finite) else 0.0
    if not top:
        return Markup("")
    halves = {name: float(np.quantile(radius, 0.5, method="inverted_cdf")) for name, radius in radii.items()}
    description = "; ".join(f"{name}: half at {distance(half)}" for name, half in halves.items())
    name = f"plica-{next(NUMBER)}"  # the charts of a notebook must not share their titles
    chart = Chart(name, f"Accuracy by {unit}", description, (0, top), (0, 1), unit, "accuracy", percent=True, high=200)
    for series, (key, radius) in enumerate(radii.items()):
        xs = thin(np.unique(np.append(radius[radius <= top], [0.0, top])))
        chart.steps(xs.tolist(), accuracy(radius, xs).tolist(), series, key)
    return chart.__html__()


def _page(tables: list[tuple[str, list[tuple[str, str]]]], charts: list[Markup]) -> str:
    out = [STYLE]
    for name, rows in tables:
        head = Markup('<tr><th colspan="2" style="text-align:left">{}</th></tr>').format(name) if name else Markup("")
        lines = [Markup('<tr><td style="text-align:left">{}</td><td>{}</td></tr>').format(*row) for row in rows]
        out.append(Markup("<table>") + head + Markup("").join(lines) + Markup("</table>"))
    return str(Markup('<div class="plica-nb">') + Markup("").join([*out, *charts]) + Markup("</div>"))
