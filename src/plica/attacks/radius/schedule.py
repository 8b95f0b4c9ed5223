"""The order in which the radius attack (search.py) steps its rows: a race of classes, then rounds of starts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """Rows at the image itself, one for each of the classes first..last by logit, take `steps` steps and join the
    pool."""

    first: int
    last: int
    steps: int = 1


@dataclass(frozen=True)
class Stage:
    """The `kept` rows with the smallest estimates of each image take `steps` steps.

    overshoot: the index of the overshoot phase that this stage begins (ProxSettings.overshoot): aiming beyond the
        boundary first leads to better minima. search_boundary: forward runs towards the boundary follow.
    """

    kept: int
    steps: int
    overshoot: int | None = None
    search_boundary: bool = False


@dataclass(frozen=True)
class Elsewhere:
    """One more start for the nearest class so far, which changes other pixels (`_beside`), takes `steps` steps.

    outside: the start is far outside in a random direction instead. search_boundary: as of Stage.
    """

    steps: int
    outside: bool = False
    search_boundary: bool = False


@dataclass(frozen=True)
class RadiusSchedule:
    """The order in which rows are stepped; docs/design/radius.md has the alternatives that were measured.

    Attributes:
        race: the first 50 gradients.
        sparse_race: in place of `race` for distances whose perturbations change few pixels (ProxSettings.sparse).
        aimed_race: in place of `race` where each image has one class to aim at: what other classes would get goes to
            one start outside, whose search ends with 60 gradients, as a round of several would not.
        beside: length of the start of Elsewhere, in lengths of the best perturbation.
        sparse_far: in place of `far` for these distances.
        targets: of the starts far outside in a round: the best class (0), or the second best (1).
        far: their lengths, in turn, in lengths of the best perturbation.
        ascent_steps: gradients of direct ascent for one more start.
        ascent_radius: of the ball of the ascent, in best radii.
        round: what happens to the starts of a round.
        others: for distances whose perturbations change few pixels, searches from the image for further classes: all
            linear models there overrate how far these are, and the race left them after a step or two.
        others_after: number of rounds before them.
        same_point: relative distance to the best below which a round ended at the same point.
        settled_after: rounds in a row that found nothing nearer and ended at the same point, after which an image is
            left.
        boundary_forwards: forward runs of one search towards the boundary; regula falsi gains a digit with each.
        inside: share of the radius that MaxLoss may use, so that float64 agrees that the distance is within the radius.
    """

    race: tuple[Entry | Stage | Elsewhere, ...] = (
        Entry(0, 1, steps=2),
        Entry(1, 5),
        Stage(1, steps=4),
        Entry(5, 7),
        Stage(2, steps=2),
        Stage(1, steps=14, overshoot=0, search_boundary=True),
        Stage(3, steps=2),
        Stage(1, steps=14, overshoot=1, search_boundary=True),
    )
    sparse_race: tuple[Entry | Stage | Elsewhere, ...] = (*race[:6], Elsewhere(steps=20, search_boundary=True))
    aimed_race: tuple[Entry | Stage | Elsewhere, ...] = (
        *race[:6],
        Elsewhere(steps=38, outside=True, search_boundary=True),
    )
    beside: float = 1.5
    sparse_far: tuple[float, ...] = (8.0, 16.0)
    targets: tuple[int, ...] = (0, 0, 1)
    far: tuple[float, ...] = (2.0, 8.0, 4.0, 16.0)
    ascent_steps: int = 8
    ascent_radius: float = 3.0
    round: tuple[Stage, ...] = (Stage(4, steps=4), Stage(2, steps=4), Stage(1, steps=18))
    others: tuple[Stage, ...] = (Stage(8, steps=3), Stage(4, steps=4))
    others_after: int = 2
    same_point: float = 1e-3
    settled_after: int = 5
    boundary_forwards: int = 4
    inside: float = 1 - 1e-6


SCHEDULE = RadiusSchedule()
