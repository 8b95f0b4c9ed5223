"""`plica audit`: check every stored result of a run again; exit status 1 if something differs."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from plica.cli.errors import Status, wrong_input
from plica.cli.options import DeviceOption
from plica.data import load_data
from plica.evaluation.summary import contradictions
from plica.runs import Run, load
from plica.runs.schema import AUDIT
from plica.trust import Audited, refresh, unfinished
from plica.trust import audit as measure
from plica.trust.audit.load import metrics_of, models_of
from plica.trust.audit.remeasure import DRAWS
from plica.trust.audit.transfer import Transfer, transfers
from plica.utils.files import write_json
from plica.utils.messages import one_line, plain

ModelsOption = Annotated[
    list[str] | None,
    typer.Option("--model", help="the model, or NAME=model for one of several; by default those that the run names"),
]


def audit(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="a run of plica radius, attack, bracket or evaluate")
    ],
    model: ModelsOption = None,
    weights: Annotated[
        Path | None, typer.Option(help="weights of --model; by default those that the run names")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="labelled images, if the run contains none")] = None,
    metric: Annotated[str | None, typer.Option(help="the distance, if the run does not name it in full")] = None,
    trust: Annotated[bool, typer.Option("--trust", help="run the Python code that the run names")] = False,
    device: DeviceOption = "cpu",
) -> None:
    """Check every stored result again: in float64, at other batch sizes, rounded to 8 bits; check every proof."""
    with wrong_input():
        run = load(directory)
        models = models_of(run, _by_name(model or []), None if weights is None else str(weights), trust, device)
        metrics = metrics_of(run, metric, trust)
        any_y = all(task.goal is not None for task in run.tasks)
        images = None if data is None else load_data(data, None, not run.bounds.is_default, any_y)
        with Console(stderr=True).status("measuring") as status:
            measured = measure(
                run, models, metrics=metrics, data=images, bounds=run.bounds.pair, mask=run.bounds.mask,
                on_progress=lambda task, rows: status.update(escape(plain(f"measuring {task}"))),
            )  # fmt: skip
            transferred = transfers(run, models, run.bounds.pair, images)
            stale = contradictions(run)
    for task in measured:
        if (sentence := stale.pop((task.task.model, task.task.question), None)) is not None:
            task.differ("summary", sentence)
    for task in measured:
        _print(task)
    for pair in (pair for pair in transferred if pair.beaten):
        print(plain(f"{pair.model}, {pair.question}: on {pair.beaten} of {pair.images} images a point of {pair.origin} "
                    "beats what was found"))  # fmt: skip
    for finding in unfinished(run):
        print(finding.sentence)
    _save(run, measured, transferred)
    if not all(task.agrees for task in measured):
        raise typer.Exit(Status.OTHER)


def _by_name(models: list[str]) -> dict[str, str]:
    """NAME=model, or one model for all tasks under the name "".

    Raises:
        ValueError: several without names.
    """
    specs: dict[str, str] = {}
    for text in models:
        name, equals, spec = text.partition("=")
        specs |= {name: spec} if equals else {"": text}
    if len(specs) < len(models):
        raise ValueError("--model was given twice for the same tasks; write --model NAME=model for each.")
    return specs


def _print(task: Audited) -> None:
    """Print the measurements in a few lines."""
    precision = "float64" if task.float64 else "the model's own precision, as it has no copy in float64"
    precision = precision if task.task.draws is None else f"{DRAWS} draws of the model"
    confirmed = f"{task.confirmed} of {task.successes} successes confirmed in {precision}"
    print(plain(task.task.name) + f": {task.answers} answers, {confirmed if task.answers else 'nothing to confirm'}")
    if task.perturbed:
        is_parametric = task.task.through is not None
        inside = "" if task.task.radius is None or is_parametric else f", {task.within} of them within the radius"
        print(
            f"  rounded to 8 bits: {task.survive} of {task.perturbed} perturbed images stay misclassified{inside}",
            end="",
        )
        farther = "; moved farther until they do, the median distance is {:.4f} times the reported"
        print("" if task.price is None else farther.format(task.price))
    if task.certified:
        print(f"  proofs of lower bounds: {task.proved} of {task.certified} are right")
    for kind, sentences in task.differences.items():
        print(plain(f"  DIFFERS, {kind} ({len(sentences)}): {sentences[0]}"))


def _save(run: Run, measured: list[Audited], transferred: list[Transfer]) -> None:
    """Write audit.json beside the run, for later readers. A run that cannot be written to is audited nevertheless."""
    agrees = all(task.agrees for task in measured)
    record = {"agrees": agrees, "tasks": [task.record() for task in measured]}
    record["transfers"] = [pair.record() for pair in transferred]
    try:
        write_json(run.directory / AUDIT, record)
        refresh(run)
    except OSError as error:
        print(f"  (audit.json could not be written: {one_line(error)})")
    answers, differ = sum(t.answers for t in measured), sum(len(d) for t in measured for d in t.differences.values())
    print(plain(f"{run.directory}: {answers} answers, ") + ("no disagreement" if agrees else f"{differ} disagreements"))
