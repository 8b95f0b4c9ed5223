"""The inverse Hessian of D + t |.|^2 / 2, learned by limited-memory BFGS from pairs of D alone, for any damping t.

A pair (s, y) of D is the pair (s, y + t s) of the sum, so that the damping can change without forgetting: the small
tables s.s, s.y and y.y tell those of the damped pairs. Compact form of Byrd, Nocedal, Schnabel (1994), Eq. 3.1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from plica.solver.rows import bmm, dot

Products = tuple[Tensor, Tensor, Tensor]  # vectors V (r, k, n), S V' and Y V' (r, p, k)


@dataclass
class Curvature:
    """Pairs from the oldest (slot 0) to the newest; empty slots hold zeros. SS, SY, YY: inner products of slots."""

    S: Float[Tensor, "r p n"]
    Y: Float[Tensor, "r p n"]
    SS: Float[Tensor, "r p p"]
    SY: Float[Tensor, "r p p"]
    YY: Float[Tensor, "r p p"]
    count: Int[Tensor, " r"]

    @staticmethod
    def start(rows: int, like: Float[Tensor, "r n"], pairs: int) -> Curvature:
        big, small = like.new_zeros(rows, pairs, like.shape[1]), like.new_zeros(rows, pairs, pairs, dtype=torch.float64)
        count = torch.zeros(rows, dtype=torch.long, device=like.device)
        return Curvature(big, big.clone(), small, small.clone(), small.clone(), count)

    def learn(self, s: Float[Tensor, "r n"], y: Float[Tensor, "r n"], *others: Float[Tensor, "r n"]) -> Products:
        """One more pair in place of the oldest, in place, and the products of all pairs with others, to `solve` with.

        Rows without curvature, s.y > 0, keep what they had. S and Y are read once for all of it: reading is what costs.
        """
        V = torch.stack([s, y, *others], 1)
        of_S, of_Y, gram = self._times(self.S, V), self._times(self.Y, V), bmm(V, V.transpose(1, 2)).double()
        rows = (gram[:, 0, 1] > 1e-8 * (gram[:, 0, 0] * gram[:, 1, 1]).sqrt()).nonzero()[:, 0]
        slot = self.count[rows] % self.S.shape[1]
        self.S[rows, slot], self.Y[rows, slot] = s[rows], y[rows]
        of_S[rows, slot], of_Y[rows, slot] = gram[rows, 0], gram[rows, 1]
        for table, one, other in (
            (self.SS, of_S[:, :, 0], of_S[:, :, 0]),
            (self.SY, of_S[:, :, 1], of_Y[:, :, 0]),
            (self.YY, of_Y[:, :, 1], of_Y[:, :, 1]),
        ):
            table[rows, :, slot], table[rows, slot] = one[rows], other[rows]
        self.count[rows] += 1
        return V[:, 2:], of_S[:, :, 2:], of_Y[:, :, 2:]

    def products(self, *vectors: Float[Tensor, "r n"]) -> Products:
        V = torch.stack(vectors, 1)
        return V, self._times(self.S, V), self._times(self.Y, V)

    def solve(self, products: Products, t: Float[Tensor, " r"]) -> Float[Tensor, "r k n"]:
        """(H + t)^-1 V for the k vectors of which the products are given."""
        V = products[0]
        gamma, of_s, of_y = self._weights(products, t)
        out = gamma.to(V) * V
        out += bmm(of_s.to(V).transpose(1, 2), self.S)
        out += bmm(of_y.to(V).transpose(1, 2), self.Y)
        return out

    def along(self, g: Float[Tensor, "r n"]) -> Float[Tensor, " r"]:
        """g.g / g.H^-1 g: the curvature along g, by the pairs."""
        products = self.products(g)
        gamma, of_s, of_y = self._weights(products, torch.zeros_like(g[:, 0]))
        square = dot(g, g)
        inverse = gamma[:, 0, 0] * square + (of_s * products[1] + of_y * products[2]).sum((1, 2))
        return (square / inverse.clamp(min=1e-30)).to(g)

    def _weights(self, products: Products, t: Float[Tensor, " r"]) -> tuple[Tensor, Tensor, Tensor]:
        """gamma (r, 1, 1), and a, b (r, p, k) in (H + t)^-1 V = gamma V + S'a + Y'b."""
        _, of_S, of_Y = products
        p, t, order = self.S.shape[1], t.double()[:, None, None], self._order()
        SS, SY, YY = (_sorted(table, order) for table in (self.SS, self.SY, self.YY))
        turn = order[:, :, None].expand(-1, -1, of_S.shape[2])
        of_S = of_S.gather(1, turn)
        of_Y = of_Y.gather(1, turn) + t * of_S
        YY = YY + t * (SY + SY.transpose(1, 2)) + t**2 * SS
        SY = SY + t * SS
        D = SY.diagonal(dim1=1, dim2=2)
        newest = (self.count.clamp(max=p) - 1).clamp(min=0)[:, None]
        gamma = (D.gather(1, newest) / YY.diagonal(dim1=1, dim2=2).gather(1, newest))[:, 0]
        gamma = torch.where(self.count == 0, 1.0, gamma)[:, None, None]
        R = SY.triu() + torch.diag_embed((D == 0).to(SY))
        u = torch.linalg.solve_triangular(R, of_S, upper=True)
        right = D[:, :, None] * u + gamma * (bmm(YY, u) - of_Y)
        w = torch.linalg.solve_triangular(R.transpose(1, 2), right, upper=False)
        back = order.argsort(1)[:, :, None].expand(-1, -1, of_S.shape[2])
        return gamma, (w - gamma * t * u).gather(1, back), (-gamma * u).gather(1, back)

    @staticmethod
    def _times(kept: Float[Tensor, "r p n"], V: Float[Tensor, "r k n"]) -> Float[Tensor, "r p k"]:
        """kept V', as the transpose of V kept', which the kernels do faster."""
        return bmm(V, kept.transpose(1, 2)).transpose(1, 2).double()

    def _order(self) -> Int[Tensor, "r p"]:
        """Slots from the oldest pair to the newest; empty slots stand where they are, which is harmless."""
        p = self.S.shape[1]
        start = torch.where(self.count > p, self.count % p, 0)
        return (start[:, None] + torch.arange(p, device=start.device)) % p


def _sorted(table: Tensor, order: Tensor) -> Tensor:
    p = order.shape[1]
    return table.gather(1, order[:, :, None].expand(-1, -1, p)).gather(2, order[:, None].expand(-1, p, -1))
