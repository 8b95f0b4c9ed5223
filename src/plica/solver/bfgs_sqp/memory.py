"""The inverse Hessian H of the penalty, updated by BFGS: dense here for few unknowns, limited memory (solver/lbfgs.py)
for many.

Both are updated with a step s and the change y of the gradient along it. For gradients G (r, k, n) they give the
products G H G' (r, k, k), which are the data of every small QP, and H g (r, n) for one combination g = w G. With the
products computed first, n-vectors are read only twice per step, however many QPs are solved in between.

One object contains H of all live rows; `rows` are the indices of those that a call reads or updates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from plica.solver.lbfgs import has_curvature
from plica.solver.rows import bmm, dot


@runtime_checkable
class Memory(Protocol):
    """What the solver needs of H. `parts` are intermediate results of `products` or `update`, for use by `combine`."""

    def reset(self, rows: Int[Tensor, " s"]) -> None: ...

    def update(self, rows: Int[Tensor, " s"], s: Tensor, y: Tensor, G: Tensor) -> tuple[Tensor, Any]: ...

    def products(self, rows: Int[Tensor, " s"], G: Tensor) -> tuple[Tensor, Any]: ...

    def combine(self, rows: Int[Tensor, " s"], w: Tensor, g: Tensor, parts: Any) -> Tensor: ...

    def scale(self, rows: Int[Tensor, " s"]) -> Tensor | float: ...


@dataclass
class Dense:
    """H itself, an n x n matrix per row; before the first update H = I is scaled by s.y / y.y. Changed in place.

    fresh: rows before their first update.
    """

    H: Float[Tensor, "r n n"]
    fresh: Bool[Tensor, " r"]

    @staticmethod
    def start(rows: int, like: Float[Tensor, "r n"]) -> Dense:
        eye = torch.eye(like.shape[1], dtype=like.dtype, device=like.device)
        return Dense(eye.repeat(rows, 1, 1), torch.ones(rows, dtype=torch.bool, device=like.device))

    def reset(self, rows: Int[Tensor, " s"]) -> None:
        self.H[rows] = torch.eye(self.H.shape[1], dtype=self.H.dtype, device=self.H.device)
        self.fresh[rows] = True

    def update(
        self, rows: Int[Tensor, " s"], s: Float[Tensor, "s n"], y: Float[Tensor, "s n"], G: Float[Tensor, "s k n"]
    ) -> tuple[Float[Tensor, "s k k"], Tensor]:
        """The BFGS update, in place, and the products of G after it. Rows without curvature, s.y > 0, do not change."""
        good = has_curvature(s, y)
        if bool(good.any()):
            self._update(rows[good], s[good], y[good])
        return self.products(rows, G)

    def _update(self, rows: Tensor, s: Tensor, y: Tensor) -> None:
        sy, H = dot(s, y), self.H[rows]
        first = (sy / dot(y, y))[:, None, None] * torch.eye(s.shape[1], dtype=s.dtype, device=s.device)
        H = torch.where(self.fresh[rows][:, None, None], first, H)
        # as a product, which stays positive definite under rounding; the expanded sum might not
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
        """H g for g = w G. parts: those returned with the products of G."""
        return bmm(w[:, None], parts)[:, 0]

    def scale(self, rows: Int[Tensor, " s"]) -> float:
        """The length of a direction is divided by this before it is compared with a tolerance."""
        return 1.0
