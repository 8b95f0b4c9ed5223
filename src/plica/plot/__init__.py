"""Figures from results, radii and perturbations, on matplotlib axes that are given or made, and returned::

    axes = plica.plot.accuracy_curve({"ours": result, "theirs": other}, budgets=[0.5])

Radii are given as a Result, a Contender (plica.answers) or an array; inf where nothing was found.
"""

from plica.plot.patterns import magnitudes, measure_histogram, panels, perturbation
from plica.plot.radii import accuracy_curve, radii_by_image, radii_histogram, radius_difference
from plica.plot.style import COLOURS, COLUMN, PAGE, paper
from plica.plot.trajectory import OutOfTime, Recorded, trajectory

__all__ = [
    "COLOURS",
    "COLUMN",
    "PAGE",
    "OutOfTime",
    "Recorded",
    "accuracy_curve",
    "magnitudes",
    "measure_histogram",
    "panels",
    "paper",
    "perturbation",
    "radii_by_image",
    "radii_histogram",
    "radius_difference",
    "trajectory",
]
