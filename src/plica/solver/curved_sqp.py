"""Curved SQP: min d(z)  s.t.  m(z) >= 0,  low <= z <= high, for a distance d of which only the gradient is known.

As in proximal SQP the distance is kept whole and only m is linearised; what a prox gave there, a few steps of L-BFGS on
the true distance give here. With D = d^2 / 2 (d itself where it is already quadratic), which is smooth at z = x,

    z+ ~ argmin_z D(z) + tau h |z - z_k|^2 / 2   s.t.   m_k + g_k.(z - z_k) = kappa_k,   low <= z <= high

and h the curvature of D along the shortest step onto the plane. Each row of a batch is a problem of its own; the caller
evaluates m (ask and tell) and lends the gradient of D, which is far cheaper than it is to leave the linearisation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from plica.solver.curvature import Curvature
from plica.solver.rows import choose, dot

TINY = 1e-30
Measure = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass
class Rows:
    """The state of r searches. z is the point to evaluate next; size, D and pull are d, D and the gradient of D there.

    plane: averaged gradient of m. tau: damping, in units of the curvature h. lam: multiplier, in units of d per margin.
    first: |m| at the start. merit, predicted: the exact penalty at the last point, and at z by the linear model.
    estimate: d where the linear model meets the boundary. residual: |z+ - z| / |z - x|, 0 where z solves its own
    subproblem. aim: weight of far in kappa. reached: 1 once a point had m > 0.
    """

    x: Float[Tensor, "r n"]
    z: Float[Tensor, "r n"]
    pull: Float[Tensor, "r n"]
    plane: Float[Tensor, "r n"]
    memory: Curvature
    quadratic: Bool[Tensor, " r"]
    size: Float[Tensor, " r"]
    tau: Float[Tensor, " r"]
    lam: Float[Tensor, " r"]
    first: Float[Tensor, " r"]
    merit: Float[Tensor, " r"]
    predicted: Float[Tensor, " r"]
    estimate: Float[Tensor, " r"]
    residual: Float[Tensor, " r"]
    aim: Float[Tensor, " r"]
    reached: Float[Tensor, " r"]
    steps: Float[Tensor, " r"]


@dataclass
class Point:
    """A point of the inner search: the gradient of D, d, what is minimised, and the multiplier that led there."""

    z: Float[Tensor, "r n"]
    pull: Float[Tensor, "r n"]
    size: Float[Tensor, " r"]
    value: Float[Tensor, " r"]
    lam: Float[Tensor, " r"]


@dataclass(frozen=True)
class CurvedSQP:
    """The steps of the method. Margins are relative to the row's first |m|.

    bounds: of z. pairs: of L-BFGS. inner: gradients of D per gradient of m.
    tau: first damping; divided by `down` where the exact penalty d + 1.5 lam max(-m, 0) fell by more than `good` of
    what was predicted, times `up` where by less than `bad`, within least..most.
    far, decay, floor: kappa_k = far |m_0| aim_k + floor |m_0|: the boundary is aimed at from beyond; aim_k falls by
    decay, but rises by raise_aim after raise_after steps that never passed the boundary. average: weight of the old
    plane in the new one.
    """

    bounds: tuple[float, float]
    pairs: int = 20
    inner: int = 10
    tau: float = 0.1
    good: float = 0.6
    bad: float = 0.2
    up: float = 2.0
    down: float = 2.0
    least: float = 1e-3
    most: float = 100.0
    far: float = 0.3
    decay: float = 0.85
    raise_aim: float = 2.0
    raise_after: int = 3
    floor: float = 1e-4
    average: float = 0.5
    trials: int = 3

    def start(self, x: Float[Tensor, "r n"], quadratic: Bool[Tensor, " r"], memory: Curvature | None = None) -> Rows:
        """Rows that start at x, where d and the gradient of D are 0; quadratic: d itself is D, else D = d^2 / 2."""
        zero = x.new_zeros(len(x))
        memory = Curvature.start(len(x), x, self.pairs) if memory is None else memory
        return Rows(x, x.clone(), torch.zeros_like(x), torch.zeros_like(x), memory, quadratic, zero,
                    tau=zero + self.tau, lam=zero, first=zero, merit=zero, predicted=zero, estimate=zero + torch.inf,
                    residual=zero + torch.nan, aim=zero + 1, reached=zero, steps=zero)  # fmt: skip

    def move(self, rows: Rows, z: Float[Tensor, "r n"], measure: Measure) -> None:
        """Let rows start at z inside the box instead. In place."""
        size, grad = measure(z)
        rows.z, rows.size, rows.pull = z, size, grad * torch.where(rows.quadratic, 1, size)[:, None]

    def step(self, rows: Rows, margin: Tensor, noise: Tensor, grad: Tensor, measure: Measure) -> None:
        """Move rows.z, given m and its gradient there; noise (r,) is the least margin that counts. In place."""
        opening = rows.steps == 0
        rows.first = torch.where(opening, margin.abs().clamp(min=TINY), rows.first)
        merit = rows.size + 1.5 * rows.lam * (-margin).clamp(min=0)
        ratio = (rows.merit - merit) / (rows.merit - rows.predicted).clamp(min=TINY)
        factor = torch.where(ratio > self.good, 1 / self.down, torch.where(ratio < self.bad, self.up, 1.0))
        rows.tau = torch.where(rows.steps < 2, rows.tau, (rows.tau * factor).clamp(self.least, self.most))
        rows.plane = torch.lerp(rows.plane, grad, torch.where(opening, 1.0, 1 - self.average).to(grad)[:, None])
        rows.estimate = torch.where(opening, torch.inf, (rows.size - rows.lam * margin).clamp(min=0.5 * rows.size))
        kappa = (self.far * rows.aim + self.floor) * rows.first + 2 * noise
        old, z = rows.size, rows.z
        lam = self._minimise(rows, kappa - margin, measure)
        rows.lam = torch.where(rows.quadratic, lam, lam / rows.size.clamp(min=TINY))
        rows.merit = old + 1.5 * rows.lam * (-margin).clamp(min=0)
        rows.predicted = rows.size
        rows.residual = _length(rows.z - z) / _length(z - rows.x).clamp(min=TINY)
        rows.reached = torch.maximum(rows.reached, (margin > noise).to(margin))
        falls = (rows.reached > 0) | (rows.steps < self.raise_after)
        rows.aim = rows.aim * torch.where(falls, self.decay, self.raise_aim)
        rows.steps = rows.steps + 1

    def _minimise(self, rows: Rows, rise: Tensor, measure: Measure) -> Tensor:
        """L-BFGS on D(z) + t |z - z_k|^2 / 2 on the plane; writes the best point, its size and pull. Returns lam."""
        z, plane, memory = rows.z, rows.plane, rows.memory
        t = rows.tau * torch.where(memory.count == 0, 0.0, memory.along(plane))
        lam = rows.lam * torch.where(rows.quadratic, 1, rows.size)  # in units of D
        best = Point(z, rows.pull, rows.size, torch.full_like(lam, torch.inf), lam)
        s = y = torch.zeros_like(z)
        for _ in range(self.inner):
            away = best.z - z
            q = best.pull + t[:, None] * away
            free = self._free(best.z, best.lam[:, None] * plane - q)
            Hq, Hg = memory.solve(memory.learn(s, y, q * free, plane * free), t).unbind(1)
            new, lam = onto(best.z, -Hq * free, Hg * free, plane, rise - dot(plane, away), self.bounds, self.trials)
            new = torch.where(new.isnan(), best.z, new)  # a row whose model is not finite stays where it is
            size, pull = measure(new)
            pull = pull * torch.where(rows.quadratic, 1, size)[:, None]
            s, y = new - best.z, pull - best.pull
            value = torch.where(rows.quadratic, size, size.square() / 2) + t / 2 * dot(new - z, new - z)
            best = choose(value < best.value, Point(new, pull, size, value, lam), best)
        memory.learn(s, y)
        rows.z, rows.size, rows.pull = best.z, best.size, best.pull
        return best.lam.clamp(min=0)

    def _free(self, z: Tensor, force: Tensor) -> Tensor:
        """1 for pixels that may move, 0 for those at a wall that are pushed against it: a step through H^-1, which is
        not diagonal, would go astray with them."""
        low, high = self.bounds
        return 1 - ((z <= low) & (force < 0) | (z >= high) & (force > 0)).to(z)


def _length(v: Float[Tensor, "r n"]) -> Float[Tensor, " r"]:
    return dot(v, v).sqrt()


def onto(
    z: Tensor, u: Tensor, v: Tensor, plane: Tensor, rise: Tensor, bounds: tuple[float, float], trials: int
) -> tuple[Tensor, Tensor]:
    """clip(z + u + lam v) with plane . (that - z) = rise: lam (r,) by secants inside a bracket."""
    start, slope = z + u, dot(plane, v).clamp(min=TINY)
    lam = (rise - dot(plane, u)) / slope
    low, high = torch.full_like(lam, -torch.inf), torch.full_like(lam, torch.inf)
    lam_old = f_old = lam
    for trial in range(trials):
        f = dot(plane, torch.addcmul(start, v, lam[:, None]).clamp_(*bounds) - z) - rise
        if trial:
            secant = (f - f_old) / (lam - lam_old)
            slope = torch.where((secant > 0.01 * slope) & (secant < 100 * slope), secant, slope)
        low, high = torch.where(f < 0, lam, low), torch.where(f < 0, high, lam)
        lam_old, f_old = lam, f
        newton = lam - f / slope
        inside = ((newton > low) & (newton < high)) | low.isinf() | high.isinf()
        lam = torch.where(inside, newton, 0.5 * (low + high))
    return torch.addcmul(start, v, lam[:, None]).clamp_(*bounds), lam
