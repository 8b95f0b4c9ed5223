"""Two ways in which curved SQP lowers a distance on the plane, each with a few gradients of the distance.

    z+ ~ argmin_z d(z)   s.t.   g.(z - z_k) = rise,   low <= z <= high

`Averaged` takes short steps whose direction is averaged over many gradients, and suits distances with kinks, such as
those between features of ReLU networks. `QuasiNewton` learns the Hessian by L-BFGS and suits smooth distances whose
curvature differs much between directions, such as LPIPS of enlarged images. `curved.py` tries both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from plica.solver.lbfgs import DampedLBFGS
from plica.solver.linearized.proximal_sqp import pad_rows
from plica.solver.linearized.state import Averages, CurvedState, Damped
from plica.solver.rows import choose, dot

TINY = 1e-30
Measure = Callable[[Tensor], tuple[Tensor, Tensor]]  # d (r,) and its gradient (r, n)


@dataclass(frozen=True)
class Averaged:
    """Steps along the mean gradient divided by a power of the root mean square, as in RMSprop, projected onto plane and
    box in the metric of that divisor. Step lengths follow a fixed schedule; there is no line search, which a kink could
    stop.

    Attributes:
        bounds: of z.
        steps: gradients of d per gradient of m.
        length: of a step, in lengths of z - x; divided by 1 + k / half after k gradients of m.
        half: see `length`.
        momentum, memory: weights of the old mean and of the old mean square.
        power: of the root mean square, to which `floor` times its mean over pixels is added.
        floor: see `power`.
        trials: of each projection.
    """

    bounds: tuple[float, float]
    steps: int = 16
    length: float = 0.075
    half: float = 5
    momentum: float = 0.9
    memory: float = 0.99
    power: float = 0.9
    floor: float = 1e-3
    trials: int = 3

    def start(self, x: Float[Tensor, "r n"], known: Averages | None = None) -> Averages:
        """Averages without any gradient; or with the mean squares of other rows of the same images."""
        zero = torch.zeros_like(x)
        return Averages(zero, zero.clone() if known is None else known.square, zero[:, 0].clone())

    def minimise(self, rows: CurvedState, margin: Tensor, rise: Float[Tensor, " r"], measure: Measure) -> Tensor:
        """Lower d on the plane: sets z, size, pull and residual of the rows, and returns the multiplier lam."""
        start, plane, averages = rows.z, rows.plane, rows.memory
        assert isinstance(averages, Averages)
        for _ in range(self.steps):
            scale = self._scale(averages)
            down = scale * averages.mean
            span = self.length * _length(rows.z - rows.x) / (1 + rows.steps / self.half)
            down *= (span / _length(down).clamp(min=TINY))[:, None]
            left = rise - dot(plane, rows.z - start)
            z, _ = onto(rows.z, -down, scale * plane, plane, left, self.bounds, self.trials)
            rows.z = torch.where(z.isnan(), rows.z, z)  # a row whose model is not finite stays where it is
            rows.size, rows.pull = measure(rows.z)
            self._learn(averages, rows.pull.nan_to_num())
        return self._multiplier(rows, averages)

    def _learn(self, averages: Averages, grad: Float[Tensor, "r n"]) -> None:
        averages.mean.lerp_(grad, 1 - self.momentum)
        averages.square.mul_(self.memory).addcmul_(grad, grad, value=1 - self.memory)
        averages.count += 1

    def _scale(self, averages: Averages) -> Float[Tensor, "r n"]:
        """The preconditioner; 1 before the first gradient."""
        root = pad_rows(averages.square.sqrt())
        typical = root.mean(1, keepdim=True)
        return ((root + self.floor * typical + (typical == 0)) ** -self.power)[: len(averages.square)]

    def _multiplier(self, rows: CurvedState, averages: Averages) -> Float[Tensor, " r"]:
        """lam for which the mean gradient is nearest to lam g over free pixels; their difference gives the residual."""
        plane, scale = rows.plane, self._scale(averages)
        mean = averages.mean / (1 - self.momentum**averages.count)[:, None]
        open_, lam = torch.ones_like(mean), torch.zeros_like(averages.count)
        for _ in range(3):  # lam depends on which pixels are free, and these depend on lam
            along = scale * plane * open_
            lam = (dot(along, mean) / dot(along, plane).clamp(min=TINY)).clamp(min=0)
            open_ = free(rows.z, lam[:, None] * plane - mean, self.bounds)
        rest = lam[:, None] * plane - mean
        open_ *= scale
        rows.residual = (dot(open_ * rest, rest) / dot(open_ * mean, mean).clamp(min=TINY)).sqrt()
        return lam


@dataclass(frozen=True)
class Point:
    """A point z of the search.

    Attributes:
        pull: the gradient of D.
        size: d.
        value: of the function that is minimised.
        lam: the multiplier that led to z.
    """

    z: Float[Tensor, "r n"]
    pull: Float[Tensor, "r n"]
    size: Float[Tensor, " r"]
    value: Float[Tensor, " r"]
    lam: Float[Tensor, " r"]


@dataclass(frozen=True)
class QuasiNewton:
    """L-BFGS on D(z) + tau h |z - z_k|^2 / 2, D = d^2 / 2 or d itself where it is quadratic, which is smooth at z = x;
    h is the curvature of D along the shortest step onto the plane.

    Attributes:
        bounds: of z.
        pairs: of L-BFGS.
        steps: gradients of D per gradient of m.
        tau: first damping, then between `least` and `most`.
        good, down: tau is divided by `down` if the exact penalty d + 1.5 lam max(-m, 0) decreased by more than this
            share of the predicted decrease.
        bad, up: tau is multiplied by `up` if it decreased by less than this share.
        trials: of each projection.
    """

    bounds: tuple[float, float]
    pairs: int = 30
    steps: int = 16
    tau: float = 0.1
    good: float = 0.6
    bad: float = 0.2
    up: float = 2.0
    down: float = 2.0
    least: float = 1e-3
    most: float = 100.0
    trials: int = 3

    def start(self, x: Float[Tensor, "r n"], known: Damped | None = None) -> Damped:
        """A memory without pairs; or with those of other rows of the same images."""
        zero = x.new_zeros(len(x))
        curvature = DampedLBFGS.start(len(x), x, self.pairs) if known is None else known.curvature
        return Damped(curvature, tau=zero + self.tau, merit=zero.clone(), predicted=zero.clone())

    def minimise(self, rows: CurvedState, margin: Tensor, rise: Float[Tensor, " r"], measure: Measure) -> Tensor:
        """Lower d on the plane: sets z, size, pull and residual of the rows, and returns the multiplier lam."""
        z, plane, memory = rows.z, rows.plane, rows.memory
        assert isinstance(memory, Damped)
        curvature = memory.curvature
        memory.tau = self._damping(memory, rows, margin)
        t = memory.tau * torch.where(curvature.pairs.count == 0, 0.0, curvature.along(plane))
        lam = rows.lam * _slope(rows.quadratic, rows.size)  # in units of D
        pull = rows.pull * _slope(rows.quadratic, rows.size)[:, None]
        best = Point(z, pull, rows.size, torch.full_like(lam, torch.inf), lam)
        s = y = torch.zeros_like(z)
        for _ in range(self.steps):
            away = best.z - z
            q = best.pull + t[:, None] * away
            open_ = free(best.z, best.lam[:, None] * plane - q, self.bounds)
            Hq, Hg = curvature.solve(curvature.update(s, y, q * open_, plane * open_), t).unbind(1)
            new, lam = onto(best.z, -Hq * open_, Hg * open_, plane, rise - dot(plane, away), self.bounds, self.trials)
            new = torch.where(new.isnan(), best.z, new)  # a row whose model is not finite stays where it is
            size, grad = measure(new)
            pull = grad * _slope(rows.quadratic, size)[:, None]
            s, y = new - best.z, pull - best.pull
            value = torch.where(rows.quadratic, size, size.square() / 2) + t / 2 * dot(new - z, new - z)
            best = choose(value < best.value, Point(new, pull, size, value, lam), best)
        curvature.update(s, y)
        slope = _slope(rows.quadratic, best.size).clamp(min=TINY)
        lam = best.lam.clamp(min=0) / slope
        memory.merit = rows.size + 1.5 * lam * (-margin).clamp(min=0)
        memory.predicted = best.size.clone()
        rows.residual = _length(best.z - z) / _length(z - rows.x).clamp(min=TINY)
        rows.z, rows.size, rows.pull = best.z, best.size, best.pull / slope[:, None]
        return lam

    def _damping(self, memory: Damped, rows: CurvedState, margin: Tensor) -> Float[Tensor, " r"]:
        merit = rows.size + 1.5 * rows.lam * (-margin).clamp(min=0)
        ratio = (memory.merit - merit) / (memory.merit - memory.predicted).clamp(min=TINY)
        factor = torch.where(ratio > self.good, 1 / self.down, torch.where(ratio < self.bad, self.up, 1.0)).float()
        return torch.where(rows.steps < 2, memory.tau, (memory.tau * factor).clamp(self.least, self.most))


def free(z: Float[Tensor, "r n"], force: Float[Tensor, "r n"], bounds: tuple[float, float]) -> Float[Tensor, "r n"]:
    """1 for pixels that may move, 0 for those at a bound that are pushed against it. With the latter a step that is
    multiplied by H^-1, which is not diagonal, would have a wrong direction."""
    low, high = bounds
    return 1 - ((z <= low) & (force < 0) | (z >= high) & (force > 0)).to(z)


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


def _slope(quadratic: Bool[Tensor, " r"], size: Float[Tensor, " r"]) -> Float[Tensor, " r"]:
    """dD / dd."""
    return torch.where(quadratic, 1, size)


def _length(v: Float[Tensor, "r n"]) -> Float[Tensor, " r"]:
    return dot(v, v).sqrt()
