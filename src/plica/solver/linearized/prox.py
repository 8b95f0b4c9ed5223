"""Proximal maps of the l_p norms, for rows: prox(w) = argmin_u ||u||_p + |u - w|_2^2 / (2 eta).

With them a subproblem can use the exact distance (proximal_sqp.py). All work is done in place, on rows that fit the
cache.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

Work = tuple[Tensor, Tensor]  # two scratch tensors (r, n)
Kind = Literal["l2", "linf", "general"]
NEWTON = 5  # iterations per call; quadratic from a start within a factor of two of the root


@runtime_checkable
class Prox(Protocol):
    """What the solver needs of a norm; LpProx documents each part."""

    @property
    def kind(self) -> Kind: ...

    @property
    def remembers_norm(self) -> bool: ...

    def norm(self, u: Tensor, work: Tensor) -> Tensor: ...
    def dual(self, grad: Tensor) -> Tensor: ...
    def natural(self, n: int) -> float: ...
    def apply(self, w: Tensor, eta: Tensor, level: Tensor, low: Tensor, high: Tensor, work: Work) -> None: ...


@dataclass(frozen=True)
class LpProx:
    """The prox of ||.||_p, p > 0.

    `level` (r,) is kept for each row from call to call. For l_inf it is the threshold theta. For p other than 1, 2, inf
    it is the norm r of the row's last point: ||u||_p is replaced by its linearisation in ||u||_p^p, which is
    ||u||_p^p / (p r^(p-1)) plus a constant. This is separable, exact where ||u||_p = r, and a majorant for p > 1.
    """

    p: float

    @property
    def kind(self) -> Kind:
        """How the subproblem is solved: by a method for l_2, by one for l_inf, or by the general one, which calls
        `apply`."""
        return "l2" if self.p == 2 else "linf" if self.p == math.inf else "general"

    @property
    def remembers_norm(self) -> bool:
        """Whether `level` is the norm of the last point, which the caller has to store."""
        return self.p not in (1, 2, math.inf)

    def norm(self, u: Float[Tensor, "r n"], work: Float[Tensor, "r n"]) -> Float[Tensor, " r"]:
        """||u||_p of each row; overwrites work."""
        if self.p == 2:
            return torch.linalg.vector_norm(u, dim=1)
        torch.abs(u, out=work)
        if self.p == 1:
            return work.sum(1)
        top = work.amax(1)
        if self.p == math.inf:
            return top
        work.div_(top.clamp(min=torch.finfo(u.dtype).tiny)[:, None]).pow_(self.p)
        # replicated 32 times: the vectorised pow rounds differently from the scalar one used for remainders
        return top * (work.sum(1, keepdim=True).repeat(1, 32) ** (1 / self.p))[:, 0]

    def dual(self, grad: Float[Tensor, "r n"]) -> Float[Tensor, " r"]:
        """||grad||_q, 1/p + 1/q = 1: the largest value of grad . u with ||u||_p = 1."""
        q = math.inf if self.p <= 1 else 1.0 if self.p == math.inf else self.p / (self.p - 1)
        return LpProx(q).norm(grad, torch.empty_like(grad))

    def natural(self, n: int) -> float:
        """eta / ||u||_p at which the two terms of the prox have equal weight, for a u with n entries of equal size
        (p >= 2) or with few entries."""
        return n ** max(0.0, 1 - 2 / self.p)

    def apply(self, w: Tensor, eta: Tensor, level: Tensor, low: Tensor, high: Tensor, work: Work) -> None:
        """Replace w (r, n) by its prox in the box low <= u <= high, for eta (r,). Updates level for l_inf; overwrites
        work.

        It is exact for separable norms, and for l_inf without active bounds once theta has converged. For l_2 the prox
        is clipped at the box afterwards, which does not change its fixed points.
        """
        if self.p == 2:
            length = torch.linalg.vector_norm(w, dim=1).clamp_(min=torch.finfo(w.dtype).tiny)
            w.mul_((1 - eta / length).clamp_(min=0)[:, None])
        elif self.p == 1:
            # softshrink takes one threshold for all rows: scale each row's to 1
            w.div_(eta[:, None])
            torch.ops.aten.softshrink.out(w, 1.0, out=w)
            w.mul_(eta[:, None])
        elif self.p == math.inf:
            self._threshold(w, eta, level, low, high, work)
            return
        else:
            self._separable(w, eta, level, work[0])
        clip(w, low, high)

    def _threshold(self, w: Tensor, eta: Tensor, level: Tensor, low: Tensor, high: Tensor, work: Work) -> None:
        """w clipped at theta and at the box, where sum (|w| - theta) = eta over the entries that theta limits and the
        box does not.

        This takes one step of Michelot's fixed-point iteration from the last theta, which changes little from call to
        call. An error in theta has the effect of an error in eta, which is only a trust region.
        """
        size, above = work
        torch.abs(w, out=size)
        clip(w, low, high)
        torch.abs(w, out=above)
        above.sub_(level[:, None]).clamp_(min=0).sign_()
        count = above.sum(1)
        moved = level + (size.mul_(above).sum(1) - level * count - eta) / count.clamp(min=1)
        level.copy_(torch.maximum(moved, 0.5 * level))
        torch.minimum(w, level[:, None], out=w)
        torch.maximum(w, -level[:, None], out=w)

    def _separable(self, w: Tensor, eta: Tensor, level: Tensor, work: Tensor) -> None:
        """Entry by entry, t >= 0 of t + eta (t / r)^(p-1) = |w| by Newton's method, then the sign of w.

        The equation is written a u^k + b u = c with k >= 1, convex and rising: Newton from above the root falls onto
        it. p > 2: u = t / r, k = p - 1;  1 < p < 2: u = (t / r)^(p-1), k = 1 / (p-1).  For p < 1 see _jump.
        """
        r = level.clamp(min=torch.finfo(w.dtype).tiny)[:, None]
        e = eta[:, None]
        torch.abs(w, out=work)
        if self.p < 1:
            t = self._jump(work, e * r ** (1 - self.p))
        else:
            k, a, b = (self.p - 1, e, r) if self.p > 2 else (1 / (self.p - 1), r, e)
            u = torch.minimum(work / b, (work / a) ** (1 / k))
            for _ in range(NEWTON):
                power = a * u ** (k - 1)
                u = ((k - 1) * power * u + work) / (k * power + b)
            t = r * (u if self.p > 2 else u**k)
        torch.copysign(t, w, out=w)

    def _jump(self, c: Tensor, weight: Tensor) -> Tensor:
        """argmin_t (t - c)^2 / 2 + weight t^p / p over t >= 0, for p < 1: 0 up to a threshold, past it the larger root
        of t + weight t^(p-1) = c, again by Newton's method from above (the closed forms known for p = 1/2 and 2/3 are
        such roots)."""
        p = self.p
        small = (2 * weight * (1 - p) / p) ** (1 / (2 - p))  # the smallest t != 0 that is a minimiser
        t = torch.maximum(c, small)
        for _ in range(NEWTON):
            power = weight * t ** (p - 2)
            t = torch.maximum((c - (2 - p) * power * t) / (1 + (p - 1) * power), small)
        return torch.where(c > small + weight * small ** (p - 1), t, 0.0)


def clip(u: Float[Tensor, "r n"], low: Float[Tensor, "r n"], high: Float[Tensor, "r n"]) -> None:
    """Clip u at the box, in place."""
    torch.clamp(u, low, high, out=u)
