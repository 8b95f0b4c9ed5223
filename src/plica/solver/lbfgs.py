"""Limited-memory BFGS in compact form (Byrd, Nocedal, Schnabel 1994, Eq. 3.1), for many rows at once.

    H = gamma I + [S', gamma Y'] M [S; gamma Y],   gamma = s.y / y.y of the newest pair

H is the inverse Hessian that the last p pairs imply; a pair is a step s and the change y of the gradient along it. The
rows of S and Y are the pairs, oldest first. With a = S V' and b = gamma Y V' for vectors V, R the upper triangle of
S Y' and D its diagonal,

    H V' = gamma V' + S' w - gamma Y' u,   R u = a,   R' w = D u + gamma Y Y' u - b.

Two classes use it and share the storage of pairs, the products and the triangular solves. `LBFGS` (bfgs_sqp) works on
chosen rows and returns the products V H V' of which its small QPs are made. `DampedLBFGS` (linearized) applies
(B + t I)^-1 for a t that changes from call to call. docs/design/curved.md says why no more is shared.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from plica.solver.rows import bmm, dot, pick, write

Products = tuple[Tensor, Tensor, Tensor]  # vectors V (r, k, n), S V' and Y V' (r, p, k)
MIN_COSINE = 1e-8  # of the angle between s and y, below which DampedLBFGS rejects a pair


@dataclass
class Pairs:
    """The last p pairs of each row, in slots used in turn; an empty slot holds zeros and adds nothing to H.

    vectors: S in the first p slots, Y in the last p. count: pairs stored so far. Changed in place.
    """

    vectors: Float[Tensor, "r q n"]
    count: Int[Tensor, " r"]

    @staticmethod
    def start(rows: int, like: Float[Tensor, "r n"], capacity: int) -> Pairs:
        """No pairs, with room for `capacity`; dtype, device and n are those of `like`."""
        count = torch.zeros(rows, dtype=torch.long, device=like.device)
        return Pairs(like.new_zeros(rows, 2 * capacity, like.shape[1]), count)

    @property
    def capacity(self) -> int:
        return self.vectors.shape[1] // 2

    @property
    def S(self) -> Float[Tensor, "r p n"]:  # noqa: N802 - the papers' capitals
        return self.vectors[:, : self.capacity]

    @property
    def Y(self) -> Float[Tensor, "r p n"]:  # noqa: N802
        return self.vectors[:, self.capacity :]

    def store(self, rows: Int[Tensor, " s"], s: Float[Tensor, "s n"], y: Float[Tensor, "s n"]) -> Int[Tensor, " s"]:
        """Write one pair for each of the rows in place of its oldest; returns the slots written."""
        capacity, slot = self.capacity, self.count[rows] % self.capacity
        flat = self.vectors.view(-1, self.vectors.shape[2])
        for offset, vectors in ((slot, s), (capacity + slot, y)):
            write(flat, rows * 2 * capacity + offset, vectors)
        self.count[rows] += 1
        return slot

    def age(self, rows: Int[Tensor, " s"] | slice = slice(None)) -> Age:
        """The slots of the given rows, oldest first; empty slots stand where they are, which is harmless."""
        count = self.count[rows]
        start = torch.where(count > self.capacity, count % self.capacity, 0)
        return Age((start[:, None] + torch.arange(self.capacity, device=start.device)) % self.capacity)


@dataclass(frozen=True)
class Age:
    """slots: of each row, from the oldest pair to the newest."""

    slots: Int[Tensor, "r p"]

    def sort(self, products: Float[Tensor, "r p k"]) -> Float[Tensor, "r p k"]:
        """One entry per slot into one entry per age."""
        return products.gather(1, self._expand(self.slots, products))

    def sort_table(self, table: Float[Tensor, "r p p"]) -> Float[Tensor, "r p p"]:
        """Inner products of slots into inner products by age."""
        return self.sort(table).gather(2, self.slots[:, None].expand_as(table))

    def unsort(self, weights: Float[Tensor, "r p k"]) -> Float[Tensor, "r p k"]:
        """One entry per age back into one entry per slot."""
        return weights.gather(1, self._expand(self.slots.argsort(1), weights))

    @staticmethod
    def _expand(slots: Tensor, products: Tensor) -> Tensor:
        return slots[:, :, None].expand(-1, -1, products.shape[2])


class _Triangle:
    """R, the upper triangle of S Y' (pairs by age), and its diagonal D (r, p); an empty slot has 1 in R and 0 in D."""

    def __init__(self, SY: Float[Tensor, "r p p"]):
        self.D = SY.diagonal(dim1=1, dim2=2)
        self.R = SY.triu() + torch.diag_embed((self.D == 0).to(SY))

    def solve(self, right: Float[Tensor, "r p k"]) -> Float[Tensor, "r p k"]:
        """R^-1 right."""
        return torch.linalg.solve_triangular(self.R, right, upper=True)

    def solve_transposed(self, right: Float[Tensor, "r p k"]) -> Float[Tensor, "r p k"]:
        """R'^-1 right."""
        return torch.linalg.solve_triangular(self.R.transpose(1, 2), right, upper=False)


