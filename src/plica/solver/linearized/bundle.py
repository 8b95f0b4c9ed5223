"""Bundle SQP: min ||u||_p  s.t.  m(u) >= 0,  low <= u <= high, with the last distinct planes of m as constraints.

    z = argmin ||z||  s.t.  m_j + g_j.(z - u_j) >= kappa for valid planes j,  low <= z <= high,  |z - u| <= reach

At a concave kink m is the minimum of its pieces, and the nearest point may lie where several of them equal kappa: each
must stay a separate constraint. At a convex kink m is the maximum of its pieces; a plane below m at the current point
belongs to another side of such a kink and is not a valid constraint. If m is piecewise linear, each plane is exact, so
the steps end at a point that solves its own subproblem. Each row of a batch is a separate problem (ask and tell).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from plica.solver.linearized.planes import nearest
from plica.solver.rows import take

TINY = 1e-30
PAD = 16  # the number of rows is a multiple of this, since kernels may round the last numbers of a tensor differently


@dataclass
class BundleState:
    """The state of r searches, in float64.

    Attributes:
        low, high: the box.
        u: the point to evaluate next.
        size: its norm.
        planes, offsets: linear models of m, planes . u + offsets, each exact at the point where it was taken.
        age: step at which each plane was last taken; 0 for an empty slot.
        inside, outside: the last points with m <= 0 (at first the image) and with m > 0.
        inside_margin, outside_margin: m there; nan for none.
        reach: half the width of the trust region.
        short: steps before m was first positive.
        estimate: norm of the point to evaluate next; inf if that is only a point between inside and outside.
        residual: largest change of an entry in the last step, over the largest entry of u.
        failed: whether the margin or its gradient is of no use.
        climbs: whether, until m is first positive, each step is to the nearest point to u, not to 0, where the linear
            model of m is positive.
    """

    low: Float[Tensor, "r n"]
    high: Float[Tensor, "r n"]
    u: Float[Tensor, "r n"]
    size: Float[Tensor, " r"]
    planes: Float[Tensor, "r k n"]
    offsets: Float[Tensor, "r k"]
    age: Float[Tensor, "r k"]
    inside: Float[Tensor, "r n"]
    inside_margin: Float[Tensor, " r"]
    outside: Float[Tensor, "r n"]
    outside_margin: Float[Tensor, " r"]
    reach: Float[Tensor, " r"]
    short: Float[Tensor, " r"]
    steps: Float[Tensor, " r"]
    estimate: Float[Tensor, " r"]
    residual: Float[Tensor, " r"]
    failed: Bool[Tensor, " r"]
    climbs: Bool[Tensor, " r"]


@dataclass(frozen=True)
class BundleSQP:
    """The steps of the method.

    Attributes:
        p: of the norm: 1, 2 or inf.
        kept: most planes; the one that was taken longest ago is replaced.
        floor: kappa is twice the smallest margin that counts, plus this share of |m|.
        aim: after `patience` steps that never passed the boundary, this share of |m| is added to kappa with each
            further step, at most `most` times.
        patience, most: see `aim`.
        back: a step may fall short of the boundary by this share of the last positive margin. If it falls short by
            more, the next point lies between the two, where the secant is 0.
        climb: while a row climbs, it aims beyond the boundary by this share of |m|.
    """

    p: float
    kept: int = 8
    floor: float = 1e-6
    aim: float = 0.15
    patience: int = 2
    most: int = 4
    back: float = 0.1
    climb: float = 1.0

    def start(self, low: Float[Tensor, "r n"], high: Float[Tensor, "r n"]) -> BundleState:
        """Rows that start at u = 0."""
        r, n = low.shape
        zero = low.new_zeros(r)
        return BundleState(
            low=low, high=high, u=torch.zeros_like(low), size=zero.clone(), planes=low.new_zeros(r, self.kept, n),
            offsets=low.new_zeros(r, self.kept), age=low.new_zeros(r, self.kept), inside=torch.zeros_like(low),
            inside_margin=zero + torch.nan, outside=torch.zeros_like(low), outside_margin=zero + torch.nan,
            reach=zero + torch.inf, short=zero.clone(), steps=zero.clone(), estimate=zero.clone(),
            residual=zero + torch.inf, failed=zero > 0, climbs=zero > 0,
        )  # fmt: skip

    def restart(
        self, rows: BundleState, which: Bool[Tensor, " r"], u: Float[Tensor, "r n"], reach: Float[Tensor, " r"],
        climbs: Bool[Tensor, " r"],
    ) -> None:  # fmt: skip
        """Restart these rows, in place, at u moved into the box. reach: their trust regions. climbs: which of them
        climb.
        """
        u = torch.minimum(torch.maximum(u, rows.low), rows.high)
        rows.u[which], rows.reach[which], rows.climbs[which] = u[which], reach[which], climbs[which]
        for values, fresh in (
            (rows.inside, 0), (rows.age, 0), (rows.planes, 0), (rows.offsets, 0), (rows.steps, 0), (rows.short, 0),
            (rows.inside_margin, torch.nan), (rows.outside_margin, torch.nan), (rows.estimate, 0), (rows.failed, False),
        ):  # fmt: skip
            values[which] = fresh
        rows.size[which] = self._norm(rows.u)[which]

    def move(self, rows: BundleState, u: Float[Tensor, "r n"]) -> None:
        """Set the point to evaluate next to u. In place."""
        rows.u, rows.size = u, self._norm(u)

    def step(
        self,
        rows: BundleState,
        margin: Float[Tensor, " r"],
        noise: Float[Tensor, " r"],
        grad: Float[Tensor, "r n"],
        best: Float[Tensor, " r"],
    ) -> None:
        """Move rows.u to the next point, in place.

        Args:
            rows: the searches.
            margin: m at rows.u.
            noise: the smallest margin that counts.
            grad: the gradient of m at rows.u.
            best: the smallest norm known of a point with m > 0; inf for none.
        """
        rows.failed = ~(margin.isfinite() & grad.isfinite().all(1))
        margin, grad = margin.nan_to_num(0, 0, 0), torch.where(rows.failed[:, None], 0, grad)
        flat, past = (grad == 0).all(1), margin > noise
        rows.steps += 1
        rows.short = torch.where(past | rows.outside_margin.isfinite(), rows.short, rows.short + 1)
        fell_back = ~past & (margin < -self.back * rows.outside_margin)
        self._note(rows, margin, past)
        self._learn(rows, margin, noise, grad)
        never = rows.outside_margin.isnan()
        rows.climbs &= never
        beyond = self.aim * (rows.short - self.patience).clamp(0, self.most) * never
        kappa = 2 * noise + (self.floor + beyond) * margin.abs()
        z = self._nearest(rows, margin, noise, kappa, best)
        z = torch.where(rows.climbs[:, None], self._higher(rows, margin, grad), z)
        share = (rows.outside_margin / (rows.outside_margin - rows.inside_margin.nan_to_num(0))).clamp(0.1, 0.9)
        share = torch.where(flat | share.isnan(), 0.5, share)[:, None]
        between = torch.lerp(rows.outside, rows.inside, share)
        bisect = (fell_back & ~flat) | (flat & ~never)
        rows.failed |= flat & never
        z = torch.where(bisect[:, None], between, torch.where(rows.failed[:, None], rows.u, z))
        change = (z - rows.u).abs().amax(1)
        rows.residual = change / rows.u.abs().amax(1).clamp(min=TINY)
        rows.u, rows.size = z, self._norm(z)
        rows.estimate = torch.where(bisect, torch.inf, rows.size)

    @staticmethod
    def _note(rows: BundleState, margin: Tensor, past: Tensor) -> None:
        """Store u as the last point inside or outside."""
        rows.outside = torch.where(past[:, None], rows.u, rows.outside)
        rows.outside_margin = torch.where(past, margin, rows.outside_margin)
        rows.inside = torch.where(past[:, None], rows.inside, rows.u)
        rows.inside_margin = torch.where(past, rows.inside_margin, margin)

    def _learn(self, rows: BundleState, margin: Tensor, noise: Tensor, grad: Tensor) -> None:
        """Store the plane at u, in the slot of the same plane, else of an empty one, else of the oldest one."""
        offset = margin - (grad * rows.u).sum(1)
        near = (rows.planes - grad[:, None]).abs().amax(2) <= 1e-5 * grad.abs().amax(1, keepdim=True)
        level = 1e-5 * offset.abs() + 1e-4 * margin.abs() + noise
        same = near & ((rows.offsets - offset[:, None]).abs() <= level[:, None]) & (rows.age > 0)
        slot = torch.where(same.any(1), same.to(margin).argmax(1), rows.age.argmin(1))
        row = torch.arange(len(margin), device=margin.device)
        rows.planes[row, slot], rows.offsets[row, slot], rows.age[row, slot] = grad, offset, rows.steps

    def _nearest(self, rows: BundleState, margin: Tensor, noise: Tensor, kappa: Tensor, best: Tensor) -> Tensor:
        """The nearest point beyond the planes that are valid at u. Solved in units of the expected distance, with the
        rows padded."""
        value = (rows.planes * rows.u[:, None]).sum(2) + rows.offsets
        holds = (rows.age > 0) & (value >= (margin - 1e-4 * margin.abs() - 2 * noise)[:, None])
        length = torch.linalg.vector_norm(rows.planes, dim=2).clamp(min=TINY)
        dual = self._dual(rows.planes).amax(1)
        unit = torch.where(best.isfinite(), best, torch.maximum(rows.size, margin.abs() / dual.clamp(min=TINY)))
        unit = unit.clamp(min=1e-9)[:, None]
        planes = rows.planes * (holds / length)[:, :, None]
        rise = (kappa[:, None] - rows.offsets) / length / unit
        u, reach = rows.u / unit, rows.reach[:, None] / unit
        low = torch.maximum(rows.low / unit, u - reach)
        high = torch.minimum(rows.high / unit, u + reach)
        row = torch.arange(len(margin) + -len(margin) % PAD, device=margin.device) % len(margin)
        z = nearest(self.p, *(take(_Inputs(planes, rise, low, high, u), row)).all)[0][: len(margin)] * unit
        return torch.minimum(torch.maximum(z, rows.low), rows.high)

    def _higher(self, rows: BundleState, margin: Tensor, grad: Tensor) -> Tensor:
        """The point along the gradient at which the linear model is `climb` |m|; entries at a bound do not move."""
        wall = torch.where(grad > 0, rows.u >= rows.high, rows.u <= rows.low)
        grad = torch.where(wall, 0, grad)
        length = (1 + self.climb) * margin.abs() / (grad * grad).sum(1).clamp(min=TINY)
        return torch.minimum(torch.maximum(rows.u + length[:, None] * grad, rows.low), rows.high)

    def _norm(self, u: Float[Tensor, "r n"]) -> Float[Tensor, " r"]:
        return torch.linalg.vector_norm(u, self.p, dim=1)

    def _dual(self, planes: Float[Tensor, "r k n"]) -> Float[Tensor, "r k"]:
        q = 2.0 if self.p == 2 else 1.0 if self.p == math.inf else math.inf
        return torch.linalg.vector_norm(planes, q, dim=2)


@dataclass(frozen=True)
class _Inputs:
    """The inputs of the subproblem, in one record so that rows can be taken from all of them."""

    planes: Float[Tensor, "r k n"]
    rise: Float[Tensor, "r k"]
    low: Float[Tensor, "r n"]
    high: Float[Tensor, "r n"]
    u: Float[Tensor, "r n"]

    @property
    def all(self) -> tuple[Tensor, ...]:
        return self.planes, self.rise, self.low, self.high, self.u
