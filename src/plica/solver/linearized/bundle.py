"""Bundle SQP: min ||u||_p  s.t.  m(u) >= 0,  low <= u <= high, with the last distinct planes of m kept apart.

    z = argmin ||z||  s.t.  m_j + g_j.(z - u_j) >= kappa for planes j that hold,  low <= z <= high,  |z - u| <= reach

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
PAD = 16  # rows are a multiple of this: kernels treat the last numbers of a tensor otherwise than the rest


@dataclass
class BundleState:
    """The state of r searches, in float64. u is the point to evaluate next; `size` is its norm.

    planes, offsets: m = planes . u + offsets where each was taken. age: step at which it was seen last, 0 for none.
    inside, outside: the last points with m <= 0 (the image at first) and with m > 0; inside_margin, outside_margin
    theirs, nan for none. reach: half the width of the trust region. short: steps before m was first positive.
    estimate: norm of the point to evaluate next, inf where it is but a point between inside and outside.
    residual: largest change of the last step, over the largest entry of u. failed: the margin or gradient is of no use.
    climbs: until m is first positive, each step is to where m should be positive nearest to u, not to 0.
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

    p: 1, 2 or inf. kept: planes, of which the one seen longest ago leaves. floor: kappa is this share of |m| beyond
    what counts; after `patience` steps that never passed the boundary the aim goes up by `aim` of |m| with each
    further one, at most `most` times. back: share of the last positive margin by which a step may fall short of the
    boundary again; after more the search goes on between the two points, at the secant's. climb: share of |m| beyond
    the boundary at which the steps of rows that climb aim.
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
        """Let these rows start anew at u, within the box, with a trust region, and some of them climb. In place."""
        u = torch.minimum(torch.maximum(u, rows.low), rows.high)
        rows.u[which], rows.reach[which], rows.climbs[which] = u[which], reach[which], climbs[which]
        for values, fresh in (
            (rows.inside, 0), (rows.age, 0), (rows.planes, 0), (rows.offsets, 0), (rows.steps, 0), (rows.short, 0),
            (rows.inside_margin, torch.nan), (rows.outside_margin, torch.nan), (rows.estimate, 0), (rows.failed, False),
        ):  # fmt: skip
            values[which] = fresh
        rows.size[which] = self._norm(rows.u)[which]

    def move(self, rows: BundleState, u: Float[Tensor, "r n"]) -> None:
        """Let rows be at u instead. In place."""
        rows.u, rows.size = u, self._norm(u)

    def step(
        self,
        rows: BundleState,
        margin: Float[Tensor, " r"],
        noise: Float[Tensor, " r"],
        grad: Float[Tensor, "r n"],
        best: Float[Tensor, " r"],
    ) -> None:
        """Move rows.u, given m and its gradient there; noise (r,) is the least margin that counts, best the least norm
        known, inf for none. In place."""
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
        """The points on either side of the boundary. A point beyond the last one inside, seen from outside, is new."""
        rows.outside = torch.where(past[:, None], rows.u, rows.outside)
        rows.outside_margin = torch.where(past, margin, rows.outside_margin)
        rows.inside = torch.where(past[:, None], rows.inside, rows.u)
        rows.inside_margin = torch.where(past, rows.inside_margin, margin)

    def _learn(self, rows: BundleState, margin: Tensor, noise: Tensor, grad: Tensor) -> None:
        """Take in the plane at u: in place of the same one, of an empty one, or of the one seen longest ago."""
        offset = margin - (grad * rows.u).sum(1)
        near = (rows.planes - grad[:, None]).abs().amax(2) <= 1e-5 * grad.abs().amax(1, keepdim=True)
        level = 1e-5 * offset.abs() + 1e-4 * margin.abs() + noise
        same = near & ((rows.offsets - offset[:, None]).abs() <= level[:, None]) & (rows.age > 0)
        slot = torch.where(same.any(1), same.to(margin).argmax(1), rows.age.argmin(1))
        row = torch.arange(len(margin), device=margin.device)
        rows.planes[row, slot], rows.offsets[row, slot], rows.age[row, slot] = grad, offset, rows.steps

    def _nearest(self, rows: BundleState, margin: Tensor, noise: Tensor, kappa: Tensor, best: Tensor) -> Tensor:
        """The nearest point past the planes that hold at u, in units of the distance expected; rows are padded."""
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
        """The point along the gradient where its plane is `climb` |m|; features at the wall ahead stay."""
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
    """Of the subproblem, to be taken row by row."""

    planes: Float[Tensor, "r k n"]
    rise: Float[Tensor, "r k"]
    low: Float[Tensor, "r n"]
    high: Float[Tensor, "r n"]
    u: Float[Tensor, "r n"]

    @property
    def all(self) -> tuple[Tensor, ...]:
        return self.planes, self.rise, self.low, self.high, self.u
