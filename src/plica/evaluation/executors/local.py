"""One worker, in this process; where the plan names several devices, one process for each."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

from plica.evaluation.executors import processes
from plica.evaluation.worker import Resources, Steps, Worker


def drive(steps: Iterable[Steps], resources: Resources) -> None:
    """Carry out the steps one after the other, with the models that are loaded already."""
    if len(resources.plan.devices) > 1:
        processes.drive(steps, resources)
        return
    worker = Worker(*resources.worker_arguments, resources.models)
    for generator in steps:
        with suppress(StopIteration):
            work = next(generator)
            while True:
                work = generator.send(worker.answer(work))
