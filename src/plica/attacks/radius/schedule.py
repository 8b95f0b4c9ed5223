"""The order in which the radius attack (search.py) steps its rows: a race of classes, then rounds of starts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """New rows at the image itself take `steps` steps and join the pool: one for each class from number `first` up to,
    but not including, `last`, in order of decreasing logits."""

    first: int
    last: int
    steps: int = 1


@dataclass(frozen=True)
class Stage:
    """The `kept` rows with the smallest estimates of each image take `steps` steps.

    Attributes:
        overshoot: number of the overshoot phase that this stage begins (ProxSettings.overshoot): aiming beyond the
            boundary first leads to better minima. None for none.
        search_boundary: whether forward runs then move the best point towards the boundary.
    """

    kept: int
    steps: int
    overshoot: int | None = None
    search_boundary: bool = False


@dataclass(frozen=True)
class Elsewhere:
    """One more start takes `steps` steps. It aims at the nearest class so far and changes other pixels than the best
    perturbation (RadiusSearch._beside).

    Attributes:
        outside: the start lies far beyond the boundary in a random direction instead.
        search_boundary: as in Stage.
    """

    steps: int
    outside: bool = False
    search_boundary: bool = False


@dataclass(frozen=True)
class RadiusSchedule:
    """The order in which rows are stepped; docs/design/radius.md has the alternatives that were measured.

    Attributes:
        race: the stages of the first 50 gradients. Where gradients still change from step to step in
            the first stage of an overshoot phase (`last`, `kinked`), slow returns take the place of the last stage
            (RadiusSearch._slow_returns).
        sparse_race: replaces `race` for distances whose perturbations change few pixels (ProxSettings.sparse).
        aimed_race: replaces `race` if each image has one target class. The gradients of the other classes go to one
            start far beyond the boundary, whose search ends within a budget of 60; a round of several would not.
        last: the last steps of that stage, over which the cosine of the gradient with the averaged one is measured.
        kinked: gradients change where the mean of this cosine is below this.
        slow: steps of the first slow return, which the settings are for.
        slower: steps of the second one, for images that the first one brought nearer by the share `gain`, and the round
            after it did not.
        slow_aim: weight of the aim at the start of a slow return (1 in the race).
        gain: see `slower`.
        beside: length of the start of Elsewhere, in lengths of the best perturbation.
        sparse_far: replaces `far` if `sparse_race` replaces `race`.
        targets: classes of the starts far beyond the boundary in a round: the best class (0) or the second best (1).
        far: distances of these starts, used in turn, in lengths of the best perturbation.
        patience: steps of the first overshoot phase after which an image without a point goes on from a random point of
            the box, if more than the share `progress` is left of the negative margin that it had before them.
        progress: see `patience`.
        reach: the longest step at images where linear models mislead, in best radii.
        ascent_steps: gradients of a direct ascent, which leads to one more start.
        ascent_radius: radius of the ball of the ascent, in best radii.
        long_ascent: gradients of an ascent that small steps follow (ProxSettings.small_steps), for images without a
            point.
        small_steps: the stages of these steps.
        small: their first trust region, over the norm of their start.
        round: the stages of a round.
        others: the stages of searches from the image towards further classes, for distances whose perturbations change
            few pixels. Linear models at the image overestimate how far these classes are, so the race drops them after
            a step or two.
        others_after: number of rounds before `others`.
        same_point: a round returned to the best point if its end is farther away by no more than this share.
        settled_after: the search of an image ends after this many rounds in a row that returned to the best point.
        boundary_forwards: forward runs of one search of the boundary; regula falsi gains about a digit with each.
        inside: share of the radius that MaxLoss may use, so that the distance is within the radius in float64 too.
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
    last: int = 4
    kinked: float = 0.98
    slow: int = 64
    slower: int = 150
    slow_aim: float = 8.0
    gain: float = 5e-3
    beside: float = 1.5
    sparse_far: tuple[float, ...] = (8.0, 16.0)
    targets: tuple[int, ...] = (0, 0, 1)
    far: tuple[float, ...] = (2.0, 8.0, 4.0, 16.0)
    patience: int = 4
    progress: float = 0.2
    reach: float = 0.3
    ascent_steps: int = 8
    ascent_radius: float = 3.0
    long_ascent: int = 16
    small_steps: tuple[Stage, ...] = 4 * (Stage(1, steps=21),)
    small: float = 0.1
    round: tuple[Stage, ...] = (Stage(4, steps=4), Stage(2, steps=4), Stage(1, steps=18))
    others: tuple[Stage, ...] = (Stage(8, steps=3), Stage(4, steps=4))
    others_after: int = 2
    same_point: float = 1e-3
    settled_after: int = 5
    boundary_forwards: int = 4
    inside: float = 1 - 1e-6


SCHEDULE = RadiusSchedule()
