"""Figures and tables of runs for a paper: vector PDF and SVG at the width of a column, LaTeX with the best marked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg

from plica import plot
from plica.analysis.compare import ranking
from plica.analysis.contenders import Group, by_model, groups
from plica.analysis.patterns import MEASURES
from plica.report.choice import examples
from plica.report.collect import TaskStats, contender_stats, stats_of
from plica.runs import Run
from plica.utils.files import check_replaceable, filled_together
from plica.utils.latex import distance_symbol, escape, tabular

Stats = dict[tuple[str, str], TaskStats]


def write_figures(runs: Sequence[Run], directory: str | Path, overwrite: bool = True) -> list[Path]:
    """Write all figures and tables that the runs have data for; after a failure none. Returns the files written.

    The figures, as .pdf and .svg: accuracy-METRIC, radii-METRIC (radii-METRIC-MODEL of several models; both with the
    budgets as dashed lines), difference-METRIC-A-B (two methods or two models), patterns-QUESTION and
    panels-IMAGE-QUESTION. The tables: models.tex, methods.tex and patterns.tex.

    Args:
        runs: on the same images.
        directory: where the files are written; created if it does not exist.
        overwrite: whether existing files are replaced.

    Raises:
        ValueError: the runs contain no answers, or different images.
        FileExistsError: files exist, and `overwrite` is false.
        OSError: the disk is full, or the directory cannot be written to.
    """
    directory = Path(directory)
    models, by_method = groups(runs, "model"), groups(runs, "method")
    if not models:
        raise ValueError("There is nothing to draw: the runs contain no answers yet; finish one.")
    if directory.exists() and not directory.is_dir():
        raise NotADirectoryError(f"{directory} is a file; give a directory.")
    shown = examples(by_method, most=2)
    stats = stats_of(runs, shown)
    with filled_together(directory) as folder:
        with plot.paper():
            figures = [*_radii(models, by_method), *_patterns(by_method, stats), *_panels(by_method, stats, shown)]
            files = [file for name, axes in figures for file in _save(axes, folder / _safe(name))]
        tables = {
            "models": [radius_table(models), accuracy_table(models)],
            "methods": [radius_table(by_method), accuracy_table(by_method)],
            "patterns": [pattern_table(by_method, stats)],
        }
        for name, parts in tables.items():
            if any(parts):
                (folder / f"{name}.tex").write_text("\n".join(filter(None, parts)), encoding="utf-8")
                files.append(folder / f"{name}.tex")
        files = [directory / file.name for file in files]
        check_replaceable(files, overwrite)
    return files


def _radii(models: Sequence[Group], by_method: Sequence[Group]) -> list[tuple[str, Axes]]:
    """Per min-radius question, by the figure's name: accuracy curves of the models, a histogram of each one's radii,
    and differences of radii: of two models, or of one model's other methods from its first."""
    figures = []
    for group, methods in zip(models, by_method, strict=True):
        if group.budget is not None or not any(np.isfinite(c.radius).any() for c in group.contenders):
            continue
        budgets = [g.budget for g in models if g.metric == group.metric and g.budget is not None]
        by_name = {c.name: c for c in group.contenders}
        unit = f"{group.metric} distance"
        figures.append((f"accuracy-{group.metric}", plot.accuracy_curve(by_name, budgets=budgets, unit=unit)))
        for c in group.contenders:
            name = f"radii-{group.metric}" + (f"-{c.name}" if len(by_name) > 1 else "")
            figures.append((name, plot.radii_histogram(c, budgets=budgets, unit=f"{group.metric} radius")))
        compared = methods.contenders if len(by_name) == 1 else group.contenders
        if len(compared) == 2 or len(by_name) == 1:
            a = compared[0]
            for b in compared[1:]:
                shared = a.attacked & b.attacked
                axes = plot.radius_difference(
                    a.radius[shared], b.radius[shared], names=(a.name, b.name), unit=f"{group.metric} radius"
                )
                figures.append((f"difference-{group.metric}-{a.name}-{b.name}", axes))
    return figures


