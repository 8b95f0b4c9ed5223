"""The reference trainer: trains according to a plan (loop.py), then evaluates the network.

The network is evaluated like any other, together with one that was trained without questions, into a directory for
`plica report`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from plica.data import open_data
from plica.data.sample import select
from plica.evaluation import PlanError, evaluate
from plica.evaluation.run import Event
from plica.evaluation.tasks import Chain
from plica.runs import Run
from plica.training.checkpoint import RUN, UNDEFENDED, WEIGHTS
from plica.training.loop import DivergedError, Trainer, TrainingProgress
from plica.training.plan import TrainingPlan, read_training_plan
from plica.utils.files import locked

__all__ = ["DivergedError", "TrainingProgress", "train"]

OTHERS = ("l1", "l2", "linf")  # distances in which every network is evaluated


def train(
    plan: str | Path | Mapping[str, Any] | TrainingPlan,
    out: str | Path,
    *,
    on_progress: Callable[[TrainingProgress], None] = lambda progress: None,
    say: Callable[[str], None] = lambda sentence: None,
) -> Run:
    """Carry out a training plan, or resume it; returns the run of the last evaluation, which is in `out`/run.

    Args:
        plan: a YAML file, a dict with its keys, or a TrainingPlan.
        out: the directory: checkpoint.pt, model.safetensors (the best weights), log.parquet (a row an epoch),
            undefended (the same of the network trained without questions) and run.
        on_progress: called after every step, and as the evaluation begins.
        say: called with each warning, and with the epoch that was kept: a sentence each.

    Raises:
        ValueError: invalid input; raised before any work.
        DivergedError: the loss is not finite.
        OSError: the disk is full; the same call goes on.
    """
    read, directory = read_training_plan(plan), Path(out)
    if read.threads is not None:
        torch.set_num_threads(read.threads)
    with locked(directory):
        trainer = Trainer(read, directory, "training", say)
        if read.test is not None:  # what is wrong with these images is said before the training
            test, source = read.test, open_data(read.test.path, read.takes_any_pixels, takes_goals=False)
            ids = select(source.labels, test.n, test.indices, test.sample, test.seed)
            trainer.check("the test", source.read(ids[:2])[0], source.labels[ids])
        plain = None
        if read.undefended and read.questions and read.model.weights is None:
            plain = Trainer(read.model_copy(update={"questions": []}), directory / UNDEFENDED, UNDEFENDED, say)
        trainer.run(on_progress)
        say(trainer.kept())
        models = [{"model": read.model.model, "weights": str(directory / WEIGHTS), "name": "trained"}]
        if plain is not None:
            plain.run(on_progress)
            say(plain.kept())
            models.append({"model": read.model.model, "weights": str(plain.directory / WEIGHTS), "name": UNDEFENDED})
        elif read.undefended and read.questions:
            models.append({"model": read.model.model, "weights": str(read.model.weights), "name": UNDEFENDED})
    return _evaluate(_last_plan(read, models, trainer.held_ids), directory / RUN, on_progress)


def _evaluate(plan: dict[str, Any], directory: Path, on_progress: Callable[[TrainingProgress], None]) -> Run:
    """The evaluation at the end, with its progress."""
    began, total, fresh = time.monotonic(), 0, []

    def report() -> None:
        seconds = time.monotonic() - began
        on_progress(TrainingProgress("evaluation", len(fresh), total, math.nan, sum(fresh), seconds))

    def start(chains: list[Chain], chunks: int) -> None:
        nonlocal total
        total = chunks * sum(len(chain.jobs) for chain in chains)
        report()

    def event(finished: Event) -> None:
        fresh.append(finished.fresh)
        report()

    try:
        return evaluate(plan, directory, on_start=start, on_event=event)
    except PlanError as error:
        if not directory.is_dir():
            raise
        advice = f"The training itself is finished: delete {directory}, and the same command evaluates it anew."
        raise PlanError(f"{error} {advice}") from error


def _last_plan(plan: TrainingPlan, models: list[dict[str, Any]], held_out: Tensor) -> dict[str, Any]:
    """The plan of the evaluation at the end: radii under the distances of the training, and under l1, l2 and linf."""
    metrics = [q.metric for q in plan.questions if q.through is None]
    questions: list[dict[str, Any]] = [{"ask": "min-radius", "metric": list(dict.fromkeys([*metrics, *OTHERS]))}]
    moved = [q for q in plan.questions if q.through is not None]
    questions += [{"ask": "min-radius", "metric": q.metric, "through": q.through} for q in moved]
    data = {"path": plan.data.path, "indices": held_out[: plan.report_n].tolist()}
    if plan.test is not None:
        data = plan.test.model_dump(exclude_unset=True)
        if plan.test.indices is None and plan.test.n is None:
            data["n"] = min(plan.report_n, len(open_data(plan.test.path, plan.takes_any_pixels)))
    return dict(
        models=[{**model, "trust": plan.model.trust} for model in models], data=data, questions=questions,
        gradients=plan.report_gradients, bounds=plan.bounds, device=plan.device, seed=plan.seed,
    )  # fmt: skip
