"""Perturbations x' = T(x, theta): flows, turns and shifts, colour maps, hues, or a function of one's own."""

from plica.perturbations.base import ParametricPerturbation, Perturbation, check, moved, pulled
from plica.perturbations.flow import Flow
from plica.perturbations.hue import HueSaturation
from plica.perturbations.parse import joined, parse_distance, parse_through
from plica.perturbations.recolor import Recolor
from plica.perturbations.rotate import RotateTranslate

__all__ = [
    "Flow",
    "HueSaturation",
    "ParametricPerturbation",
    "Perturbation",
    "Recolor",
    "RotateTranslate",
    "check",
    "joined",
    "moved",
    "parse_distance",
    "parse_through",
    "pulled",
]
