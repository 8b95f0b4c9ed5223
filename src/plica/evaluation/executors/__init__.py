"""Where the work is done: in this process, or by the actors of a Ray cluster."""

from collections.abc import Callable, Iterable

from plica.evaluation.executors import local, ray
from plica.evaluation.worker import Resources, Steps

Executor = Callable[[Iterable[Steps], Resources], None]

EXECUTORS: dict[str, Executor] = {"local": local.drive, "ray": ray.drive}


def find(name: str) -> Executor:
    """The executor of that name: it carries out steps with the resources that it is given.

    Raises:
        ValueError: there is no such engine.
    """
    if name not in EXECUTORS:
        raise ValueError(f"There is no engine {name!r}; choose from {', '.join(EXECUTORS)}.")
    return EXECUTORS[name]
