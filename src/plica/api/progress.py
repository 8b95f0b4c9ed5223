"""How far a call of plica.attack has come."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """Images done of total, gradients spent so far on all, median distance of the images with a point so far (nan
    before)."""

    done: int
    total: int
    gradients: int
    radius: float
