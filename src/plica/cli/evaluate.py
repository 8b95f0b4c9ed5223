"""`plica evaluate`: a whole evaluation, described by a plan or by options."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from plica.cli.errors import Status, wrong_input
from plica.cli.options import (
    BoundsOrPlansOption,
    DeviceOrPlansOption,
    DrawsOption,
    IndicesOption,
    LevelsOption,
    PrecisionOption,
    SampleOption,
    TargetOption,
    TargetsOption,
    TrustOption,
)
from plica.cli.progress import EvaluationProgress
from plica.cli.runs import print_findings
from plica.cli.table import count_answers, print_summary
from plica.evaluation import PlanError, read_plan
from plica.evaluation.executors.ray import NoWorkersError
from plica.evaluation.plan import Plan
from plica.evaluation.run import DiskError
from plica.evaluation.run import evaluate as run_plan
from plica.evaluation.worker import AllFailedError
from plica.goals import WRITTEN
from plica.runs.own import remember
from plica.utils.messages import plain

PlanArgument = Annotated[Path | None, typer.Argument(metavar="PLAN.yaml", help="`plica plan` writes one")]
OutOption = Annotated[Path, typer.Option(help="directory of the run; an unfinished run is resumed")]
SkipDoctorOption = Annotated[
    bool, typer.Option("--skip-doctor", help="skip the quick checks of the models before a new run")
]
CountOption = Annotated[int | None, typer.Option("--n", help="the first N images only (of a sample: N of them)")]
ShardOption = Annotated[str | None, typer.Option(help="i/N: the i-th of N parts of the work; `plica merge` joins them")]
EngineOption = Annotated[str, typer.Option(help='local, or ray (pip install "plica[ray]")')]
WorkersOption = Annotated[int | None, typer.Option(min=1, help="workers of ray; by default as many as fit")]
GpusOption = Annotated[float, typer.Option(min=0, help="GPUs for each worker of ray; with 0.5 two share one")]
ModelOption = Annotated[list[str] | None, typer.Option(help="instead of a plan: file.py:factory, ...; repeatable")]
WeightsOption = Annotated[list[str] | None, typer.Option(help="one for each model")]
DataOption = Annotated[str | None, typer.Option(help="as for plica radius")]
MetricOption = Annotated[list[str] | None, typer.Option(help="l1, l2, linf, ...; repeatable")]
RadiusOption = Annotated[
    list[str] | None, typer.Option(help="max-loss within it, not min-radius; one per metric, or several for one metric")
]
MethodOption = Annotated[
    list[str] | None,
    typer.Option(help="auto, pwcf, autoattack, autoattack+plica, autoattack-rand, or any of plica radius; repeatable"),
]

EPILOG = """plica evaluate plan.yaml --out runs/all

    plica evaluate --model net.py:make --data test.npz --metric linf --radius 8/255 --method autoattack --out runs/aa

    plica evaluate plan.yaml --shard 2/8 --out runs/shard-2"""


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
    loss: Annotated[str | None, typer.Option(help="the loss of max-loss: margin, ce (cross-entropy) or dlr")] = None,
    goal: Annotated[str | None, typer.Option(help=f"what counts as a success: {WRITTEN}")] = None,
    levels: LevelsOption = None,
    target: TargetOption = None,
    targets: TargetsOption = None,
    method: MethodOption = None,
    sample: SampleOption = None,
    indices: IndicesOption = None,
    gradients: Annotated[int | None, typer.Option(min=1, help="budget of gradient evaluations per image")] = None,
    draws: DrawsOption = None,
    precision: PrecisionOption = None,
    individual: Annotated[
        bool, typer.Option("--individual", help="let every method attack every image, even if it is broken already")
    ] = False,
    seed: Annotated[int | None, typer.Option(min=0, help="random seed")] = None,
    bounds: BoundsOrPlansOption = None,
    device: DeviceOrPlansOption = None,
    trust: TrustOption = False,
    batch_size: Annotated[int | None, typer.Option(min=1, help="number of searches that run at the same time")] = None,
    skip_doctor: SkipDoctorOption = False,
) -> None:
    """Carry out a plan of models, data, questions and methods, and write a directory of results.

    The models of a new run are checked first, for up to ten seconds each: problems that would make results misleading
    are reported, with what to do, and the work continues.

    Finished parts are stored: after an interruption, a full disk or a power failure the same command resumes.
    """
    flags = dict(
        model=model, weights=weights, data=data, metric=metric, radius=radius, loss=loss, goal=goal, method=method
    )
    flags |= dict(sample=sample, gradients=gradients, individual=individual or None, seed=seed)
    flags |= dict(bounds=bounds, trust=trust or None, levels=levels, target=target, targets=targets and str(targets))
    changes: dict[str, Any] = {"device": device} if device else {}
    changes |= {"batch_size": batch_size} if batch_size else {}
    changes |= {"draws": draws} if draws else {}
    changes |= {"precision": precision} if precision else {}
    if indices is not None:  # override the plan
        changes |= {"data.indices": indices, "data.sample": "first"} | ({} if n else {"data.n": None})
    options: dict[str, Any] = dict(n=n, shard=shard, engine=engine, workers=workers, gpus=gpus)
    carry_out(lambda: read_plan(_from_flags(plan, flags), **changes), out, skip_doctor, **options)


def carry_out(plan: Callable[[], Plan], out: Path, skip_doctor: bool, **options: Any) -> None:
    """Carry out a plan with progress on standard error, and print the results.

    Args:
        plan: reads the plan; raises ValueError if it is not valid.
        out: directory of the run.
        skip_doctor: whether the quick checks of the models are left out.
        options: further arguments of plica.evaluate.
    """
    with (
        EvaluationProgress() as progress,
        wrong_input(accepted=lambda: progress.began),
        wrong_input((DiskError, AllFailedError, NoWorkersError)),
    ):
        try:
            read = plan()
            preflight = None if skip_doctor else progress.preflight
            run = run_plan(
                read, out, on_start=progress.start, on_event=progress.event, on_preflight=preflight, **options
            )
        except KeyboardInterrupt:
            progress.stop()
            kept = f"; what is finished is in {out}, and the same command goes on" if progress.began else ""
            print(plain(f"plica: interrupted{kept}."), file=sys.stderr)
            raise typer.Exit(Status.OTHER) from None
    remember([model.model for model in read.models])
    remember(spec for task in run.tasks for spec in (task.metric, task.through, task.goal))
    print_summary(run.summary)
    print_findings(run)
    print(plain(f"{out}: {count_answers(run.summary)} answers, summary.json; plica export writes tables"))


def _from_flags(plan: Path | None, flags: dict[str, Any]) -> Path | Plan:
    """The plan's file, or the plan that the options describe.

    Raises:
        PlanError: both are given, or neither.
    """
    options = {name: value for name, value in flags.items() if value or (name == "target" and value is not None)}
    if plan is not None:
        if ":" in plan.name:  # as models are named
            raise PlanError(f"A model stands in the place of the plan; write --model {plan}.")
        if options:
            raise PlanError(
                f"A plan and --{next(iter(options))} were given; write it into the plan, or give flags alone."
            )
        return plan
    missing = [f"--{name}" for name in ("model", "data", "metric") if name not in options]
    if missing:
        raise PlanError(f"Give a plan, or {', '.join(missing)}; `plica plan` writes a plan to start from.")
    weights = options.get("weights", [None] * len(options["model"]))
    if len(weights) != len(options["model"]):
        raise PlanError(f"There are {len(options['model'])} models and {len(weights)} weights; give one for each.")
    data = {"path": options["data"], "seed": options.get("seed", 0)}
    data |= {"sample": options["sample"]} if "sample" in options else {}
    pairs = zip(options["model"], weights, strict=True)
    models = [{"model": m, "weights": w, "trust": "trust" in options} for m, w in pairs]
    methods = options.get("method", ["auto"])
    record = {"models": models, "data": data, "questions": _questions(options), "methods": methods}
    record |= {key: options[key] for key in ("gradients", "individual", "seed", "bounds") if key in options}
    return read_plan(record)


def _questions(options: dict[str, Any]) -> list[dict[str, Any]]:
    metrics, radii = options["metric"], options.get("radius")
    goal = {key: options[key] for key in ("goal", "levels", "target", "targets") if key in options}
    if radii is None:
        if "loss" in options:
            raise PlanError("--loss is of max-loss, which needs a radius; give --radius, or leave --loss out.")
        return [{"ask": "min-radius", "metric": metrics} | goal]
    loss = goal | ({"loss": options["loss"]} if "loss" in options else {})
    if len(metrics) == 1:
        return [{"ask": "max-loss", "metric": metrics, "radius": radii} | loss]
    if len(radii) != len(metrics):
        raise PlanError(
            f"There are {len(metrics)} metrics and {len(radii)} radii; give one for each, in the same order."
        )
    return [{"ask": "max-loss", "metric": m, "radius": r} | loss for m, r in zip(metrics, radii, strict=True)]
