"""The settings of the search on a grid of levels."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LevelSettings:
    """Settings of the search on the grid.

    Attributes:
        dimensions: up to which the attack itself runs on the grid.
        reserved: one in so many gradients is reserved for the grid,
        most_reserved: but at most this many if the attack itself does not run on the grid.
        trials: grid points that rounding tries for each image, while it has gradients or forward runs left.
        reach: levels that a pixel of u' may be away from z.
        stretch: relative lengthening of the perturbation after the second point that misses the goal; it doubles after
            each further one.
        halvings: bisection steps for log2(lambda).
        exponents: the interval of this bisection, with lambda in units of the largest change in levels.
    """

    dimensions: int = 100
    reserved: int = 5
    most_reserved: int = 2
    trials: int = 12
    reach: float = 1.5
    stretch: float = 0.01
    halvings: int = 16
    exponents: tuple[float, float] = (-8.0, 12.0)


SETTINGS = LevelSettings()
ENOUGH = 4.0  # times the margin that counts: the margin that rounding aims at, since the judge uses float64 too
INSIDE = 2e-6  # share added to a radius: more than the share of it that searches leave unused
ROUNDING = 1e-3  # of a level: a pixel this close to a level lies on the grid
