"""Who computes: this process, or the actors of a Ray cluster.

An engine drives Steps: generators that yield Work and are sent its Part.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from plica.evaluation.worker import Part, Work

    Steps = Generator[Work, Part, None]
else:
    Steps = Generator

ENGINES = ("local", "ray")


def find(name: str) -> Callable[..., None]:
    """drive(steps, plan, threads, models, workers, gpus) of that engine.

    Raises:
        ValueError: there is none, or its package is missing.
    """
    if name == "local":
        from plica.evaluation.executors.local import drive

        return drive
    if name == "ray":
        from plica.evaluation.executors.ray import drive

        return drive
    raise ValueError(f"There is no engine {name!r}; known are {', '.join(ENGINES)}.")
