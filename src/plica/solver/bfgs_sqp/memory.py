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

from plica.solver.rows import bmm, dot, pick, write


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

    Pairs live in slots used in turn; an empty slot holds zeros and adds nothing. `pairs` holds S, then Y (q = 2 p
    vectors). Kept beside them: SY[i, j] = s_i . y_j for i not younger than j (all that M needs), YY[i, j] = y_i . y_j,
    and gamma = s.y / y.y of the last pair, renewed at each.
    """

    pairs: Float[Tensor, "r q n"]
    SY: Float[Tensor, "r p p"]
    YY: Float[Tensor, "r p p"]
    gamma: Float[Tensor, " r"]
    count: Int[Tensor, " r"]

    @staticmethod
    def start(rows: int, like: Float[Tensor, "r n"], pairs: int) -> Limited:
        kept, small = like.new_zeros(rows, 2 * pairs, like.shape[1]), like.new_zeros(rows, pairs, pairs)
        count = torch.zeros(rows, dtype=torch.long, device=like.device)
        return Limited(kept, small, small.clone(), like.new_ones(rows), count)

    def forget(self, rows: Int[Tensor, " s"]) -> None:
        for kept in (self.pairs, self.SY, self.YY, self.count):
            kept[rows] = 0
        self.gamma[rows] = 1

    def learn(
        self, rows: Int[Tensor, " s"], s: Float[Tensor, "s n"], y: Float[Tensor, "s n"], G: Float[Tensor, "s k n"]
    ) -> tuple[Float[Tensor, "s k k"], tuple[Tensor, Tensor]]:
        """One more pair in place of the oldest, and the products of G after it; rows without curvature keep what they
        had.

        The pairs are read once for both, since reading them is what costs.
        """
        p, good = self.SY.shape[1], _curved(s, y)
        new, slot = rows[good], self.count[rows[good]] % p
        for at, vectors in ((slot, s), (p + slot, y)):
            place = new * 2 * p + at
            write(self.pairs.view(-1, s.shape[1]), place, vectors if bool(good.all()) else pick(vectors, good))
        kept = self._of(rows)
        products = _times(kept, torch.cat([y[:, None], G], 1))
        of_y = products[good, :, 0]
        self.SY[new, :, slot] = of_y[:, :p]
        self.YY[new, :, slot], self.YY[new, slot] = of_y[:, p:], of_y[:, p:]
        self.gamma[new] = self.SY[new, slot, slot] / self.YY[new, slot, slot]
        self.count[new] += 1
        return self._products(rows, G, products[:, :, 1:], kept)

    def products(
        self, rows: Int[Tensor, " s"], G: Float[Tensor, "s k n"]
    ) -> tuple[Float[Tensor, "s k k"], tuple[Tensor, Tensor]]:
        kept = self._of(rows)
        return self._products(rows, G, _times(kept, G), kept)

    def _of(self, rows: Tensor) -> Float[Tensor, "s q n"]:
        """The pairs of the given rows; copied once for both products, unless they are asked for all."""
        return self.pairs if len(rows) == len(self.pairs) else pick(self.pairs, rows)

    def _products(
        self, rows: Tensor, G: Tensor, of_pairs: Tensor, kept: Tensor
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """G H G', and the weights of the pairs in H G' with the pairs themselves, from the products of both."""
        p = self.SY.shape[1]
        order, gamma = self._order(rows), self.gamma[rows, None, None]
        turn = order[:, :, None].expand(-1, -1, G.shape[1])
        a, b = of_pairs[:, :p].gather(1, turn), gamma * of_pairs[:, p:].gather(1, turn)
        SY, YY = (_sorted(kept[rows], order) for kept in (self.SY, self.YY))
        D = SY.diagonal(dim1=1, dim2=2)
        R = SY.triu() + torch.diag_embed((D == 0).to(SY))
        u = torch.linalg.solve_triangular(R, a, upper=True)
        right = D[:, :, None] * u + gamma * bmm(YY, u) - b
        top = torch.linalg.solve_triangular(R.transpose(1, 2), right, upper=False)
        gram = gamma * bmm(G, G.transpose(1, 2)) + bmm(a.transpose(1, 2), top) - bmm(b.transpose(1, 2), u)
        back = order.argsort(1)[:, :, None].expand(-1, -1, G.shape[1])
        weights = torch.cat([top.gather(1, back), -gamma * u.gather(1, back)], 1)
        return (gram + gram.transpose(1, 2)) / 2, (weights, kept)

    def combine(
        self, rows: Int[Tensor, " s"], w: Float[Tensor, "s k"], g: Float[Tensor, "s n"], parts: tuple[Tensor, Tensor]
    ) -> Float[Tensor, "s n"]:
        """H g for g = w G, with the parts that came with the products of G."""
        weights, kept = parts
        mixed = bmm(bmm(weights, w[:, :, None]).transpose(1, 2), kept)[:, 0]
        return mixed.addcmul_(g, self.gamma[rows, None])

    def scale(self, rows: Int[Tensor, " s"]) -> Float[Tensor, " s"]:
        """sqrt(gamma), where it is small: at a kink gamma falls to 0 and every direction with it, stationary or not."""
        return self.gamma[rows].clamp(max=1).sqrt()

    def _order(self, rows: Tensor) -> Int[Tensor, "s p"]:
        """Slots from the oldest pair to the newest; empty slots stand where they are, which is harmless."""
        p, count = self.SY.shape[1], self.count[rows]
        start = torch.where(count > p, count % p, 0)
        return (start[:, None] + torch.arange(p, device=start.device)) % p


def _times(kept: Float[Tensor, "s q n"], V: Float[Tensor, "s k n"]) -> Float[Tensor, "s q k"]:
    """kept V', taken as the transpose of V kept', which the kernels do faster."""
    return bmm(V, kept.transpose(1, 2)).transpose(1, 2)


def _sorted(small: Tensor, order: Tensor) -> Tensor:
    p = order.shape[1]
    return small.gather(1, order[:, :, None].expand(-1, -1, p)).gather(2, order[:, None].expand(-1, p, -1))
