"""`plica compare`: models or methods side by side, in the terminal or as JSON."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console

from plica.analysis.compare import Pair, Rank, pair, ranking
from plica.analysis.contenders import Group, by_model, groups
from plica.cli.errors import WrongInputError, wrong_input
from plica.cli.options import ReplaceOption, RunsArgument
from plica.cli.runs import load_runs, print_verdicts
from plica.cli.table import print_table, terminal
from plica.report.comparison import certain_sentence, crossing_sentence, ranks_text
from plica.report.formatting import between, distance, percent, points, title
from plica.runs import Run
from plica.utils.files import check_replaceable, write_whole, writing
from plica.utils.messages import few, plain

EPILOG = """Intervals are 95 % intervals over the images: of a share Wilson's, of a median or a difference the
bootstrap's. Radii are those of the nearest point found.

    plica compare runs/resnet runs/wide

    plica compare runs/all --by method --json methods.json
"""


def compare(
    runs: RunsArgument,
    by: Annotated[str, typer.Option(help="model, method, or auto: models if there are several")] = "auto",
    into: Annotated[Path | None, typer.Option("--json", help="also write all numbers to this file")] = None,
    overwrite: ReplaceOption = False,
) -> None:
    """Compare models or methods image by image: ranking, differences of radii, and where accuracy curves cross."""
    if by not in ("auto", "model", "method"):
        raise WrongInputError(f"--by takes model, method or auto, got {by!r}.")
    with wrong_input((ValueError, OSError)):
        check_replaceable([into] if into else [], overwrite)
        loaded = load_runs(runs)
        asked_of = by_model(groups(loaded, by))
        compared = [Comparison.of(*part) for part in asked_of if len(part[0].contenders) > 1]
    if not compared:
        asked = few(f"{question} of {plain(str(run.directory))}" for run in loaded for question in _asked(run))
        raise WrongInputError(
            "There is nothing to compare: no question has answers of two models or, with --by method, of two methods"
            f"{f' (there are {asked})' if asked else ''}."
        )
    console = terminal()
    for comparison in compared:
        _print(console, comparison)
    if alone := [part for part in asked_of if len(part[0].contenders) == 1]:
        left_out = few(title(*part) for part in alone)
        console.print(f"\nNot compared, with answers of one {alone[0][0].by} only: {left_out}.")
    print_verdicts(loaded)
    if into is not None:
        records = [comparison.record() for comparison in compared]
        with wrong_input((OSError,)), writing(into):
            write_whole(into, (json.dumps(records, indent=2) + "\n").encode())
        print(plain(f"{into}: every number"))


def _asked(run: Run) -> list[str]:
    """The questions of a run, each once."""
    return list(dict.fromkeys(plain(task.question) for task in run.tasks))


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Models, or the methods of one model, whose name is "" where there is no other."""

    group: Group
    model: str
    ranks: list[Rank]
    pairs: list[Pair]

    @staticmethod
    def of(group: Group, model: str) -> Comparison:
        pairs = [pair(a, b) for a, b in itertools.combinations(group.contenders, 2)]
        return Comparison(group, model, ranking(group), pairs)

    def record(self) -> dict[str, Any]:
        """The comparison as a JSON object."""
        question = {"question": str(self.group)} | ({"model": self.model} if self.model else {})
        return question | {"ranking": _plain(self.ranks), "pairs": _plain(self.pairs)}


def _print(console: Console, comparison: Comparison) -> None:
    group, ranks, pairs = comparison.group, comparison.ranks, comparison.pairs
    ball = group.budget is not None
    shared = int(np.all([c.attacked for c in group.contenders], axis=0).sum())
    console.print(f"\n{title(group, comparison.model)}, {shared} images", style="bold")
    images = len(group.contenders[0].ids)
    if ball and group.by == "method" and shared < images:
        console.print(
            f"Only the {shared} of {images} images that all methods attacked are compared. By default a method attacks "
            "those that earlier ones have left; evaluate with --individual to compare all."
        )
    value = "accuracy under attack" if ball else "median radius"
    rows = [[rank.name, ranks_text(rank), between(rank.value, percent if ball else distance)] for rank in ranks]
    print_table(console, [group.by, "rank", value], rows)
    if ball:
        head = ["difference of accuracy, points"]
        numbers = [[between(p.accuracy, points)] for p in pairs]
    else:
        head = ["median difference where both are right", "larger", "smaller", "p"]
        numbers = [[between(p.right), percent(p.larger), percent(p.smaller), f"{p.p:.2g}"] for p in pairs]
    rows = [[f"{p.b} against {p.a}", *row] for p, row in zip(pairs, numbers, strict=True)]
    print_table(console, ["pair", *head], rows)
    for sentence in (certain_sentence(p, group) for p in pairs if group.by == "model"):
        if sentence:
            console.print(sentence)
    for crossing in itertools.chain.from_iterable(p.crossings for p in pairs):
        if group.by == "model" and not ball:
            console.print(crossing_sentence(crossing, group.metric))


def _plain(records: Sequence[Rank] | Sequence[Pair]) -> list[Any]:
    """Records as JSON knows them: what is not finite is null."""
    return [_finite(dataclasses.asdict(record)) for record in records]


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not abs(value) < float("inf") else value
