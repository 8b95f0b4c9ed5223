"""The inverse Hessian H of the penalty, learned by BFGS: dense for few unknowns, limited memory in compact form for many.

Both answer the same two questions about gradients G (r, k, n): their products G H G' (r, k, k), from which every small QP is
made, and one combination  H (w G)  (r, n). The products come first, so that n-vectors are touched only twice per step,
however many QPs are solved in between.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from plica.solver.rows import bmm, dot


def _curved(s: Tensor, y: Tensor) -> Tensor:
    """Rows whose pair has curvature worth keeping: s.y > 0 beyond rounding, so that H stays positive definite."""
    return dot(s, y) > 1e-10 * torch.linalg.vector_norm(s, dim=1) * torch.linalg.vector_norm(y, dim=1)


@dataclass(frozen=True)
class Dense:
    """H itself, r matrices n x n. Scaled by s.y / y.y before the first update."""

    H: Float[Tensor, "r n n"]
    fresh: Bool[Tensor, " r"]

    @staticmethod
    def start(rows: int, like: Float[Tensor, "r n"]) -> Dense:
        eye = torch.eye(like.shape[1], dtype=like.dtype, device=like.device)
        return Dense(eye.repeat(rows, 1, 1), torch.ones(rows, dtype=torch.bool, device=like.device))

    def products(self, G: Float[Tensor, "r k n"]) -> tuple[Float[Tensor, "r k k"], Tensor]:
        HG = bmm(G, self.H)
        return bmm(HG, G.transpose(1, 2)), HG

    def combine(self, w: Float[Tensor, "r k"], G: Tensor, HG: Tensor) -> Float[Tensor, "r n"]:
        return bmm(w[:, None], HG)[:, 0]

    def update(self, s: Float[Tensor, "r n"], y: Float[Tensor, "r n"]) -> Dense:
        good = _curved(s, y)
        sy = torch.where(good, dot(s, y), 1.0)
        first = (sy / dot(y, y).clamp(min=torch.finfo(y.dtype).tiny))[:, None, None]
        H = torch.where((self.fresh & good)[:, None, None], first * torch.eye(s.shape[1]).to(self.H), self.H)
        Hy = bmm(H, y[:, :, None])[:, :, 0]
        cross = Hy[:, :, None] * s[:, None]
        grown = H - (cross + cross.transpose(1, 2)) / sy[:, None, None]
        grown = grown + ((1 + dot(y, Hy) / sy) / sy)[:, None, None] * (s[:, :, None] * s[:, None])
        return Dense(torch.where(good[:, None, None], grown, self.H), self.fresh & ~good)


@dataclass(frozen=True)
class Limited:
    """H = gamma I + [S', gamma Y'] M [S; gamma Y]: the last pairs of (s, y) (Byrd, Nocedal, Schnabel 1994, Eq. 3.1).

    Pairs live in slots that are used in turn; `age` orders them. An empty slot holds zeros and adds nothing.
    SY[i, j] = s_i . y_j and YY[i, j] = y_i . y_j are kept, so that an update reads S and Y once.
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
        return Limited(S, S.clone(), small, small.clone(), like.new_ones(rows), torch.zeros(rows, dtype=torch.long, device=like.device))

    def _order(self) -> Int[Tensor, "r p"]:
        """Slots from the oldest pair to the newest; empty slots stand where they are, which is harmless."""
        p = self.S.shape[1]
        start = torch.where(self.count > p, self.count % p, 0)
        return (start[:, None] + torch.arange(p, device=start.device)) % p

    def products(self, G: Float[Tensor, "r k n"]) -> tuple[Float[Tensor, "r k k"], tuple[Tensor, Tensor]]:
        order, gamma = self._order(), self.gamma[:, None, None]
        turn = order[:, :, None].expand(-1, -1, G.shape[1])
        a = bmm(self.S, G.transpose(1, 2)).gather(1, turn)
        b = gamma * bmm(self.Y, G.transpose(1, 2)).gather(1, turn)
        SY, YY = self._sorted(self.SY, order), self._sorted(self.YY, order)
        D = SY.diagonal(dim1=1, dim2=2)
        R = SY.triu() + torch.diag_embed((D == 0).to(SY))
        u = torch.linalg.solve_triangular(R, a, upper=True)
        right = D[:, :, None] * u + gamma * bmm(YY, u) - b
        first = torch.linalg.solve_triangular(R.transpose(1, 2), right, upper=False)
        gram = gamma * bmm(G, G.transpose(1, 2)) + bmm(a.transpose(1, 2), first) - bmm(b.transpose(1, 2), u)
        back = order.argsort(1)[:, :, None].expand(-1, -1, G.shape[1])
        return (gram + gram.transpose(1, 2)) / 2, (first.gather(1, back), -gamma * u.gather(1, back))

    def combine(self, w: Float[Tensor, "r k"], G: Float[Tensor, "r k n"], parts: tuple[Tensor, Tensor]) -> Float[Tensor, "r n"]:
        of_s, of_y = (bmm(part, w[:, :, None]).transpose(1, 2) for part in parts)
        return (self.gamma[:, None, None] * bmm(w[:, None], G) + bmm(of_s, self.S) + bmm(of_y, self.Y))[:, 0]

    def update(self, s: Float[Tensor, "r n"], y: Float[Tensor, "r n"]) -> Limited:
        """The memory with one more pair, in place of the oldest; the tensors S and Y are written where they are."""
        good = _curved(s, y).nonzero()[:, 0]
        slot = self.count[good] % self.S.shape[1]
        self.S[good, slot], self.Y[good, slot] = s[good], y[good]
        if len(good):
            part = self if len(good) == len(s) else replace(self, S=self.S[good], Y=self.Y[good])
            self.SY[good, :, slot] = bmm(part.S, y[good, :, None])[:, :, 0]
            self.SY[good, slot] = bmm(part.Y, s[good, :, None])[:, :, 0]
            yy = bmm(part.Y, y[good, :, None])[:, :, 0]
            self.YY[good, :, slot] = yy
            self.YY[good, slot] = yy
            self.gamma[good] = dot(s[good], y[good]) / dot(y[good], y[good])
            self.count[good] += 1
        return self

    @staticmethod
    def _sorted(small: Tensor, order: Tensor) -> Tensor:
        p = order.shape[1]
        return small.gather(1, order[:, :, None].expand(-1, -1, p)).gather(2, order[:, None].expand(-1, p, -1))
