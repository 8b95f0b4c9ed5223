"""The table at the end of an evaluation: a line per model, question and method, then one for all methods together."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from plica.perturbations import join_distance
from plica.runs.task import with_conditions

WIDTH = 120  # without a terminal


def print_summary(summary: dict[str, Any]) -> None:
    """The summary of a run, as summary.json keeps it, on standard output."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    for kind, draw in (("max-loss", _max_loss), ("min-radius", _min_radius)):
        questions = [question for question in summary["questions"] if question["kind"] == kind]
        if questions:
            console.print(draw(questions))
    certified = [question for question in summary["questions"] if "certified" in question]
    if certified:
        console.print(_brackets(certified))
    for sentence in filter(None, map(widest_sentence, certified)):
        console.print(Text(sentence))
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


def _brackets(questions: list[dict[str, Any]]) -> Table:
    """A line per question with lower bounds: counts and quartiles, for max-loss the share of images that is proved."""
    right = ("images", "proved", "closed", "lower bound: quarter", "median", "three quarters", "certified, 95 %")
    table = _table("model", "question", right=right)
    for question in questions:
        bounds = question["certified"]
        # a lower bound of inf, no misclassified input anywhere, is null there
        lower = ["inf" if bounds["lower"][q] is None else f"{bounds['lower'][q]:.4g}" for q in ("0.25", "0.5", "0.75")]
        counts = [str(question["images"]), str(bounds["proved"]), str(bounds.get("closed", ""))]
        share = _percent(bounds["certified_accuracy"]) if "certified_accuracy" in bounds else ""
        subject = (question["model"], question["question"].removeprefix("min-radius "))
        table.add_row(*map(Text, (*subject, *counts, *lower, share)))
    return table


def widest_sentence(question: dict[str, Any]) -> str:
    """The images whose lower bound and distance are farthest apart; "" where all are closed."""
    widest = [
        f"{gap['id']} ({gap['lower']:.4g} to {_radius(gap['upper'])})"
        for gap in question["certified"].get("widest", [])
    ]
    subject = f"{question['model']}, {_distance(question)}"
    return f"widest gaps of {subject}: image {', '.join(widest)}" if widest else ""


def _distance(question: dict[str, Any]) -> str:
    distance = join_distance(question["metric"], question.get("through"))
    return with_conditions(distance, *(question.get(name) for name in ("goal", "levels", "target", "draws")))


def _wrong(question: dict[str, Any]) -> str:
    """A sentence on why the counts of methods do not add up to the number of images; "" if they do."""
    if not question["wrong"]:
        return ""
    return (
        f"note: {question['model']} misclassifies {question['wrong']} of {question['images']} images without a "
        "perturbation; they count as broken by no method"
    )


def count_answers(summary: dict[str, Any]) -> int:
    """Images attacked, of all methods together."""
    return sum(row["attacked"] for question in summary["questions"] for row in question["methods"])


def _percent(share: dict[str, Any] | None) -> str:
    """61.4 % (58.3-64.4)"""
    if share is None or share["value"] is None:
        return "-"
    return f"{100 * share['value']:.1f} % ({100 * share['low']:.1f}-{100 * share['high']:.1f})"


def _radius(value: float | None) -> str:
    return "not found" if value is None else f"{value:.4g}"


def _numbers(row: dict[str, Any]) -> tuple[str, ...]:
    """The counts of a line: "-" if the methods did not attack the same images, "" if the line has no such count."""
    values = (row.get(key, "") for key in ("attacked", "broken", "alone", "missed"))
    return tuple("-" if value is None else str(value) for value in values)


def _max_loss(questions: list[dict[str, Any]]) -> Table:
    table = _table(
        "model", "within", "method", right=("attacked", "broke", "only it", "missed", "robust accuracy, 95 %")
    )
    for question in questions:
        subject = [question["model"], question["question"].removeprefix("max-loss ")]
        table.add_row(
            *map(Text, (*subject, "none", *_numbers({"attacked": question["images"]}), _percent(question["accuracy"])))
        )
        for row in question["methods"]:
            # if it attacked only images that earlier methods did not break: the accuracy after all of them
            share = row["robust_accuracy"] if row["robust_accuracy"] else row["standing"]
            table.add_row("", "", *map(Text, (row["method"], *_numbers(row), _percent(share))))
        union = question["union"]
        table.add_row("", "", *map(Text, ("all", *_numbers({"attacked": question["images"]} | union))),
                      Text(_percent(union["robust_accuracy"]), style="bold"), end_section=True)  # fmt: skip
    return table


def _min_radius(questions: list[dict[str, Any]]) -> Table:
    right = ("attacked", "broke", "only it", "missed", "nearest", "radius: quarter", "median", "three quarters")
    table = _table("model", "metric", "method", right=right)
    for question in questions:
        subject = (question["model"], _distance(question))
        for k, row in enumerate(question["methods"]):
            numbers = (*_numbers(row), str(row["best"]))
            table.add_row(*map(Text, (*(subject if k == 0 else ("", "")), row["method"], *numbers, *_quartiles(row))))
        union = question["union"]
        numbers = (*_numbers({"attacked": question["images"]} | union), "", *_quartiles(union))
        table.add_row("", "", "all", *(Text(text, style="bold") for text in numbers), end_section=True)
    return table


def _quartiles(row: dict[str, Any]) -> list[str]:
    return [_radius(row["radius"][q]) for q in ("0.25", "0.5", "0.75")]


def _table(*left: str, right: tuple[str, ...]) -> Table:
    table = Table(box=box.SIMPLE)
    for name in left:
        table.add_column(name)
    for name in right:
        table.add_column(name, justify="right")
    return table
