"""One worker, in this process."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

from plica.core.bounds import read_bounds
from plica.evaluation.model_cache import ModelCache
from plica.evaluation.plan import Plan
from plica.evaluation.worker import Steps, Worker


def drive(
    steps: Iterable[Steps],
    plan: Plan,
    threads: int,
    models: ModelCache,
    workers: int | None = None,
    gpus: float = 0,
) -> None:
    """Carry out each to its end, one after the other, with the models that are loaded already."""
    worker = Worker(plan.device, read_bounds(plan.bounds), plan.batch_size, threads, models)
    for each in steps:
        with suppress(StopIteration):
            work = next(each)
            while True:
                work = each.send(worker.answer(work))
