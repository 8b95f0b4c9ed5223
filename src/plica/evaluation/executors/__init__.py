"""Executors, which do the work of an evaluation: in this process, in one process per device, or on a Ray cluster."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from plica.evaluation.executors import local, ray
from plica.evaluation.worker import Resources, Steps
from plica.utils.messages import shown
from plica.utils.optional import require
from plica.utils.whole import as_int

Executor = Callable[[Iterable[Steps], Resources], None]

EXECUTORS: dict[str, Executor] = {"local": local.drive, "ray": ray.drive}
MOST = 100_000  # workers, and GPUs of each


def find(name: str, workers: int | None = None, gpus: float = 0) -> Executor:
    """The executor of that name: a function that carries out steps with the resources that it is given.

    Raises:
        ValueError: there is no such engine, its package is missing, or it cannot have this many workers.
    """
    if name not in EXECUTORS:
        raise ValueError(f"There is no engine {shown(name)}; choose from {', '.join(EXECUTORS)}.")
    if workers is not None and not 1 <= (as_int(workers) or 0) <= MOST:
        raise ValueError(f"workers must be a whole number from 1 to {MOST}, got {shown(workers)}.")
    if not (isinstance(gpus, int | float) and 0 <= gpus <= MOST and math.isfinite(gpus)):
        raise ValueError(f"gpus must be a number from 0 to {MOST}, got {shown(gpus)}.")
    if name == "local" and (workers is not None or gpus):
        raise ValueError("The engine local has one worker, this process; workers and gpus are for the engine ray.")
    if name == "ray":
        require("ray", "The engine ray")
    return EXECUTORS[name]
