"""Tables in the terminal, and those at the end of an evaluation: for each model and question a line per method, then
one for all methods together."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from plica.perturbations import join_distance
from plica.runs.task import with_conditions

WIDTH = 110  # without a terminal
GAP = 2  # between columns
QUARTILES = ("0.25", "0.5", "0.75")
COUNTS = ("attacked", "broke", "only it", "missed")


def terminal() -> Console:
    """Standard output. Without a terminal its width is always the same."""
    return Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False, markup=False, emoji=False)


def print_table(console: Console, head: Sequence[str], rows: Sequence[Sequence[str]], bold: Sequence[int] = ()) -> None:
    """A table whose first column holds names. Numbers are never broken: columns for which the terminal is too narrow
    follow below, beside the names again.

    Args:
        console: where it is printed.
        head: names of the columns.
        rows: the cells, as text.
        bold: numbers of rows.
    """
    columns = zip(head, *rows, strict=True)
    names, *widths = (max(map(cell_len, (*_words(name), *cells))) for name, *cells in columns)
    names = min(names, max(console.width // 3, console.width - sum(GAP + wide for wide in widths)))
    first = 1
    while first < len(head):
        end, total = first, names
        while end < len(head) and (end == first or total + GAP + widths[end - 1] <= console.width):
            total, end = total + GAP + widths[end - 1], end + 1
        table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0))
        table.add_column(Text(head[0]), overflow="fold", width=names)
        for k in range(first, end):
            table.add_column(Text(head[k]), justify="right", width=widths[k - 1])
        for k, row in enumerate(rows):
            table.add_row(*map(Text, (row[0], *row[first:end])), style="bold" if k in bold else None)
        console.print(table)
        first = end


def _words(head: str) -> list[str]:
    """Where the head of a column may be broken: between words, where it is long."""
    return [head] if len(head) < 10 else head.split()


def print_summary(summary: dict[str, Any]) -> None:
    """The summary of a run, as summary.json keeps it, on standard output."""
    console = terminal()
    for question in sorted(summary["questions"], key=lambda question: question["kind"]):  # max-loss first
        (_max_loss if question["kind"] == "max-loss" else _min_radius)(console, question)
    for note in filter(None, dict.fromkeys(map(_wrong, summary["questions"]))):
        console.print(Text(note))
    for question in summary["questions"]:
        if question["unanswered"]:
            text = f"{question['unanswered']} images had no answer and count as not broken"
            console.print(Text(f"note: {question['model']}, {question['question']}: {text}"))
    for note in summary["notes"][:5]:
        console.print(Text(f"note: {note}"))
    if len(summary["notes"]) > 5:
        console.print(Text(f"note: and {len(summary['notes']) - 5} more, in summary.json"))


def _bounds(question: dict[str, Any]) -> str:
    """For how many images a lower bound is proved, how many radii are exact, and which are known least precisely."""
    bounds = question["certified"]
    widest = [f"{gap['id']} ({gap['lower']:.4g} to {_radius(gap['upper'])})" for gap in bounds.get("widest", [])]
    zero = f", {question['wrong']} of them 0" if question["wrong"] else ""
    return (
        f"certified: a lower bound above 0 for {bounds['proved']} of {question['images']} images; {bounds['closed']} "
        f"radii are exact to a thousandth{zero}{'; widest gaps: image ' if widest else ''}{', '.join(widest)}"
    )


def _distance(question: dict[str, Any]) -> str:
    distance = join_distance(question["metric"], question.get("through"))
    return with_conditions(distance, *(question.get(name) for name in ("goal", "levels", "target", "draws")))


def _wrong(question: dict[str, Any]) -> str:
    """A sentence on why the counts of methods do not add up to the number of images; "" if they do."""
    if not question["wrong"]:
        return ""
    does = "misclassifies" if question.get("target") is None else "gives the target class to"
    return (
        f"note: {question['model']} {does} {question['wrong']} of {question['images']} images without a perturbation; "
        "they count as broken by no method"
    )


def count_answers(summary: dict[str, Any]) -> int:
    """Images attacked, of all methods together."""
    return sum(row["attacked"] for question in summary["questions"] for row in question["methods"])


def _percent(share: dict[str, Any] | None) -> str:
    """61.4 % (58.3-64.4)"""
    if share is None or share["value"] is None:
        return "-"
    return f"{100 * share['value']:.1f} % ({100 * share['low']:.1f}-{100 * share['high']:.1f})"


def _radius(value: float | None, none: str = "not found") -> str:
    return none if value is None else f"{value:.4g}"


def _numbers(row: dict[str, Any]) -> tuple[str, ...]:
    """The counts of a line: "-" if the methods did not attack the same images, "" if the line has no such count."""
    values = (row.get(key, "") for key in ("attacked", "broken", "alone", "missed"))
    return tuple("-" if value is None else str(value) for value in values)


def _max_loss(console: Console, question: dict[str, Any]) -> None:
    rows = [("none", *_numbers({"attacked": question["images"]}), _percent(question["accuracy"]))]
    for row in question["methods"]:
        # if it attacked only images that earlier methods did not break: the share after all of them
        share = row["robust_accuracy"] if row["robust_accuracy"] else row["standing"]
        rows.append((row["method"], *_numbers(row), _percent(share)))
    union = question["union"]
    rows.append(("all", *_numbers({"attacked": question["images"]} | union), _percent(union["robust_accuracy"])))
    bold = len(rows) - 1
    if "certified" in question:
        rows.append(("proved", *_numbers({}), _percent(question["certified"]["certified_accuracy"])))
    console.print(Text(f"\n{question['model']}, within {question['question'].removeprefix('max-loss ')}", style="bold"))
    print_table(console, ("method", *COUNTS, "not broken, 95 %"), rows, [bold])


def _min_radius(console: Console, question: dict[str, Any]) -> None:
    rows = [
        (row["method"], *_numbers(row), str(row["best"]), *_quartiles(row["radius"])) for row in question["methods"]
    ]
    union = question["union"]
    rows.append(("all", *_numbers({"attacked": question["images"]} | union), "", *_quartiles(union["radius"])))
    bold = len(rows) - 1
    if "certified" in question:
        # a lower bound of inf, no misclassified input anywhere, is null there
        lower = [_radius(question["certified"]["lower"][q], "inf") for q in QUARTILES]
        rows.append(("certified", *_numbers({}), "", *lower))
    console.print(Text(f"\n{question['model']}, smallest {_distance(question)} distance", style="bold"))
    print_table(console, ("method", *COUNTS, "nearest", "25 %", "median", "75 %"), rows, [bold])
    if "certified" in question:
        console.print(Text(_bounds(question)))


def _quartiles(radius: dict[str, float | None]) -> list[str]:
    return [_radius(radius[q]) for q in QUARTILES]
