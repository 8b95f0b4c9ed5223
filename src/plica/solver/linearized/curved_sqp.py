"""Curved SQP: min d(z)  s.t.  m(z) >= 0,  low <= z <= high, for a distance d of which only the gradient is known.

As in proximal SQP only m is linearised. In place of a prox, a few gradient steps on the exact distance solve the
subproblem (descent.py):

    z+ ~ argmin_z d(z)   s.t.   m_k + g_k.(z - z_k) = kappa_k,   low <= z <= high

Each row of a batch is a separate problem; the caller evaluates m (ask and tell) and passes a function for the gradient
of d, which is far cheaper than a gradient of m.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from plica.solver.linearized.descent import TINY, Averaged, CurvedState, Measure, QuasiNewton


@dataclass(frozen=True)
class CurvedSQP:
    """The steps of the method: kappa_k = (far aim_k + floor) |m_0|, so that the first steps aim beyond the boundary.

    Attributes:
        descent: how d is lowered on the plane, within the bounds of z.
        far, floor: of kappa.
        decay: factor of aim_k from step to step; aim_0 = 1.
        raise_aim: replaces `decay` after raise_after steps of which none passed the boundary.
        raise_after: see `raise_aim`.
        average: weight of the old plane in the new one.
    """

    descent: Averaged | QuasiNewton
    far: float = 0.3
    decay: float = 0.85
    raise_aim: float = 2.0
    raise_after: int = 3
    floor: float = 1e-4
    average: float = 0.7

    def start(self, x: Float[Tensor, "r n"], quadratic: Bool[Tensor, " r"], memory: Any = None) -> CurvedState:
        """Rows that start at x, where d and its gradient are taken to be 0. memory: of other rows of the same
        images."""
        zero = x.new_zeros(len(x))
        return CurvedState(
            x=x, z=x.clone(), pull=torch.zeros_like(x), plane=torch.zeros_like(x),
            memory=self.descent.start(x, memory), quadratic=quadratic, size=zero.clone(), lam=zero.clone(),
            first=zero.clone(), estimate=zero + torch.inf, residual=zero + torch.nan, aim=zero + 1,
            reached=zero.clone(), steps=zero.clone(),
        )  # fmt: skip

    def move(self, rows: CurvedState, z: Float[Tensor, "r n"], measure: Measure) -> None:
        """Set the point to evaluate next to z, inside the box. In place."""
        rows.z, (rows.size, rows.pull) = z, measure(z)

    def step(self, rows: CurvedState, margin: Tensor, noise: Tensor, grad: Tensor, measure: Measure) -> None:
        """Move rows.z to the next point, in place, given m and its gradient there. noise: smallest margin that
        counts."""
        opening = rows.steps == 0
        rows.first = torch.where(opening, margin.abs().clamp(min=TINY), rows.first)
        rows.plane = torch.lerp(rows.plane, grad, torch.where(opening, 1.0, 1 - self.average).float().to(grad)[:, None])
        rows.estimate = torch.where(opening, torch.inf, (rows.size - rows.lam * margin).clamp(min=0.5 * rows.size))
        kappa = (self.far * rows.aim + self.floor) * rows.first + 2 * noise
        rows.lam = self.descent.minimise(rows, margin, kappa - margin, measure)
        rows.reached = torch.maximum(rows.reached, (margin > noise).to(margin))
        falls = (rows.reached > 0) | (rows.steps < self.raise_after)
        rows.aim = rows.aim * torch.where(falls, self.decay, self.raise_aim).float()
        rows.steps = rows.steps + 1
