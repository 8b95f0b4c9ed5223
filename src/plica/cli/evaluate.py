"""`plica evaluate` and `plica plan`: whole evaluations from the command line."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from plica.cli.board import Board
from plica.cli.run import WrongInputError
from plica.cli.table import answers, show
from plica.evaluation import PlanError, read_plan
from plica.evaluation.example import EXAMPLE
from plica.evaluation.plan import Plan
from plica.evaluation.run import DiskError
from plica.evaluation.run import evaluate as carry_out
from plica.evaluation.worker import AllFailedError
from plica.trust import Severity, Verdict
from plica.utils.messages import one_line, plain, sentence

PlanArgument = Annotated[Path | None, typer.Argument(metavar="PLAN.yaml", help="`plica plan` writes one")]
OutOption = Annotated[Path, typer.Option(help="directory of the run; one that is unfinished goes on where it ended")]
CountOption = Annotated[int | None, typer.Option("--n", help="the first N images only (of a sample: N of them)")]
ShardOption = Annotated[str | None, typer.Option(help="i/N: the i-th of N parts of the work; `plica merge` joins them")]
EngineOption = Annotated[str, typer.Option(help='local, or ray (pip install "plica[ray]")')]
WorkersOption = Annotated[int | None, typer.Option(min=1, help="of ray; as many as there is room for")]
GpusOption = Annotated[float, typer.Option(min=0, help="of ray, for each worker; a fraction lets several share one")]
ModelOption = Annotated[list[str] | None, typer.Option(help="instead of a plan: file.py:factory, ...; repeatable")]
WeightsOption = Annotated[list[str] | None, typer.Option(help="one for each model")]
DataOption = Annotated[str | None, typer.Option(help=".npz with x and y")]
MetricOption = Annotated[list[str] | None, typer.Option(help="l1, l2, linf, ...; repeatable")]
RadiusOption = Annotated[
    list[str] | None, typer.Option(help="max-loss within it; one for each metric, or several for one; else min-radius")
]
MethodOption = Annotated[list[str] | None, typer.Option(help="auto, pwcf, autoattack, autoattack+plica; repeatable")]
SampleOption = Annotated[str | None, typer.Option(help="first, random or balanced: which N images")]
IndicesOption = Annotated[str | None, typer.Option(help="these rows of the data: 0-99,200,5, or a text file of such")]
TrustOption = Annotated[bool, typer.Option("--trust", help="read models that are programs: TorchScript, torch.export")]
BoundsOption = Annotated[str | None, typer.Option(help="two numbers, or an .npz with low, high and mask per feature")]
DeviceOption = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps")]


def evaluate(
    out: OutOption,
    plan: PlanArgument = None,
    n: CountOption = None,
    shard: ShardOption = None,
    engine: EngineOption = "local",
    workers: WorkersOption = None,
    gpus: GpusOption = 0,
    model: ModelOption = None,
    weights: WeightsOption = None,
    data: DataOption = None,
    metric: MetricOption = None,
    radius: RadiusOption = None,
    loss: Annotated[str | None, typer.Option(help="margin, ce or dlr")] = None,
    method: MethodOption = None,
    sample: SampleOption = None,
    indices: IndicesOption = None,
    gradients: Annotated[int | None, typer.Option(min=1, help="budget per image")] = None,
    individual: Annotated[bool, typer.Option("--individual", help="every method on every image")] = False,
    seed: Annotated[int | None, typer.Option(min=0)] = None,
    bounds: BoundsOption = None,
    device: DeviceOption = None,
    trust: TrustOption = False,
    batch_size: Annotated[int | None, typer.Option(min=1, help="searches side by side")] = None,
) -> None:
    """Carry out a plan: models, data, questions and methods in; a directory of results, which `plica.runs` reads, out.

    What is finished is kept: the same command goes on after an interruption, a full disk or a power failure.
    """
    flags = dict(model=model, weights=weights, data=data, metric=metric, radius=radius, loss=loss, method=method)
    flags |= dict(sample=sample, gradients=gradients, individual=individual or None, seed=seed)
    flags |= dict(bounds=bounds, trust=trust or None)
    with Board() as board:
        try:
            changes: dict[str, Any] = {"device": device} if device else {}
            changes |= {"batch_size": batch_size} if batch_size else {}
            if indices is not None:  # instead of what the plan says
                changes |= {"data.indices": indices, "data.sample": "first"} | ({} if n else {"data.n": None})
            asked = read_plan(_from_flags(plan, flags), **changes)
            run = carry_out(
                asked,
                out,
                n=n,
                shard=shard,
                engine=engine,
                workers=workers,
                gpus=gpus,
                on_start=board.start,
                on_event=board.event,
            )
        except (DiskError, AllFailedError) as error:
            raise WrongInputError(sentence(error)) from error
        except KeyboardInterrupt:
            kept = f"; what is finished is in {out}, and the same command goes on" if board.began else ""
            print(f"plica: interrupted{kept}.", file=sys.stderr)
            raise typer.Exit(1) from None
        except (ValueError, TypeError, OSError) as error:
            if board.began:  # a fault of the program, which is to be seen
                raise
            raise WrongInputError(sentence(error)) from error
    show(run.summary)
    verdict = Verdict.read(run.summary["verdict"])
    for finding in verdict.findings:
        if finding.weight > Severity.NOTE:
            print(plain(f"{finding.weight.name.lower()}, {finding.check}: {finding.sentence}"))
    print(f"These numbers: {verdict}")
    print(f"{out}: {answers(run.summary)} answers, summary.json; plica export writes tables")


def plan(file: Annotated[Path | None, typer.Argument(metavar="PLAN.yaml", help="a new file")] = None) -> None:
    """Write a commented plan to start from, to a new file or to standard output."""
    if file is None:
        print(EXAMPLE, end="")
        return
    try:
        with file.open("x") as stream:
            stream.write(EXAMPLE)
    except FileExistsError:
        raise WrongInputError(f"{file} is there already; give a new name.") from None
    except OSError as error:
        raise WrongInputError(f"{file} cannot be written ({one_line(error)}); give another place.") from error
    print(f"{file}: change it, then plica evaluate {file} --out DIR")


def _from_flags(plan: Path | None, flags: dict[str, Any]) -> Path | Plan:
    """The plan's file, or the plan that the flags spell.

    Raises:
        PlanError: both are given, or neither.
    """
    given = {name: value for name, value in flags.items() if value}
    if plan is not None:
        if given:
            raise PlanError(
                f"A plan and --{next(iter(given))} were given; write it into the plan, or give flags alone."
            )
        return plan
    missing = [f"--{name}" for name in ("model", "data", "metric") if name not in given]
    if missing:
        raise PlanError(f"Give a plan, or {', '.join(missing)}; `plica plan` writes a plan to start from.")
    weights = given.get("weights", [None] * len(given["model"]))
    if len(weights) != len(given["model"]):
        raise PlanError(f"There are {len(given['model'])} models and {len(weights)} weights; give one for each.")
    held = {key: given[key] for key in ("gradients", "individual", "seed", "bounds") if key in given}
    data = {"path": given["data"], "seed": given.get("seed", 0)}
    data |= {"sample": given["sample"]} if "sample" in given else {}
    pairs = zip(given["model"], weights, strict=True)
    models = [{"model": m, "weights": w, "trust": "trust" in given} for m, w in pairs]
    return read_plan(
        {"models": models, "data": data, "questions": _questions(given), "methods": given.get("method", ["auto"])}
        | held
    )


def _questions(given: dict[str, Any]) -> list[dict[str, Any]]:
    metrics, radii = given["metric"], given.get("radius")
    if radii is None:
        return [{"ask": "min-radius", "metric": metrics}]
    loss = {"loss": given["loss"]} if "loss" in given else {}
    if len(metrics) == 1:
        return [{"ask": "max-loss", "metric": metrics, "radius": radii} | loss]
    if len(radii) != len(metrics):
        raise PlanError(
            f"There are {len(metrics)} metrics and {len(radii)} radii; give one for each, in the same order."
        )
    return [{"ask": "max-loss", "metric": m, "radius": r} | loss for m, r in zip(metrics, radii, strict=True)]
