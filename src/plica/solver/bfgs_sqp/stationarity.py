"""The distance of a point from being stationary for the penalty: the shortest d = H (G sigma + J lam) over nearby
gradients, Eq. (29-30).

Its length is measured in the norm of the Hessian, sqrt(d H^-1 d), whose square is twice the decrease that the quadratic
model predicts. The Euclidean norm of d would depend on the scale of H: small wherever H is small, stationary or not.

Away from kinks one gradient suffices; near a kink gradients from several sides are needed, as in gradient sampling
(Burke et al. 2020). The samples are gradients of recent iterates within a small distance of the present one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from plica.solver.bfgs_sqp.memory import Memory
from plica.solver.bfgs_sqp.qp import screened
from plica.solver.problem import Evaluation
from plica.solver.rows import bmm, dot


@dataclass
class Samples:
    """The last l iterates of each row and their gradients, in slots used in turn; an unused slot has x = inf."""

    x: Float[Tensor, "r l n"]
    grads: Float[Tensor, "r l k n"]
    count: Int[Tensor, " r"]

    @staticmethod
    def start(rows: int, keep: int, grads: Float[Tensor, "r k n"]) -> Samples:
        k, n = grads.shape[1:]
        return Samples(
            grads.new_full((rows, keep, n), torch.inf),
            grads.new_zeros(rows, keep, k, n),
            torch.zeros(rows, dtype=torch.long, device=grads.device),
        )

    def add(self, rows: Int[Tensor, " s"], x: Float[Tensor, "s n"], grads: Float[Tensor, "s k n"]) -> None:
        """Add an iterate to each of the rows, in place of its oldest one."""
        if self.x.shape[1]:
            slot = self.count[rows] % self.x.shape[1]
            self.x[rows, slot], self.grads[rows, slot] = x, grads
            self.count[rows] += 1


@dataclass(frozen=True)
class Stationarity:
    """radius: samples within radius * sqrt(n) of the point are used. keep: number of iterates that are stored, 0 for
    none."""

    radius: float = 1e-4
    keep: int = 8

    def near(self, samples: Samples, x: Float[Tensor, "r n"]) -> Bool[Tensor, "r l"]:
        """Which samples are near enough."""
        away = torch.linalg.vector_norm(samples.x - x[:, None], dim=2)
        return away <= self.radius * x.shape[1] ** 0.5

    def __call__(
        self,
        at: Evaluation,
        samples: Samples,
        near: Bool[Tensor, "r l"],
        mu: Float[Tensor, " r"],
        memory: Memory,
        rows: Int[Tensor, " r"],
    ) -> tuple[Float[Tensor, " r"], Float[Tensor, "r n"]]:
        """The length of d of Eq. (30), and d, for the given rows of the memory.

        A sample that is not near is replaced by the present gradient, which adds nothing new to the hull.
        """
        r, l = near.shape
        grads = torch.where(near[:, :, None, None], samples.grads, at.grads[:, None])
        k = grads.shape[2]
        grads = grads.transpose(1, 2).reshape(r, k * l, -1)
        P, parts = memory.products(rows, grads)
        w = self._multipliers(at, P.double(), mu.double(), l).to(mu)
        w[:, :l] *= mu[:, None]
        g = bmm(w[:, None], grads)[:, 0]
        d = memory.combine(rows, w, g, parts)
        return length(d, g), d

    @staticmethod
    def _multipliers(at: Evaluation, P: Tensor, mu: Tensor, l: int) -> Tensor:
        """sigma / mu (on the simplex) and lam of Eq. (29), with the columns of the objective scaled by mu."""
        m = at.c.shape[1]
        scale = torch.cat([mu[:, None].expand(-1, l), torch.ones_like(P[:, 0, l:])], 1)
        c = at.c.double()
        q = torch.cat([torch.zeros_like(P[:, 0, :l]), c[:, :, None].expand(-1, -1, l).flatten(1)], 1)
        hi = torch.ones_like(q)
        lo = torch.zeros_like(q)
        if at.equalities:
            lo[:, (1 + m - at.equalities) * l :] = -1
        simplex = torch.zeros_like(q[0])
        simplex[:l] = 1
        # the simplex already bounds sigma; with a wider box its vertices lie inside the box
        hi[:, :l] = 2
        return screened(P * scale[:, :, None] * scale[:, None], q, lo, hi, simplex)


def length(d: Float[Tensor, "r n"], g: Float[Tensor, "r n"]) -> Float[Tensor, " r"]:
    """sqrt(d H^-1 d) for d = H g or -H g, from d and g: computed from the products G H G' it would suffer from
    cancellation in float32."""
    return dot(d, g).abs().sqrt()
