"""Who computes: this process, or the actors of a Ray cluster."""

from collections.abc import Callable

from plica.evaluation.executors import local, ray

EXECUTORS: dict[str, Callable[..., None]] = {"local": local.drive, "ray": ray.drive}


def find(name: str) -> Callable[..., None]:
    """drive(steps, plan, threads, models, workers, gpus) of that engine.

    Raises:
        ValueError: there is no such engine.
    """
    if name not in EXECUTORS:
        raise ValueError(f"There is no engine {name!r}; known are {', '.join(EXECUTORS)}.")
    return EXECUTORS[name]
