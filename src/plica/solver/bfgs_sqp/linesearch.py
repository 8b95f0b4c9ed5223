"""Weak Wolfe line search by bracketing and bisection (Lewis, Overton 2013, Algorithm 2.6), one state per row.

    phi(t) <= phi(0) + c1 t phi'(0)   and   phi'(t) >= c2 phi'(0)

The search works with one value and one slope per row and does not know x: the caller evaluates them at `t`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


class SearchOutcome(IntEnum):
    """What became of a search."""

    TRYING = 0
    ACCEPTED = 1
    FAILED = 2  # bracketed, but no step of the bracket would do
    NO_UPPER_END = 3  # phi decreased at every step that was tried


@dataclass
class Search:
    """The state of each row's search.

    Attributes:
        t: the next step to evaluate.
        lo, hi: the bracket.
        phi, slope: the value and the slope at 0.
        tries: evaluations so far.
        outcome: a SearchOutcome.
        wall: whether a value was not finite.
    """

    t: Float[Tensor, " r"]
    lo: Float[Tensor, " r"]
    hi: Float[Tensor, " r"]
    phi: Float[Tensor, " r"]
    slope: Float[Tensor, " r"]
    tries: Int[Tensor, " r"]
    outcome: Int[Tensor, " r"]
    wall: Bool[Tensor, " r"]


@dataclass(frozen=True)
class WeakWolfe:
    """The settings of the search.

    Attributes:
        c1: of the condition of sufficient decrease.
        c2: of the curvature condition.
        tries: evaluations, not counting doublings, after which a bracketed search fails; half as many in float32.
        doublings: after which a search without an upper end fails.
        at_wall: number of tries that a value that is not finite counts for. More than one for problems where phi often
            decreases up to the end of its domain, so that there is no step to be found.
    """

    c1: float = 1e-4
    c2: float = 0.5
    tries: int = 40
    doublings: int = 60
    at_wall: int = 1

    def __post_init__(self):
        if not 0 < self.c1 < self.c2 < 1:
            raise ValueError(f"WeakWolfe needs 0 < c1 < c2 < 1, got c1={self.c1}, c2={self.c2}.")

    def start(
        self, phi: Float[Tensor, " r"], slope: Float[Tensor, " r"], t: Float[Tensor, " r"] | float = 1.0
    ) -> Search:
        """A search from phi(0) and phi'(0) that tries the step t first."""
        zero, count = torch.zeros_like(phi), torch.zeros_like(phi, dtype=torch.long)
        return Search(
            t=zero + t, lo=zero.clone(), hi=zero + torch.inf, phi=phi, slope=slope,
            tries=count.clone(), outcome=count + int(SearchOutcome.TRYING), wall=count > 0,
        )  # fmt: skip

    def step(self, s: Search, phi: Float[Tensor, " r"], slope: Float[Tensor, " r"]) -> Search:
        """The search after phi(t) and phi'(t) were evaluated. A value that is not finite counts as an upper end."""
        # rounding of phi must not end a search whose step is too short to change phi visibly
        rounding = 4 * torch.finfo(phi.dtype).eps * s.phi.abs().nan_to_num(posinf=0)
        low_enough = phi <= s.phi + self.c1 * s.t * s.slope + rounding
        flat_enough = slope >= self.c2 * s.slope
        hi = torch.where(low_enough, s.hi, s.t)
        lo = torch.where(low_enough & ~flat_enough, s.t, s.lo)
        t = torch.where(hi.isinf(), 2 * s.t, (lo + hi) / 2)
        wall = phi.isinf()
        tries = s.tries + torch.where(wall, self.at_wall, 1)
        # no search along a direction of ascent; the first search of a row, from phi = inf, accepts any step
        descends = (s.slope < 0) | s.phi.isinf()
        outcome = torch.where(
            low_enough & flat_enough & descends, int(SearchOutcome.ACCEPTED), int(SearchOutcome.TRYING)
        )
        trying = outcome == SearchOutcome.TRYING
        # a bracket that is too short to be halved has failed, however few tries it took
        most = self.tries if phi.dtype == torch.float64 else self.tries // 2  # half the digits, half the bisections
        spent = (tries >= most + hi.clamp(min=1).log2()) | (t <= lo) | (t >= hi)
        outcome = torch.where(trying & ((hi.isfinite() & spent) | ~descends), int(SearchOutcome.FAILED), outcome)
        outcome = torch.where(trying & hi.isinf() & (tries >= self.doublings), int(SearchOutcome.NO_UPPER_END), outcome)
        return Search(t, lo, hi, s.phi, s.slope, tries, outcome, s.wall | wall)
