"""Figures of results, radii and perturbations, drawn on given axes or on new ones; the axes are returned::

    axes = plica.plot.accuracy_curve({"ours": result, "theirs": other}, budgets=[0.5])

Radii are a Result, a Contender (plica.compare) or an array; inf where no point was found.
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
