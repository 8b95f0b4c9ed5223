"""The inverse Hessian H of the penalty, learned by BFGS: dense for few unknowns, limited memory in compact form for
many.

Both learn from a step s and a change y of the gradient, and answer the same two questions about gradients G (r, k,
n): their products G H G' (r, k, k), from which every small QP is made, and H g (r, n) for one combination g = w G. The
products come first, so that n-vectors are touched only twice per step, however many QPs are solved in between.

A memory belongs to all live rows; `rows` says which of them a call is about.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from plica.solver.rows import bmm, dot


@runtime_checkable
class Memory(Protocol):
    """What the solver asks of H; `parts` are what `combine` needs of the products' work."""

    def forget(self, rows: Int[Tensor, " s"]) -> None: ...

    def learn(self, rows: Int[Tensor, " s"], s: Tensor, y: Tensor, G: Tensor) -> tuple[Tensor, Any]: ...

    def products(self, rows: Int[Tensor, " s"], G: Tensor) -> tuple[Tensor, Any]: ...

    def combine(self, rows: Int[Tensor, " s"], w: Tensor, g: Tensor, parts: Any) -> Tensor: ...

    def scale(self, rows: Int[Tensor, " s"]) -> Tensor | float: ...


def _curved(s: Tensor, y: Tensor) -> Tensor:
    """Rows whose pair has curvature, s.y > 0, so that H stays positive definite."""
    return dot(s, y) > torch.finfo(s.dtype).tiny


@dataclass(frozen=True)
class Dense:
    """H itself, a matrix n x n per row. Scaled by s.y / y.y before the first update."""

    H: Float[Tensor, "r n n"]
    fresh: Bool[Tensor, " r"]

    @staticmethod
    def start(rows: int, like: Float[Tensor, "r n"]) -> Dense:
        eye = torch.eye(like.shape[1], dtype=like.dtype, device=like.device)
        return Dense(eye.repeat(rows, 1, 1), torch.ones(rows, dtype=torch.bool, device=like.device))

    def forget(self, rows: Int[Tensor, " s"]) -> None:
        self.H[rows] = torch.eye(self.H.shape[1], dtype=self.H.dtype, device=self.H.device)
        self.fresh[rows] = True

    def learn(
        self, rows: Int[Tensor, " s"], s: Float[Tensor, "s n"], y: Float[Tensor, "s n"], G: Float[Tensor, "s k n"]
    ) -> tuple[Float[Tensor, "s k k"], Tensor]:
        """The BFGS update, in place, and the products of G after it; rows without curvature keep what they had."""
        good = _curved(s, y)
        if bool(good.any()):
            self._update(rows[good], s[good], y[good])
        return self.products(rows, G)

    def _update(self, rows: Tensor, s: Tensor, y: Tensor) -> None:
        sy, H = dot(s, y), self.H[rows]
        first = (sy / dot(y, y))[:, None, None] * torch.eye(s.shape[1], dtype=s.dtype, device=s.device)
        H = torch.where(self.fresh[rows][:, None, None], first, H)
        # as a product, which rounding leaves positive definite where the expanded sum may not be
        V = torch.eye(s.shape[1], dtype=s.dtype, device=s.device) - s[:, :, None] * y[:, None] / sy[:, None, None]
        H = bmm(bmm(V, H), V.transpose(1, 2)) + s[:, :, None] * s[:, None] / sy[:, None, None]
        self.H[rows] = (H + H.transpose(1, 2)) / 2
        self.fresh[rows] = False

    def products(self, rows: Int[Tensor, " s"], G: Float[Tensor, "s k n"]) -> tuple[Float[Tensor, "s k k"], Tensor]:
        HG = bmm(G, self.H[rows])
        return bmm(HG, G.transpose(1, 2)), HG

    def combine(
        self, rows: Int[Tensor, " s"], w: Float[Tensor, "s k"], g: Float[Tensor, "s n"], parts: Float[Tensor, "s k n"]
    ) -> Float[Tensor, "s n"]:
        """H g for g = w G, with the parts that came with the products of G."""
        return bmm(w[:, None], parts)[:, 0]

    def scale(self, rows: Int[Tensor, " s"]) -> float:
        """What the length of a direction is divided by before it is called short."""
        return 1.0


