"""Perturbations x' = T(x, theta): flows, rotations and shifts, colour maps, hues, or a function of the user."""

from plica.perturbations.base import (
    ParametricPerturbation,
    Perturbation,
    ThetaDistance,
    apply,
    check,
    interpolate,
    theta_gradient,
    transform,
)
from plica.perturbations.flow import Flow
from plica.perturbations.hue import HueSaturation
from plica.perturbations.parse import (
    join_distance,
    parse_distance,
    parse_through,
    perturbation_names,
    split_distance,
)
from plica.perturbations.recolor import Recolor
from plica.perturbations.registry import PERTURBATIONS
from plica.perturbations.rotate import RotateTranslate

__all__ = [
    "PERTURBATIONS",
    "Flow",
    "HueSaturation",
    "ParametricPerturbation",
    "Perturbation",
    "Recolor",
    "RotateTranslate",
    "ThetaDistance",
    "apply",
    "check",
    "interpolate",
    "join_distance",
    "parse_distance",
    "parse_through",
    "perturbation_names",
    "split_distance",
    "theta_gradient",
    "transform",
]
