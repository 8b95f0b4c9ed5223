"""Perturbations that have a name, as on the command line and in plans: one line each. A new one: docs/extend.md."""

from __future__ import annotations

from collections.abc import Callable

from plica.perturbations.base import ParametricPerturbation
from plica.perturbations.flow import Flow
from plica.perturbations.hue import HueSaturation
from plica.perturbations.recolor import Recolor
from plica.perturbations.rotate import RotateTranslate
from plica.utils.registry import Registry

# name: a function of the pixels' bounds (low, high) that makes the perturbation
PERTURBATIONS: Registry[Callable[[tuple[float, float]], ParametricPerturbation]] = Registry(
    "plica.perturbations",
    {
        "flow": lambda bounds: Flow(),
        "rotate-translate": lambda bounds: RotateTranslate(),
        "recolor": lambda bounds: Recolor(bounds=bounds),
        "recolor-luv": lambda bounds: Recolor(bounds=bounds, space="luv"),
        "hue-saturation": lambda bounds: HueSaturation(bounds=bounds),
    },
)
