"""What a reference problem is, and how one is written down.

minimise f(x) subject to c(x) <= 0 and h(x) = 0, with the optimum known beforehand: a record, nothing to inherit from.
Used by `hock_schittkowski`, `nonsmooth` and `references`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite

import torch
from jaxtyping import Float
from torch import Tensor

# What `plica.minimize` takes: f (b,), or (f, c), or (f, c, h), with c (b, m) or None and h (b, k).
Values = Tensor | tuple[Tensor, Tensor | None] | tuple[Tensor, Tensor | None, Tensor]
Fun = Callable[[Tensor], Values]


@dataclass(frozen=True)
class Reference:
    """A problem and its answer.

    `f_star` is the least value of f over the feasible set; descent from `x0` finds it even where f is not convex.
    `x_star` is given where it has a closed form.
    """

    name: str
    fun: Fun
    x0: tuple[float, ...]
    f_star: float
    source: str
    kind: str  # "smooth" or "nonsmooth"
    x_star: tuple[float, ...] | None = None

    def start(self, dtype: torch.dtype = torch.float64) -> Float[Tensor, " n"]:
        return torch.tensor(self.x0, dtype=dtype)


@dataclass(frozen=True)
class Hopeless:
    """A problem without an answer: nothing is feasible, or f falls for ever.

    `violation` is the smallest that the largest violation can be (0 where f is unbounded below on the feasible set).
    The point that attains it also minimises the sum of the violations, so that every solver has the same target.
    """

    name: str
    fun: Fun
    x0: tuple[float, ...]
    violation: float = 0.0

    def start(self, dtype: torch.dtype = torch.float64) -> Float[Tensor, " n"]:
        return torch.tensor(self.x0, dtype=dtype)


def parts(values: Values) -> tuple[Tensor, Tensor, Tensor]:
    """f (b,), c (b, m), h (b, k), with m or k zero where the problem has none."""
    f, *rest = values if isinstance(values, tuple) else (values,)
    c, h = [*rest, None, None][:2]
    none = f.new_zeros(len(f), 0)
    return f, none if c is None else c, none if h is None else h


def violation(values: Values) -> Float[Tensor, " b"]:
    """max(0, max c, max |h|): the largest amount by which a constraint is missed."""
    f, c, h = parts(values)
    return torch.cat([f.new_zeros(len(f), 1), c, h.abs()], dim=1).amax(dim=1)


def join(*entries: Tensor) -> Float[Tensor, "b m"]:
    """Constraints side by side: each entry is one of them (b,), or several (b, any)."""
    return torch.cat([entry.reshape(len(entry), -1) for entry in entries], dim=1)


Bound = float | Sequence[float]


def box(x: Float[Tensor, "b n"], lower: Bound, upper: Bound) -> Float[Tensor, "b m"]:
    """lower <= x <= upper as columns that are <= 0; infinite bounds are left out."""
    n = x.shape[1]
    low = [lower] * n if isinstance(lower, int | float) else list(lower)
    high = [upper] * n if isinstance(upper, int | float) else list(upper)
    below = [low[i] - x[:, i] for i in range(n) if isfinite(low[i])]
    above = [x[:, i] - high[i] for i in range(n) if isfinite(high[i])]
    return join(*below, *above)


def largest(*pieces: Tensor) -> Float[Tensor, " b"]:
    """The pointwise maximum; its gradient at a tie is the mean of the tied ones, which is a subgradient."""
    return torch.stack(pieces, dim=-1).amax(dim=-1)
