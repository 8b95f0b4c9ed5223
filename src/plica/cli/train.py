"""`plica train`: a network made robust under any distance, and evaluated."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from plica.cli.errors import Status, wrong_input
from plica.cli.progress import TrainingBar
from plica.cli.runs import print_findings
from plica.cli.table import print_summary
from plica.evaluation import PlanError
from plica.evaluation.run import DiskError
from plica.evaluation.worker import AllFailedError
from plica.training.checkpoint import CHECKPOINT, LOG, RUN, WEIGHTS
from plica.training.plan import read_training_plan
from plica.training.trainer import DivergedError
from plica.training.trainer import train as run_plan
from plica.utils.messages import plain

EPILOG = """plica train robust.yaml --out runs/robust

    plica report runs/robust/run

A plan, robust.yaml:

    model: net.py:make           # a function that makes the network
    data: train.npz              # x and y
    questions:
      - {ask: min-radius, metric: l2, cap: 0.8}
      # - {ask: max-loss, metric: linf, radius: 8/255}
    epochs: 20
    held_out: 500                # images that select the best epoch
    # test: test.npz             # images of the evaluation at the end"""


def train(
    plan: Annotated[Path, typer.Argument(metavar="PLAN.yaml", help="model, data, questions, epochs: as below")],
    out: Annotated[Path, typer.Option(help="directory of the training; an unfinished training is resumed")],
    device: Annotated[str | None, typer.Option(help="instead of the plan's")] = None,
) -> None:
    """Train a network on hard inputs, keep the weights with the largest radii, and evaluate it with an undefended one.

    After an interruption the same command resumes from the last checkpoint, with the same result, bit for bit.
    """
    with (
        TrainingBar() as progress,
        wrong_input(accepted=lambda: progress.began),
        wrong_input((DiskError, AllFailedError, PlanError)),
    ):
        try:
            read = read_training_plan(plan)
            if device is not None:
                read = read.model_copy(update={"device": device})
            run = run_plan(read, out, on_progress=progress, say=progress.say)
        except DivergedError as error:
            progress.stop()
            print(plain(f"plica: {error}"), file=sys.stderr)
            raise typer.Exit(Status.OTHER) from None
        except KeyboardInterrupt:
            progress.stop()
            kept = ""
            if (out / CHECKPOINT).is_file():
                kept = f"; the last checkpoint is in {out}, and the same command goes on"
            elif progress.began:
                kept = (
                    " before the first checkpoint (after an epoch, or `save_every` steps); the same command begins anew"
                )
            print(plain(f"plica: interrupted{kept}."), file=sys.stderr)
            raise typer.Exit(Status.OTHER) from None
    print_summary(run.summary)
    print_findings(run)
    print(plain(f"{out}: {WEIGHTS}, {LOG}; plica report {out / RUN} makes a report"))
