"""The subproblem with several planes as separate constraints, solved exactly for many rows at once; no model call.

    min_z ||z||_p + ridge |z - u|^2 / 2 + penalty s   s.t.   planes_j . z + s >= rise_j,   low <= z <= high,   s >= 0

for p = 1, 2 (as |z|^2 / 2, which has the same minimiser) and inf: a linear or quadratic program, by a primal-dual
interior point method with predictor and corrector (Mehrotra 1992). The slack s makes every row feasible. The matrix of
each step is diagonal, bordered by one row for l_inf, plus as many products as there are planes (Woodbury's identity).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

STEPS = 16  # most iterations; 8 to 12 are needed, and the next step of the search corrects the remaining error
GAP = 1e-8  # a row is finished when the mean product of slacks and multipliers is below this times 1 + penalty s
PENALTY = 100.0
RIDGE = 1e-4  # makes the program strictly convex: of equally near points it selects the one nearest to u
WIDTH = 1e-7  # given to a box that is empty, so that it has an interior
INSIDE = 0.995  # share of the step at which a slack or multiplier would be 0

Vector = tuple[Tensor, Tensor, Tensor]  # of the unknowns w (r, m), s (r,) and t (r,)


def nearest(
    p: float,
    planes: Float[Tensor, "r k n"],
    rise: Float[Tensor, "r k"],
    low: Float[Tensor, "r n"],
    high: Float[Tensor, "r n"],
    u: Float[Tensor, "r n"],
) -> tuple[Float[Tensor, "r n"], Float[Tensor, " r"]]:
    """The minimiser z, and its slack s. All inputs are in float64, in units in which z and the planes are about 1; a
    plane of zeros is ignored."""
    n = low.shape[1]
    middle, half = (low + high) / 2, ((high - low) / 2).clamp(min=WIDTH)
    low, high = middle - half, middle + half
    if p == 1:  # the positive and the negative parts of z
        planes = torch.cat([planes, -planes], 2)
        u = torch.cat([u.clamp(min=0), (-u).clamp(min=0)], 1)
        low, high = torch.cat([low, -high], 1).clamp(min=0), torch.cat([high, -low], 1).clamp(min=0)
        high = torch.maximum(high, low + WIDTH)
        w = low + 0.5 * (high - low).clamp(max=0.1)
    else:
        room = 0.1 * (high - low).clamp(max=1)
        w = torch.minimum(torch.maximum(torch.zeros_like(low), low + room), high - room)
    program = _Program(p, planes, (planes != 0).any(2).to(planes), u)
    w, s = program.solve(w, rise, low, high)
    return w[:, :n] - w[:, n:] if p == 1 else w, s


@dataclass(frozen=True)
class _Factor:
    """The factorised matrix of a step: its diagonals for w and s, the border and the corner that t adds after w is
    eliminated, and the Cholesky factor of the part of the planes."""

    diagonal: Float[Tensor, "r m"]
    slack: Float[Tensor, " r"]
    border: Float[Tensor, "r m"]
    corner: Float[Tensor, " r"]
    planes: Float[Tensor, "r k k"]


@dataclass(frozen=True)
class _Program:
    """Unknowns w, s and, for l_inf, t >= |w|. Slacks: of the planes, of low, of high, of s >= 0, of t -+ w >= 0."""

    p: float
    planes: Float[Tensor, "r k m"]
    counts: Float[Tensor, "r k"]  # 1 for planes that count
    u: Float[Tensor, "r m"]

    @property
    def _bordered(self) -> bool:
        return self.p == math.inf

    def _parts(self, slacks: Tensor) -> tuple[Tensor, ...]:
        m = self.u.shape[1]
        return slacks.split([self.planes.shape[1], m, m, 1, *([m, m] if self._bordered else [])], 1)

    def _slacks(self, w: Tensor, s: Tensor, t: Tensor) -> Tensor:
        """The linear part E v of all slacks."""
        s = s[:, None]
        parts = [(self.planes * w[:, None]).sum(2) + s * self.counts, w, -w, s]
        return torch.cat([*parts, t[:, None] - w, t[:, None] + w] if self._bordered else parts, 1)

    def _back(self, slacks: Tensor) -> Vector:
        """E' times numbers of the slacks."""
        parts = self._parts(slacks)
        w = (self.planes * parts[0][:, :, None]).sum(1) + parts[1] - parts[2]
        s = (self.counts * parts[0]).sum(1) + parts[3][:, 0]
        return (w - parts[4] + parts[5], s, (parts[4] + parts[5]).sum(1)) if self._bordered else (w, s, s)

    def _gradient(self, w: Tensor) -> Tensor:
        own = w if self.p == 2 else 1.0 if self.p == 1 else 0.0
        return own + RIDGE * (w - self.u)

    def solve(self, w: Tensor, rise: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """The solution w, s, from a start w inside the box. Rows that are finished do not change any more."""
        k, m = self.counts.shape[1], w.shape[1]
        s = ((rise - (self.planes * w[:, None]).sum(2)) * self.counts).amax(1).clamp(min=0) + 0.5
        t = w.abs().amax(1) + 0.5
        slacks = self._slacks(w, s, t)
        slacks[:, : k + 2 * m] -= torch.cat([rise, low, -high], 1)
        slacks[:, :k] = torch.where(self.counts > 0, slacks[:, :k], 1)
        mu = 0.3 / slacks
        share = PENALTY / 2 / self.counts.sum(1, keepdim=True).clamp(min=1)
        mu[:, :k] = torch.where(self.counts > 0, torch.minimum(share, 10 * mu[:, :k].clamp(min=0.3)), 1e-3)
        mu[:, k + 2 * m] = PENALTY - (mu[:, :k] * self.counts).sum(1)
        live = torch.ones_like(s, dtype=torch.bool)
        for _ in range(STEPS):
            live = live & ((slacks * mu).mean(1) >= GAP * (1 + PENALTY * s))
            if not bool(live.any()):
                break
            (dw, ds, dt), dslacks, dmu = self._step(self._gradient(w), slacks, mu)
            length = (INSIDE * _longest(slacks, dslacks, mu, dmu)).clamp(max=1)
            # a row whose step is not finite has reached the limits of rounding
            live = live & (dslacks.sum(1) + dmu.sum(1)).isfinite()
            step = torch.where(live, length, 0)
            w, s, t, slacks, mu = (
                torch.where(live.view(-1, *[1] * (old.ndim - 1)), old + step.view(-1, *[1] * (old.ndim - 1)) * d, old)
                for old, d in ((w, dw), (s, ds), (t, dt), (slacks, dslacks), (mu, dmu))
            )
        return w, s

    def _step(self, gradient: Tensor, slacks: Tensor, mu: Tensor) -> tuple[Vector, Tensor, Tensor]:
        """Newton's step for slacks * mu = target: a predictor with target 0, then a corrector with the target that the
        predictor suggests."""
        q = mu / slacks
        newton = partial(self._newton, self._factor(q))
        one = torch.ones_like(gradient[:, 0])
        dslacks = self._slacks(*newton((-gradient, -PENALTY * one, -one)))
        dmu = -mu - q * dslacks
        ahead = _longest(slacks, dslacks, mu, dmu).clamp(max=1)[:, None]
        gap = (slacks * mu).mean(1)
        target = (((slacks + ahead * dslacks) * (mu + ahead * dmu)).mean(1) / gap) ** 3 * gap
        shift = (target[:, None] - dslacks * dmu) / slacks
        w, s, t = self._back(shift)
        step = newton((w - gradient, s - PENALTY, t - 1))
        dslacks = self._slacks(*step)
        return step, dslacks, shift - mu - q * dslacks

    def _factor(self, q: Tensor) -> _Factor:
        parts = self._parts(q)
        own = (1.0 if self.p == 2 else 0.0) + RIDGE + parts[1] + parts[2]
        diagonal, slack, border, corner = own, parts[3][:, 0], own, own[:, 0]
        if self._bordered:
            both = parts[4] + parts[5]
            diagonal, border = own + both, parts[5] - parts[4]
            # sum both - border^2 / diagonal, without cancellation
            corner = ((both * own + 4 * parts[4] * parts[5]) / diagonal).sum(1)
        scaled = self.planes / diagonal[:, None]
        matrix = (scaled[:, :, None] * self.planes[:, None]).sum(3) + torch.diag_embed(1 / parts[0])
        matrix = matrix + self.counts[:, :, None] * (self.counts / slack[:, None])[:, None]
        if self._bordered:
            along = (scaled * border[:, None]).sum(2)
            matrix = matrix + along[:, :, None] * (along / corner[:, None])[:, None]
        return _Factor(diagonal, slack, border, corner, torch.linalg.cholesky_ex(matrix)[0])

    def _newton(self, factor: _Factor, right: Vector) -> Vector:
        w, s, t = self._divide(factor, right)
        along = (self.planes * w[:, None]).sum(2) + s[:, None] * self.counts
        pull = torch.cholesky_solve(along[:, :, None], factor.planes)
        back = (self.planes * pull).sum(1), (self.counts * pull[:, :, 0]).sum(1), torch.zeros_like(s)
        dw, ds, dt = self._divide(factor, back)
        return w - dw, s - ds, t - dt

    def _divide(self, factor: _Factor, right: Vector) -> Vector:
        """The inverse of the matrix without the planes."""
        w, s, t = right
        if not self._bordered:
            return w / factor.diagonal, s / factor.slack, t
        t = (t - (factor.border * w / factor.diagonal).sum(1)) / factor.corner
        return (w - factor.border * t[:, None]) / factor.diagonal, s / factor.slack, t


def _longest(*pairs: Tensor) -> Float[Tensor, " r"]:
    """The longest step that keeps slacks and multipliers positive; pairs are value, change, value, change."""
    ratios = [
        torch.where(d < 0, -value / d, torch.inf).amin(1) for value, d in zip(pairs[::2], pairs[1::2], strict=True)
    ]
    return torch.minimum(*ratios)
