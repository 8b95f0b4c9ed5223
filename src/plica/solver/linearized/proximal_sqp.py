"""Proximal SQP: min ||u||  s.t.  m(u) >= 0,  low <= u <= high, with only m linearised, and the norm and the box exact.

From u_k with margin m_k and plane g_k, z solves   min_z ||z|| + |z - u_k|^2 / (2 eta)   s.t.  m_k + g_k.(z - u_k) >=
kappa_k and the box; by duality z(lam) = clip(prox_{eta ||.||}(u_k + eta lam g_k)) with one multiplier lam >= 0 per row,
found by a bracketed secant without a model call. Each row of a batch is a separate problem; the caller evaluates m
(ask and tell).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from plica.solver.accelerator import Scratch, block_rows
from plica.solver.linearized.prox import Prox, clip
from plica.solver.linearized.state import ProximalState
from plica.solver.linearized.subproblem import TINY, solve
from plica.solver.rows import part_of, put, take

PAD = 16  # rows of a block are padded to a multiple of this, or of twice as many: see `multiple`
FEW = 4  # fewer rows than this are always padded, since a single row is summed in another order


def multiple(n: int) -> int:
    """The multiple of rows of n entries with which a block has a multiple of 32 entries: kernels such as pow round
    those after the last 32 differently."""
    return PAD if n % 2 == 0 else 2 * PAD


@dataclass(frozen=True)
class ProximalSQP:
    """The steps of the method; every step is accepted.

        kappa_k = aim_k (near min(|m_k|, |m_0|) + far |m_0|) + floor |m_0|

    so that the first steps aim beyond the boundary.

    Attributes:
        prox: of the norm.
        eta: first trust region, over prox.natural(n) times the length of the first linear step.
        good, grow: eta is multiplied by `grow` if the exact penalty ||u|| + 1.5 lam max(-m, 0) decreased by more than
            this share of the predicted decrease.
        bad, shrink: eta is multiplied by `shrink` if it decreased by less than this share.
        decay: eta is also multiplied by `decay` at each step after the first decay_after.
        decay_after: see `decay`.
        least: smallest eta, over prox.natural(n) times ||u||.
        decay_aim: factor of aim_k from step to step; aim_0 = 1.
        raise_aim: replaces decay_aim after raise_after steps of which none passed the boundary.
        raise_after: see `raise_aim`.
        near, far, floor: of kappa.
        average: weight of the old plane in the new one at first; it then grows as 1 - patience / (k + 1) up to
            average_most < 1. So planes on both sides of a kink of m are averaged into one that holds at the kink.
        average_most, patience: see `average`.
        inertia: of heavy-ball steps of u; 0 for none.
        trials, trials_first: iterations for the multiplier in each step, and in the first one.
    """

    prox: Prox
    eta: float = 1.0
    good: float = 0.6
    bad: float = 0.2
    grow: float = 1.15
    shrink: float = 0.75
    decay: float = 0.93
    decay_after: int = 4
    least: float = 3e-3
    decay_aim: float = 0.65
    raise_aim: float = 3.0
    raise_after: int = 2
    near: float = 0.1
    far: float = 0.1
    floor: float = 3e-4
    average: float = 0.5
    average_most: float = 0.8
    patience: float = 3.0
    inertia: float = 0.0
    trials: int = 4
    trials_first: int = 8

    def start(self, low: Tensor, high: Tensor, u: Tensor, eta: Float[Tensor, " r"] | None = None) -> ProximalState:
        """Rows that start at u inside the box. eta: first trust regions (r,), nan or None for the default."""
        zero = u.new_zeros(len(u))
        return ProximalState(
            low=low, high=high, u=u, plane=torch.zeros_like(u),
            velocity=u.new_zeros(u.shape if self.inertia else (len(u), 0)), size=self.norm(u),
            eta=zero + torch.nan if eta is None else eta.clone(), lam=zero.clone(), slope=zero.clone(),
            level=zero.clone(), first=zero.clone(), reach=zero + torch.inf, lost=zero > 0,
            merit=zero.clone(), predicted=zero.clone(), recent=u.new_full((len(u), 3), torch.inf),
            estimate=zero + torch.inf, residual=zero.clone(), aim=zero + 1, reached=zero > 0,
            steps=torch.zeros_like(zero, dtype=torch.long), stepped=False, limited=False, scratch=Scratch(),
        )  # fmt: skip

    def move(self, rows: ProximalState, which: Bool[Tensor, " r"], u: Float[Tensor, "r n"]) -> None:
        """Move these rows, in place, to u inside the box, where their plane is that of the next gradient alone."""
        rows.u = torch.where(which[:, None], u, rows.u)
        rows.size = torch.where(which, self.norm(rows.u), rows.size)
        rows.steps = torch.where(which, 0, rows.steps)

    def norm(self, u: Float[Tensor, "r n"]) -> Float[Tensor, " r"]:
        """||u||, whatever the number of rows."""
        filled = pad_rows(u)
        block = block_rows(u.device, *filled.shape)
        return torch.cat([self.prox.norm(part, torch.empty_like(part)) for part in filled.split(block)])[: len(u)]

    def step(
        self, rows: ProximalState, margin: Float[Tensor, " r"], noise: Float[Tensor, " r"], grad: Float[Tensor, "r n"]
    ) -> None:
        """Move rows.u to the next point to evaluate, in place.

        First the trust region eta is adjusted, by comparing the exact penalty at u with the last prediction. Then the
        gradient is averaged into the plane, and the subproblem is solved with the aim kappa, for a block of rows at a
        time (`_move`).

        Args:
            rows: rows that have all been stepped before, or none of them.
            margin: m at rows.u.
            noise: the smallest margin that counts.
            grad: the gradient of m at rows.u.
        """
        first_step = not rows.stepped
        schedule = _schedule(self, rows.u.dtype, rows.u.device)
        weight, *factors, change_of_aim = schedule.index_select(1, rows.steps)
        missed = margin.clamp(max=0)  # below 0 if the boundary is not reached
        if first_step:
            self._open(rows, margin, grad)
        else:
            self._resize(rows, torch.addcmul(rows.size, rows.lam, missed, value=-1.5), factors)
        aim = self.far * rows.first
        if self.near:
            aim.add_(torch.minimum(margin.abs(), rows.first), alpha=self.near)
        kappa = torch.add(self.floor * rows.first, noise, alpha=2).addcmul_(rows.aim, aim)
        rise = kappa - margin
        trials = self.trials_first if first_step else self.trials
        sizes = []  # ||z|| and the new ||u||
        size_of_block = block_rows(rise.device, *rows.u.shape)
        for start in range(0, len(rise), size_of_block):
            part = slice(start, start + size_of_block)
            block = part_of(rows, part)
            length, n = block.u.shape
            if length % multiple(n) and (length < FEW or n % PAD or self.prox.remembers_norm):
                own = torch.arange(length, device=rise.device)
                # the block is filled with copies of its first row, so that all rows are rounded as in any other block
                filled = torch.cat([own, own.new_zeros(-length % multiple(n))])
                copy = take(block, filled)
                inputs = grad[part][filled], weight[part][filled], rise[part][filled]
                sizes.append(tuple(size[:length] for size in self._move(copy, *inputs, trials)))
                put(block, own, take(copy, own))
            else:
                sizes.append(self._move(block, grad[part], weight[part], rise[part], trials))
        rows.merit = torch.addcmul(
            rows.size, rows.lam, missed, value=-1.5
        )  # the penalty at the old u, with the new multiplier
        self._estimate(rows, margin, first_step)
        # at z the linear model has no shortfall, and the penalty is ||z||
        rows.predicted, rows.size = sizes[0] if len(sizes) == 1 else map(torch.cat, zip(*sizes, strict=True))
        rows.reached |= margin > noise
        rows.aim *= change_of_aim.masked_fill_(rows.reached, self.decay_aim)
        rows.steps = (rows.steps + 1).clamp_(max=schedule.shape[1] - 1)
        rows.stepped = True

    def _open(self, rows: ProximalState, margin: Tensor, grad: Tensor) -> None:
        """Initialise the scales from the first linear model: the length of the shortest step to its boundary, and the
        multiplier there."""
        n = grad.shape[1]
        rows.first = margin.abs().clamp(min=TINY)
        dual, square = self.prox.dual(pad_rows(grad))[: len(grad)].clamp(min=TINY), grad.square().sum(1).clamp(min=TINY)
        length = rows.first / dual
        rows.eta = torch.where(rows.eta.isnan(), self.eta * self.prox.natural(n) * length, rows.eta)
        rows.lam = 1 / dual + rows.first / (rows.eta * square)
        rows.slope = rows.eta * square
        if self.prox.kind == "l2":
            rows.level = torch.ones_like(length)
        else:
            rows.level = torch.where(rows.size > 0, torch.minimum(rows.size, length), length)

    def _resize(self, rows: ProximalState, merit: Tensor, factors: list[Tensor]) -> None:
        ratio = (rows.merit - merit) / (rows.merit - rows.predicted).clamp(min=1e-12)
        shrink, stay, grow = factors
        factor = torch.where(ratio > self.good, grow, torch.where(ratio < self.bad, shrink, stay))
        rows.eta = torch.maximum(rows.eta * factor, self.least * self.prox.natural(rows.u.shape[1]) * rows.size)

    def _move(
        self, block: ProximalState, grad: Tensor, weight: Tensor, rise: Tensor, trials: int
    ) -> tuple[Tensor, Tensor]:
        """Average the gradient into the plane with this weight, find z with plane . (z - u) = rise, and move u to z, or
        beyond with inertia. Returns ||z|| and the new ||u||."""
        work = block.scratch(4, block.u)
        torch.lerp(block.plane, grad, weight[:, None], out=block.plane)
        along = torch.mul(block.u, block.plane, out=work[0]).sum(1)
        z, spare = solve(self.prox, block, rise + along, along, trials, work), work[1]
        size = self.prox.norm(z, spare)
        length = block.size if self.prox.kind == "l2" else torch.linalg.vector_norm(block.u, dim=1)
        torch.sub(z, block.u, out=spare)
        torch.div(torch.linalg.vector_norm(spare, dim=1), length.clamp(min=TINY), out=block.residual)
        predicted = size
        if block.limited:
            share = (block.reach / self.prox.norm(spare, torch.empty_like(spare)).clamp_(min=TINY)).clamp_(max=1)
            share.masked_fill_(block.lost, 0.5)
            predicted = torch.lerp(block.size, size, share)
            torch.lerp(block.u, z.masked_fill_(block.lost[:, None], 0), share[:, None], out=z)
            block.velocity.masked_fill_(block.lost[:, None], 0)
            torch.sub(z, block.u, out=spare)
        if self.inertia:
            block.velocity.mul_(self.inertia).add_(spare)
            torch.add(block.u, block.velocity, out=block.u)
            clip(block.u, block.low, block.high)
        else:
            block.u.copy_(z)
        if self.inertia or block.limited:
            size = self.prox.norm(block.u, spare)
        if self.prox.remembers_norm:
            block.level.copy_(size)
        return predicted, size.clone()

    @staticmethod
    def _estimate(rows: ProximalState, margin: Tensor, first_step: bool) -> None:
        """Update the estimate of the distance at which the linear model reaches the boundary: ||u|| - lam m, since lam
        is the change of the norm per unit of margin."""
        now = torch.addcmul(rows.size, rows.lam, margin, value=-1).clamp(min=0.5 * rows.size)
        if first_step:  # the linear model at the start is too inaccurate to be kept
            rows.estimate = now
        else:
            rows.recent = torch.cat([now[:, None], rows.recent[:, :2]], 1)
            rows.estimate = rows.recent.amin(1)


@lru_cache(maxsize=16)
def _schedule(solver: ProximalSQP, dtype: torch.dtype, device: torch.device) -> Float[Tensor, "5 steps"]:
    """The numbers that depend on the step only, one column per step; after the last column they do not change.

    The rows are the weight of the gradient in the plane; the factors of eta if it shrinks, if it only decays, and if it
    grows; and the factor of the aim while the boundary was not reached.
    """
    last = max(solver.decay_after, solver.raise_after, math.ceil(solver.patience / (1 - solver.average_most)))
    steps = torch.arange(last + 1, dtype=dtype, device=device)
    weight = (solver.patience / (steps + 1)).clamp(1 - solver.average_most, 1 - solver.average)
    weight[0] = 1
    decay = torch.ones_like(steps).masked_fill(steps >= solver.decay_after, solver.decay)
    change_of_aim = torch.full_like(steps, solver.raise_aim).masked_fill(steps < solver.raise_after, solver.decay_aim)
    return torch.stack([weight, solver.shrink * decay, decay, solver.grow * decay, change_of_aim])


def pad_rows(rows: Float[Tensor, "r n"]) -> Float[Tensor, "m n"]:
    """The rows, followed by copies of the first one up to a multiple of `multiple`."""
    more = -len(rows) % multiple(rows.shape[1])
    return torch.cat([rows, rows[:1].expand(more, -1)]) if more else rows
