"""Perturbations by name, as on the command line and in plans."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from plica.metrics import parse_metric
from plica.perturbations.base import ParametricPerturbation
from plica.perturbations.registry import PERTURBATIONS
from plica.utils.factories import find
from plica.utils.messages import did_you_mean, shown

Bounds = tuple[float | Tensor, float | Tensor]
THROUGH = " through "


def perturbation_names() -> str:
    """The texts that parse_through accepts, for messages and the command line."""
    return f"{', '.join(PERTURBATIONS)}, or file.py:name or package.module:name of a plica.Perturbation"


def parse_through(text: str, bounds: Bounds = (0.0, 1.0)) -> ParametricPerturbation:
    """The perturbation that a text names: one of the registry, or file.py:name.

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
        raise ValueError(f"There is no perturbation {shown(text)}; {did_you_mean(text, PERTURBATIONS)}{cure}.")
    perturbation = find(text, "perturbation")
    if isinstance(perturbation, type) or not isinstance(perturbation, ParametricPerturbation):
        raise ValueError(f"The perturbation {text!r} is not a plica.Perturbation and lacks methods of one; {cure}.")
    return perturbation


def join_distance(metric: str, through: str | None) -> str:
    """The text of a distance for readers: "l2", or "l2 through flow"."""
    return metric if through is None else f"{metric}{THROUGH}{through}"


def split_distance(text: str) -> tuple[str, str | None]:
    """The inverse of join_distance: the metric's and the perturbation's name; None for x + delta."""
    metric, _, through = text.partition(THROUGH)
    return metric, through or None


def parse_distance(
    metric: str,
    through: str | None = None,
    bounds: Bounds = (0.0, 1.0),
    parse: Callable[[str], Any] = parse_metric,
) -> tuple[Any, ParametricPerturbation | None]:
    """`metric` and `through` of a question, from their names; the metric "theta" is the perturbation's own.

    Args:
        metric: what `parse` takes, or "theta".
        through: what parse_through takes; None for x + delta.
        bounds: of the inputs.
        parse: turns a name into a metric.

    Raises:
        ValueError: one of them is not a valid name; one sentence.
    """
    if metric == "theta" and not through:
        raise ValueError('"theta" is the distance of a perturbation; name one, such as --through flow.')
    perturbation = None if through is None else parse_through(through, bounds)
    return "theta" if metric == "theta" else parse(metric), perturbation