@dataclass(frozen=True)
class Limited:
    """H = gamma I + [S', gamma Y'] M [S; gamma Y]: the last pairs of (s, y) (Byrd, Nocedal, Schnabel 1994, Eq. 3.1).

    Pairs live in slots used in turn; an empty slot holds zeros and adds nothing. Kept beside them: SY[i, j] = s_i .
    y_j for i not younger than j (all that M needs), YY[i, j] = y_i . y_j, and
    gamma = s.y / y.y of the last pair, renewed at each.
    """

    S: Float[Tensor, "r p n"]
    Y: Float[Tensor, "r p n"]
    SY: Float[Tensor, "r p p"]
    YY: Float[Tensor, "r p p"]
    gamma: Float[Tensor, " r"]
    count: Int[Tensor, " r"]

    @staticmethod
    def start(rows: int, like: Float[Tensor, "r n"], pairs: int) -> Limited:
        S, small = like.new_zeros(rows, pairs, like.shape[1]), like.new_zeros(rows, pairs, pairs)
        count = torch.zeros(rows, dtype=torch.long, device=like.device)
        return Limited(S, S.clone(), small, small.clone(), like.new_ones(rows), count)

    def forget(self, rows: Int[Tensor, " s"]) -> None:
        for kept in (self.S, self.Y, self.SY, self.YY, self.count):
            kept[rows] = 0
        self.gamma[rows] = 1

    def learn(
        self, rows: Int[Tensor, " s"], s: Float[Tensor, "s n"], y: Float[Tensor, "s n"], G: Float[Tensor, "s k n"]
    ) -> tuple[Float[Tensor, "s k k"], tuple[Tensor, Tensor]]:
        """One more pair in place of the oldest, and the products of G after it; rows without curvature keep what they
        had.

        S and Y are read once for both, since reading them is what costs.
        """
        good = _curved(s, y)
        new, slot = rows[good], self.count[rows[good]] % self.S.shape[1]
        self.S[new, slot], self.Y[new, slot] = s[good], y[good]
        V = torch.cat([y[:, None], G], 1)
        of_s, of_y = self._times(self.S, rows, V), self._times(self.Y, rows, V)
        yy = of_y[good, :, 0]
        self.SY[new, :, slot] = of_s[good, :, 0]
        self.YY[new, :, slot], self.YY[new, slot] = yy, yy
        self.gamma[new] = self.SY[new, slot, slot] / self.YY[new, slot, slot]
        self.count[new] += 1
        return self._products(rows, G, of_s[:, :, 1:], of_y[:, :, 1:])

    def products(
        self, rows: Int[Tensor, " s"], G: Float[Tensor, "s k n"]
    ) -> tuple[Float[Tensor, "s k k"], tuple[Tensor, Tensor]]:
        return self._products(rows, G, self._times(self.S, rows, G), self._times(self.Y, rows, G))

    def _products(self, rows: Tensor, G: Tensor, of_s: Tensor, of_y: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """G H G' and the weights of S and Y in H G', from S G' and Y G'."""
        order, gamma = self._order(rows), self.gamma[rows, None, None]
        turn = order[:, :, None].expand(-1, -1, G.shape[1])
        a, b = of_s.gather(1, turn), gamma * of_y.gather(1, turn)
        SY, YY = (_sorted(kept[rows], order) for kept in (self.SY, self.YY))
        D = SY.diagonal(dim1=1, dim2=2)
        R = SY.triu() + torch.diag_embed((D == 0).to(SY))
        u = torch.linalg.solve_triangular(R, a, upper=True)
        right = D[:, :, None] * u + gamma * bmm(YY, u) - b
        first = torch.linalg.solve_triangular(R.transpose(1, 2), right, upper=False)
        gram = gamma * bmm(G, G.transpose(1, 2)) + bmm(a.transpose(1, 2), first) - bmm(b.transpose(1, 2), u)
        back = order.argsort(1)[:, :, None].expand(-1, -1, G.shape[1])
        return (gram + gram.transpose(1, 2)) / 2, (first.gather(1, back), -gamma * u.gather(1, back))

    def combine(
        self, rows: Int[Tensor, " s"], w: Float[Tensor, "s k"], g: Float[Tensor, "s n"], parts: tuple[Tensor, Tensor]
    ) -> Float[Tensor, "s n"]:
        """H g for g = w G, with the parts that came with the products of G."""
        of_s, of_y = (bmm(part, w[:, :, None]).transpose(1, 2) for part in parts)
        return (self.gamma[rows, None] * g).add_(self._mix(self.S, rows, of_s)).add_(self._mix(self.Y, rows, of_y))

    def scale(self, rows: Int[Tensor, " s"]) -> Float[Tensor, " s"]:
        """sqrt(gamma), where it is small: at a kink gamma falls to 0 and every direction with it, stationary or not."""
        return self.gamma[rows].clamp(max=1).sqrt()

    def _order(self, rows: Tensor) -> Int[Tensor, "s p"]:
        """Slots from the oldest pair to the newest; empty slots stand where they are, which is harmless."""
        p, count = self.S.shape[1], self.count[rows]
        start = torch.where(count > p, count % p, 0)
        return (start[:, None] + torch.arange(p, device=start.device)) % p

    @staticmethod
    def _times(
        kept: Float[Tensor, "r p n"], rows: Int[Tensor, " s"], V: Float[Tensor, "s k n"]
    ) -> Float[Tensor, "s p k"]:
        """kept[rows] V', without copying kept[rows] where most rows are asked: copying costs more than multiplying.

        Taken as the transpose of V kept[rows]', which the kernels do faster.
        """
        if len(rows) == len(kept):
            product = bmm(V, kept.transpose(1, 2))
        elif 2 * len(rows) < len(kept):
            product = bmm(V, kept[rows].transpose(1, 2))
        else:
            spread = V.new_zeros(len(kept), *V.shape[1:])
            spread[rows] = V
            product = bmm(spread, kept.transpose(1, 2))[rows]
        return product.transpose(1, 2)

    @staticmethod
    def _mix(kept: Float[Tensor, "r p n"], rows: Int[Tensor, " s"], w: Float[Tensor, "s 1 p"]) -> Float[Tensor, "s n"]:
        """w kept[rows], likewise."""
        if 2 * len(rows) < len(kept):
            return bmm(w, kept[rows])[:, 0]
        spread = w.new_zeros(len(kept), 1, w.shape[2])
        spread[rows] = w
        return bmm(spread, kept)[rows, 0]


def _sorted(small: Tensor, order: Tensor) -> Tensor:
    p = order.shape[1]
    return small.gather(1, order[:, :, None].expand(-1, -1, p)).gather(2, order[:, None].expand(-1, p, -1))
