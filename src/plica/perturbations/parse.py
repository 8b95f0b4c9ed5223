"""Perturbations from text, and the distances of questions: "l2", "l2 through flow", "theta through flow"."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from plica.metrics import parse_metric
from plica.metrics.parse import import_object
from plica.perturbations.base import ParametricPerturbation
from plica.perturbations.registry import PERTURBATIONS

Bounds = tuple[float | Tensor, float | Tensor]
THROUGH = " through "


def perturbation_names() -> str:
    """What parse_through takes, for messages and the command line."""
    return f"{', '.join(PERTURBATIONS)}, or module:name of a plica.Perturbation"


def parse_through(text: str, bounds: Bounds = (0.0, 1.0)) -> ParametricPerturbation:
    """The perturbation that a text names: one of the registry, or module:name of one's own.

    Args:
        text: the name.
        bounds: of the pixels; two numbers.

    Raises:
        ValueError: there is none, or the bounds are tensors; one sentence.
    """
    low, high = bounds
    if isinstance(low, Tensor) or isinstance(high, Tensor):
        raise ValueError(f"The perturbation {text} takes bounds of two numbers, not one for each feature.")
    if text in PERTURBATIONS:
        return PERTURBATIONS[text]((low, high))
    cure = f"write {perturbation_names()}"
    if ":" not in text:
        raise ValueError(f"There is no perturbation {text!r}; {cure}.")
    perturbation = import_object(text, "perturbation", cure)
    if isinstance(perturbation, type) or not isinstance(perturbation, ParametricPerturbation):
        raise ValueError(f"The perturbation {text!r} is not a plica.Perturbation and lacks methods of one; {cure}.")
    return perturbation


def join_distance(metric: str, through: str | None) -> str:
    """The text of a distance, the inverse of split_distance: "l2", or "l2 through flow"."""
    return metric if through is None else f"{metric}{THROUGH}{through}"


def split_distance(text: str) -> tuple[str, str | None]:
    """The metric's and the perturbation's name in the text of a distance; None for x + delta."""
    metric, _, through = text.partition(THROUGH)
    return metric, through or None


def parse_distance(
    text: str, bounds: Bounds = (0.0, 1.0), metric: Callable[[str], Any] = parse_metric
) -> tuple[Any, ParametricPerturbation | None]:
    """`metric` and `through` of a question, from the text of a distance; the metric "theta" stays a text.

    Args:
        text: "l2", "l2 through flow" or "theta through flow".
        bounds: of the pixels; two numbers where there is a perturbation.
        metric: what makes a metric of its name.

    Raises:
        ValueError: there is no such distance; one sentence.
    """
    name, through = split_distance(text)
    if name == "theta" and through is None:
        raise ValueError('"theta" is the distance of a perturbation; name one, such as --through flow.')
    return "theta" if name == "theta" else metric(name), parse_through(through, bounds) if through else None