def _products(stored: Float[Tensor, "r q n"], V: Float[Tensor, "r k n"]) -> Float[Tensor, "r q k"]:
    """stored V', taken as the transpose of V stored', which the kernels do faster."""
    return bmm(V, stored.transpose(1, 2)).transpose(1, 2)


def has_curvature(s: Float[Tensor, "r n"], y: Float[Tensor, "r n"]) -> Tensor:
    """Rows whose pair has s.y > 0, so that H stays positive definite.  (r,) bool"""
    return dot(s, y) > torch.finfo(s.dtype).tiny


@dataclass
class LBFGS:
    """H of the given rows, for BFGS-SQP (a `Memory` of bfgs_sqp/memory.py). Changed in place.

    Beside the pairs: SY[i, j] = s_i . y_j for i not younger than j (all that the compact form needs),
    YY[i, j] = y_i . y_j, and gamma.
    """

    pairs: Pairs
    SY: Float[Tensor, "r p p"]
    YY: Float[Tensor, "r p p"]
    gamma: Float[Tensor, " r"]

    @staticmethod
    def start(rows: int, like: Float[Tensor, "r n"], capacity: int) -> LBFGS:
        """H = I for so many rows, with room for `capacity` pairs."""
        SY, YY = (like.new_zeros(rows, capacity, capacity) for _ in range(2))
        return LBFGS(Pairs.start(rows, like, capacity), SY, YY, like.new_ones(rows))

    def reset(self, rows: Int[Tensor, " s"]) -> None:
        """H = I again."""
        for tensor in (self.pairs.vectors, self.pairs.count, self.SY, self.YY):
            tensor[rows] = 0
        self.gamma[rows] = 1

    def update(
        self, rows: Int[Tensor, " s"], s: Float[Tensor, "s n"], y: Float[Tensor, "s n"], G: Float[Tensor, "s k n"]
    ) -> tuple[Float[Tensor, "s k k"], tuple[Tensor, Tensor]]:
        """Store a pair and return the `products` of G after it; rows without curvature keep what they had.

        The pairs are read once for both, since reading them is what costs.
        """
        p, good = self.pairs.capacity, has_curvature(s, y)
        new = rows[good]
        slot = self.pairs.store(new, *((s, y) if bool(good.all()) else (pick(s, good), pick(y, good))))
        stored = self._stored(rows)
        products = _products(stored, torch.cat([y[:, None], G], 1))
        of_y = products[good, :, 0]
        self.SY[new, :, slot] = of_y[:, :p]
        self.YY[new, :, slot], self.YY[new, slot] = of_y[:, p:], of_y[:, p:]
        self.gamma[new] = self.SY[new, slot, slot] / self.YY[new, slot, slot]
        return self._gram(rows, G, products[:, :, 1:], stored)

    def products(
        self, rows: Int[Tensor, " s"], G: Float[Tensor, "s k n"]
    ) -> tuple[Float[Tensor, "s k k"], tuple[Tensor, Tensor]]:
        """G H G', and what `combine` needs to take H g for a combination g of G."""
        stored = self._stored(rows)
        return self._gram(rows, G, _products(stored, G), stored)

    def combine(
        self, rows: Int[Tensor, " s"], w: Float[Tensor, "s k"], g: Float[Tensor, "s n"], parts: tuple[Tensor, Tensor]
    ) -> Float[Tensor, "s n"]:
        """H g for g = w G, with the parts that came with the products of G."""
        weights, stored = parts
        mixed = bmm(bmm(weights, w[:, :, None]).transpose(1, 2), stored)[:, 0]
        return mixed.addcmul_(g, self.gamma[rows, None])

    def scale(self, rows: Int[Tensor, " s"]) -> Float[Tensor, " s"]:
        """sqrt(gamma), where it is small: at a kink gamma falls to 0 and every direction with it, stationary or not."""
        return self.gamma[rows].clamp(max=1).sqrt()

    def _stored(self, rows: Tensor) -> Float[Tensor, "s q n"]:
        """The pairs of the given rows; copied once for all products, unless these are all rows."""
        vectors = self.pairs.vectors
        return vectors if len(rows) == len(vectors) else pick(vectors, rows)

    def _gram(self, rows: Tensor, G: Tensor, of_pairs: Tensor, stored: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """G H G' and, for `combine`, the weights of the stored pairs in H G' and the pairs, from `of_pairs` = stored
        G'."""
        p, gamma, age = self.pairs.capacity, self.gamma[rows, None, None], self.pairs.age(rows)
        a, b = age.sort(of_pairs[:, :p]), gamma * age.sort(of_pairs[:, p:])
        triangle, YY = _Triangle(age.sort_table(self.SY[rows])), age.sort_table(self.YY[rows])
        u = triangle.solve(a)
        w = triangle.solve_transposed(triangle.D[:, :, None] * u + gamma * bmm(YY, u) - b)
        gram = gamma * bmm(G, G.transpose(1, 2)) + bmm(a.transpose(1, 2), w) - bmm(b.transpose(1, 2), u)
        weights = torch.cat([age.unsort(w), -gamma * age.unsort(u)], 1)
        return (gram + gram.transpose(1, 2)) / 2, (weights, stored)


@dataclass
class DampedLBFGS:
    """(B + t I)^-1 for any damping t, from pairs of B alone. Changed in place.

    A pair (s, y) of B is the pair (s, y + t s) of B + t I, so that t can change and no pair is lost: the inner products
    s.s, s.y and y.y give those of the damped pairs. They are kept in float64, as the damped ones are sums of terms that
    may cancel.
    """

    pairs: Pairs
    SS: Float[Tensor, "r p p"]
    SY: Float[Tensor, "r p p"]
    YY: Float[Tensor, "r p p"]

    @staticmethod
    def start(rows: int, like: Float[Tensor, "r n"], capacity: int) -> DampedLBFGS:
        """No pairs, for so many rows, with room for `capacity`: the identity, whatever t."""
        SS, SY, YY = (like.new_zeros(rows, capacity, capacity, dtype=torch.float64) for _ in range(3))
        return DampedLBFGS(Pairs.start(rows, like, capacity), SS, SY, YY)

    def update(self, s: Float[Tensor, "r n"], y: Float[Tensor, "r n"], *vectors: Float[Tensor, "r n"]) -> Products:
        """Store a pair in place of the oldest and return the `products` of the vectors with all pairs after it.

        Rows without curvature, s.y > 0, keep what they had. S and Y are read once for all of it: reading is what costs.
        """
        V = torch.stack([s, y, *vectors], 1)
        _, of_S, of_Y = self._products(V)
        gram = bmm(V, V.transpose(1, 2)).double()
        rows = (gram[:, 0, 1] > MIN_COSINE * (gram[:, 0, 0] * gram[:, 1, 1]).sqrt()).nonzero()[:, 0]
        slot = self.pairs.store(rows, s[rows], y[rows])
        of_S[rows, slot], of_Y[rows, slot] = gram[rows, 0], gram[rows, 1]
        for table, column, row in (
            (self.SS, of_S[:, :, 0], of_S[:, :, 0]),
            (self.SY, of_S[:, :, 1], of_Y[:, :, 0]),
            (self.YY, of_Y[:, :, 1], of_Y[:, :, 1]),
        ):
            table[rows, :, slot], table[rows, slot] = column[rows], row[rows]
        return V[:, 2:], of_S[:, :, 2:], of_Y[:, :, 2:]

    def products(self, *vectors: Float[Tensor, "r n"]) -> Products:
        """The vectors, and their inner products with the pairs, which `solve` needs."""
        return self._products(torch.stack(vectors, 1))

    def solve(self, products: Products, t: Float[Tensor, " r"]) -> Float[Tensor, "r k n"]:
        """(B + t)^-1 V for the k vectors V of which the products are given."""
        V = products[0]
        gamma, of_s, of_y = self._weights(products, t)
        out = gamma.to(V) * V
        out += bmm(of_s.to(V).transpose(1, 2), self.pairs.S)
        out += bmm(of_y.to(V).transpose(1, 2), self.pairs.Y)
        return out

    def along(self, g: Float[Tensor, "r n"]) -> Float[Tensor, " r"]:
        """g.g / g.B^-1 g: the curvature along g, by the pairs."""
        products = self.products(g)
        gamma, of_s, of_y = self._weights(products, torch.zeros_like(g[:, 0]))
        square = dot(g, g)
        inverse = gamma[:, 0, 0] * square + (of_s * products[1] + of_y * products[2]).sum((1, 2))
        return (square / inverse.clamp(min=1e-30)).to(g)

    def _products(self, V: Float[Tensor, "r k n"]) -> Products:
        return V, _products(self.pairs.S, V).double(), _products(self.pairs.Y, V).double()

    def _weights(self, products: Products, t: Float[Tensor, " r"]) -> tuple[Tensor, Tensor, Tensor]:
        """gamma (r, 1, 1), and the weights (r, p, k) of S and Y in (B + t)^-1 V' = gamma V' + S' .. + Y' .."""
        _, of_S, of_Y = products
        count, t, age = self.pairs.count, t.double()[:, None, None], self.pairs.age()
        SS, SY, YY = (age.sort_table(table) for table in (self.SS, self.SY, self.YY))
        of_S = age.sort(of_S)
        of_Y = age.sort(of_Y) + t * of_S
        YY = YY + t * (SY + SY.transpose(1, 2)) + t**2 * SS
        triangle = _Triangle(SY + t * SS)
        newest = (count.clamp(max=self.pairs.capacity) - 1).clamp(min=0)[:, None]
        gamma = (triangle.D.gather(1, newest) / YY.diagonal(dim1=1, dim2=2).gather(1, newest))[:, 0]
        gamma = torch.where(count == 0, 1.0, gamma)[:, None, None]
        u = triangle.solve(of_S)
        w = triangle.solve_transposed(triangle.D[:, :, None] * u + gamma * (bmm(YY, u) - of_Y))
        return gamma, age.unsort(w - gamma * t * u), age.unsort(-gamma * u)
