"""`plica show`: what a run found, in the terminal."""

import numpy as np
from jaxtyping import Float64
from rich.console import Console

from plica.analysis import compare
from plica.analysis.contenders import Group, groups
from plica.cli.errors import wrong_input
from plica.cli.options import RunsArgument
from plica.cli.runs import load_runs, print_verdicts
from plica.cli.table import print_table, terminal
from plica.core.model.precision import search_precision
from plica.report.curves import gap_sentences
from plica.report.formatting import distance
from plica.report.methods import legend, methods, wrong_sentence
from plica.report.verdict import headlines
from plica.runs import Run

BLOCKS = " ▁▂▃▄▅▆▇█"
PLAIN = " .:-=+*#@"  # where the terminal has no blocks
COLUMNS = 60

EPILOG = """For an HTML page: plica report RUN -o report.html

    plica show runs/demo/l2
"""


def show(runs: RunsArgument) -> None:
    """Print the results: accuracies, radii, the contribution of each method, and the curve of accuracy by radius."""
    with wrong_input((ValueError, OSError)):
        _show(load_runs(runs))


def _show(runs: list[Run]) -> None:
    console = terminal()
    models = groups(runs, "model")
    if not models:
        raise ValueError("The run holds no answers yet; let plica evaluate finish it.")
    for model in headlines(models):
        console.print(
            f"{model['name']}: accuracy {model['accuracy']} of {model['images']} images.", style="bold", markup=False
        )
        console.print(model["sentence"], markup=False)
    for precision in dict.fromkeys(search_precision((run.manifest.get("plan") or {}).get("precision")) for run in runs):
        if precision is not None:
            console.print(f"Searched under autocast to {precision}, judged in the model's own precision.")
    tables = methods(groups(runs, "method"))
    for table in tables:
        _methods(console, table)
    console.print(f"\n{legend(tables)}")
    for group in models:
        if group.budget is None:
            _curves(console, group)
    print_verdicts(runs)


def _methods(console: Console, methods_table: dict) -> None:
    ball = methods_table["budget"] is not None
    console.print(f"\n{methods_table['title']}", style="bold", markup=False)
    console.print(wrong_sentence(methods_table), markup=False)
    columns = ["attacked", "broke", "only it", "missed", "not broken"]
    columns += [] if ball else ["nearest", "5 %", "25 %", "median", "75 %", "95 %"]
    rows = []
    for row in methods_table["rows"]:
        radii = [] if ball else [str(row["nearest"]), *row["quantiles"]]
        counts = (str(row[name]) for name in ("attacked", "broken", "alone", "missed", "unbroken"))
        rows.append([row["name"], *counts, *radii])
    print_table(console, ["method", *columns], rows)


def _curves(console: Console, group: Group) -> None:
    finite = np.concatenate([c.radius[np.isfinite(c.radius)] for c in group.contenders])
    top = float(np.quantile(finite, 0.98)) if len(finite) else 0.0
    if not top:
        return
    sides = [
        (name, side[c.attacked])
        for c in group.contenders
        for name, side in ((c.name, c.radius), (f"{c.name}, certified", c.lower))
        if side is not None
    ]
    wide = max(len(name) for name, _ in sides)
    columns = max(10, min(COLUMNS, console.width - wide - len(" ||")))
    console.print(f"\nAccuracy by {group.metric} distance, 0 to {distance(top)}", style="bold", markup=False)
    for name, radius in sides:
        console.print(f"{name:<{wide}} |{curve(radius, top, _blocks(console), columns)}|", markup=False)
    for sentence in gap_sentences(group):
        console.print(sentence, markup=False)


def curve(radius: Float64[np.ndarray, " b"], top: float, blocks: str = BLOCKS, columns: int = COLUMNS) -> str:
    """Accuracy from distance 0 to `top`, a character per step, full height at 100 %."""
    share = compare.accuracy(radius, np.linspace(0, top, columns))
    return "".join(blocks[round(float(s) * (len(blocks) - 1))] for s in share)


def _blocks(console: Console) -> str:
    try:
        BLOCKS.encode(console.encoding)
    except (UnicodeError, LookupError):
        return PLAIN
    return BLOCKS