def _patterns(by_method: Sequence[Group], stats: Stats) -> list[tuple[str, Axes]]:
    out = []
    for group in by_method:
        measures = {c.name: contender_stats(c, stats).measures["l1_over_l2"] for c in group.contenders}
        measures = {name: values for name, values in measures.items() if len(values)}
        if measures:
            out.append((f"patterns-{group}", plot.measure_histogram(measures)))
    return out


def _panels(by_method: Sequence[Group], stats: Stats, shown: list[int]) -> list[tuple[str, Axes]]:
    out = []
    for image in shown:
        for group in by_method:
            pairs = {c.name: contender_stats(c, stats).shown.get(image) for c in group.contenders}
            moved = {name: pair for name, pair in pairs.items() if pair is not None and not pair[0].equal(pair[1])}
            if moved:
                x = next(iter(moved.values()))[0]
                axes = plot.panels(x, {name: x_adv for name, (_, x_adv) in list(moved.items())[:6]})
                out.append((f"panels-{image}-{group}", axes[0, 0]))
    return out


def _save(axes: Axes, stem: Path) -> list[Path]:
    figure = axes.figure.get_figure(root=True)
    assert figure is not None
    FigureCanvasAgg(figure)
    files = [stem.with_name(f"{stem.name}.{kind}") for kind in ("pdf", "svg")]
    for file in files:
        # without dates and random identifiers, the same run gives the same file; in memory, as where the disk is full
        # the writer of PDF fails a second time, by an error of its own, when it closes the file
        content, dates = BytesIO(), {"CreationDate" if file.suffix == ".pdf" else "Date": None}
        figure.savefig(content, format=file.suffix[1:], metadata=dates)
        file.write_bytes(content.getvalue())
    return files


def radius_table(questions: Sequence[Group]) -> str:
    """Median radius with its 95 % interval, a line per model (method), a column per metric; bold is the best: of models
    the largest, of the methods of a model the smallest."""
    columns = [group for group in questions if group.budget is None]
    return _table(columns, lambda group: f"median ${distance_symbol(group.metric)}$ radius", _three)


def accuracy_table(questions: Sequence[Group]) -> str:
    """Accuracy under attack in per cent, with Wilson's 95 % interval, a line per model (method), a column per budget;
    bold as above."""
    columns = [group for group in questions if group.budget is not None]
    return _table(
        columns, lambda group: f"${distance_symbol(group.metric)}$, {group.budget:.3g}", lambda v: f"{100 * v:.1f}"
    )


def pattern_table(by_method: Sequence[Group], stats: Stats) -> str:
    """Medians of the measures, a line per question and method."""
    lines = []
    for group in by_method:
        for c in group.contenders:
            measures = contender_stats(c, stats).measures
            if len(measures["hoyer"]):
                cells = [_three(float(np.nanmedian(measures[name]))) for name in MEASURES]
                lines.append([escape(str(group)), escape(c.name), *cells])
    head = ["question", "method", *(escape(name.replace("_", " ")) for name in MEASURES)]
    return tabular("ll" + "r" * len(MEASURES), head, lines) if lines else ""


def _table(columns: Sequence[Group], head: Callable[[Group], str], write: Callable[[float], str]) -> str:
    cells = [_cells(group, write) for group in columns]
    names = list(dict.fromkeys(name for column in cells for name in column))
    if not names:
        return ""
    lines = [[escape(name), *(column.get(name, "--") for column in cells)] for name in names]
    return tabular("l" + "r" * len(columns), [columns[0].by, *map(head, columns)], lines)


def _cells(group: Group, write: Callable[[float], str]) -> dict[str, str]:
    """By name the value with its interval; the best of the models, or of the methods of each model, and equal values
    are bold."""
    cells = {}
    for part, model in by_model([group]):
        ranks = ranking(part)
        for rank in ranks:
            text, value = write(rank.value.value), rank.value
            best = len(ranks) > 1 and value.value == ranks[0].value.value
            name = f"{model}, {rank.name}" if model else rank.name
            cells[name] = (rf"\textbf{{{text}}}" if best else text) + f" [{write(value.low)}, {write(value.high)}]"
    return cells


def _three(value: float) -> str:
    return f"{value:.3g}" if np.isfinite(value) else "--"


def _safe(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-._" else "-" for c in name)
