"""Perturbations by name, as on the command line and in plans, and distances through them: "theta through flow"."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from plica.metrics import parse_metric
from plica.metrics.parse import imported
from plica.perturbations.base import ParametricPerturbation
from plica.perturbations.flow import Flow
from plica.perturbations.hue import HueSaturation
from plica.perturbations.recolor import Recolor
from plica.perturbations.rotate import RotateTranslate

Bounds = tuple[float | Tensor, float | Tensor]
NAMED: dict[str, Callable[[tuple[float, float]], ParametricPerturbation]] = {
    "flow": lambda bounds: Flow(),
    "rotate-translate": lambda bounds: RotateTranslate(),
    "recolor": lambda bounds: Recolor(bounds=bounds),
    "recolor-luv": lambda bounds: Recolor(bounds=bounds, space="luv"),
    "hue-saturation": lambda bounds: HueSaturation(bounds=bounds),
}
THROUGH = " through "


def parse_through(text: str, bounds: Bounds = (0.0, 1.0)) -> ParametricPerturbation:
    """The perturbation a string names: a key of NAMED, or module:name of one's own.

    Raises:
        ValueError: there is none, or features have bounds of their own; one sentence.
    """
    low, high = bounds
    if isinstance(low, Tensor) or isinstance(high, Tensor):
        raise ValueError(f"The perturbation {text} takes bounds of two numbers, not one for each feature.")
    known = f"write {', '.join(NAMED)}, or module:name of a plica.Perturbation"
    if text in NAMED:
        return NAMED[text]((low, high))
    if ":" not in text:
        raise ValueError(f"There is no perturbation {text!r}; {known}.")
    found = imported(text, "perturbation", known)
    if isinstance(found, type) or not isinstance(found, ParametricPerturbation):
        raise ValueError(f"The perturbation {text!r} is no plica.Perturbation and has none of its methods; {known}.")
    return found


def joined(metric: str, through: str | None) -> str:
    """The two as one text, by which a run tells its distances apart: "theta through flow"."""
    return metric if through is None else f"{metric}{THROUGH}{through}"


def parse_distance(
    text: str, bounds: Bounds = (0.0, 1.0), metric: Callable[[str], Any] = parse_metric
) -> tuple[Any, ParametricPerturbation | None]:
    """`metric` and `through` of a question, from "l2", "l2 through flow" or "theta through flow".

    Raises:
        ValueError: there is no such distance; one sentence.
    """
    name, _, moving = text.partition(THROUGH)
    if name == "theta" and not moving:
        raise ValueError('"theta" is the distance of a perturbation; name one, such as --through flow.')
    return "theta" if name == "theta" else metric(name), parse_through(moving, bounds) if moving else None
