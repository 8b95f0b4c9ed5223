"""The problem that the solver solves: many independent rows  min f(x)  s.t.  c(x) <= 0,  h(x) = 0.

The solver evaluates values and gradients at one point per row (an `Evaluation`) and uses nothing else of the problem.
Equations are those of "Optimizers Matter in Adversarial Robustness" (Liang et al. 2023), Eq. (5).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from plica.solver.rows import aligned


@dataclass
class Evaluation:
    """Values and gradients at one point per row. The solver keeps the last ones of each row in such a record.

    values: (r, 1 + m), the objective f first, then the m constraints, of which the last `equalities` are h(x) = 0 and
        the others c(x) <= 0.
    grads: (r, 1 + m, n), their gradients in the same order.
    done: (r,) bool, rows that need not go on, such as those with a point that is good enough; None for none.
    """

    values: Float[Tensor, "r k"]
    grads: Float[Tensor, "r k n"]
    equalities: int = 0
    done: Bool[Tensor, " r"] | None = None

    @property
    def f(self) -> Float[Tensor, " r"]:
        return self.values[:, 0]

    @property
    def c(self) -> Float[Tensor, "r m"]:
        return self.values[:, 1:]

    @property
    def violations(self) -> Float[Tensor, "r m"]:
        """max(c, 0) for inequalities, |h| for equalities."""
        c, split = self.c, self.c.shape[1] - self.equalities
        return torch.cat([c[:, :split].clamp(min=0), c[:, split:].abs()], 1)

    @property
    def finite(self):
        """Rows whose values and gradients are all finite.  (r,) bool"""
        # a sum is finite unless an entry is not (or it overflows, which is as bad)
        return self.values.sum(1).isfinite() & self.grads.sum((1, 2)).isfinite()


@runtime_checkable
class Problem(Protocol):
    """b independent problems, of which those with the numbers `rows` (r,) are evaluated at the points `x` (r, n).

    constraints: m; equalities: how many of them, the last ones, are h(x) = 0.
    """

    @property
    def constraints(self) -> int: ...

    @property
    def equalities(self) -> int: ...

    def __call__(self, x: Float[Tensor, "r n"], rows: Int[Tensor, " r"], /) -> Evaluation: ...


@dataclass(frozen=True)
class Aligned:
    """A problem of n unknowns, followed by unused ones up to a multiple of rows.ALIGN."""

    problem: Problem
    n: int

    @property
    def constraints(self) -> int:
        return self.problem.constraints

    @property
    def equalities(self) -> int:
        return self.problem.equalities

    def __call__(self, x: Tensor, rows: Tensor) -> Evaluation:
        at = self.problem(x[:, : self.n].contiguous(), rows)
        return replace(at, grads=aligned(at.grads))


Written = Callable[..., "Tensor | tuple[Tensor, ...]"]  # of x and the rows of data
LOOPED = 16  # columns up to which there is a backward pass for each


@dataclass(frozen=True)
class Autograd:
    """A problem written in torch: fun(x (r, n), *data) -> f (r,), or (f, c), or (f, c, h), each row by itself.

    data: tensors with an entry for each problem, of which fun is given those of its rows.
    Rows do not mix, so the gradient of a column's sum holds every row's gradient. One backward pass per column; with
    more than LOOPED columns one for all of them together, where every operation of fun can be vectorised so.
    """

    fun: Written
    constraints: int
    equalities: int
    data: tuple[Tensor, ...] = ()

    @classmethod
    def of(cls, fun: Written, x0: Float[Tensor, "b n"], data: tuple[Tensor, ...] = ()) -> Autograd:
        """The problem that `fun` states; its numbers of constraints are those of its value at one row of x0.

        Raises:
            ValueError: f or a constraint changes with x, but is cut off from it.
        """
        first = [part[:1] for part in data]
        with torch.enable_grad():
            z = x0[:1].detach().clone().requires_grad_(True)
            out = fun(z, *first)
            values, equalities = cls._columns(out, z)
            parts = out if isinstance(out, tuple | list) else (out,)
            cut = [k for k, part in enumerate(parts) if part is not None and not _depends(part, z)]
        if cut:
            with torch.no_grad():
                beside = fun(z.detach() * 1.001 + 0.001, *first)
            others = beside if isinstance(beside, tuple | list) else (beside,)
            for k in cut:
                if not torch.equal(others[k].nan_to_num(), parts[k].nan_to_num()):  # it is no constant
                    raise ValueError(
                        f"fun must return {'fch'[k]} with a gradient with respect to x, but it is cut off from x "
                        "(no_grad, inference_mode, .detach() and numpy do so); compute it from x in torch."
                    )
        return cls(fun, values.shape[1] - 1, equalities, data)

    def __call__(self, x: Tensor, rows: Tensor) -> Evaluation:
        with torch.enable_grad():
            z = x.detach().requires_grad_(True)
            values, equalities = self._columns(self.fun(z, *(part[rows] for part in self.data)), z)
            grads = self._gradients(values, z)
        return Evaluation(values.detach(), grads, equalities)

    @classmethod
    def _gradients(cls, values: Float[Tensor, "r k"], z: Float[Tensor, "r n"]) -> Float[Tensor, "r k n"]:
        k = values.shape[1]
        if k > LOOPED and values.requires_grad:
            columns = torch.eye(k, dtype=values.dtype, device=values.device)
            try:
                (grads,) = torch.autograd.grad(
                    values.sum(0), z, columns, retain_graph=True, is_grads_batched=True, allow_unused=True
                )
                return z.new_zeros(len(z), k, z.shape[1]) if grads is None else grads.movedim(0, 1).contiguous()
            except (RuntimeError, NotImplementedError):  # an operation without a vectorised derivative
                pass
        return torch.stack([cls._gradient(values[:, j], z) for j in range(k)], 1)

    @staticmethod
    def _gradient(column: Tensor, z: Tensor) -> Tensor:
        if not column.requires_grad:  # a constant column
            return torch.zeros_like(z)
        (grad,) = torch.autograd.grad(column.sum(), z, retain_graph=True, allow_unused=True)
        return torch.zeros_like(z) if grad is None else grad

    @staticmethod
    def _columns(out: Any, z: Tensor) -> tuple[Tensor, int]:
        parts = out if isinstance(out, tuple | list) else (out,)
        if not 1 <= len(parts) <= 3:
            raise ValueError(f"fun must return f, (f, c) or (f, c, h), got {len(parts)} values.")
        columns = []
        for name, part in zip("fch", parts, strict=False):
            if part is None:
                continue
            if not isinstance(part, Tensor):
                raise TypeError(f"fun must return tensors, got {type(part).__name__} for {name}.")
            shape = (len(z),) if name == "f" else (len(z), part.shape[-1] if part.ndim == 2 else "m")
            if tuple(part.shape) != shape:
                raise ValueError(
                    f"fun must return {name} of shape {shape} for x of shape {tuple(z.shape)}, got {tuple(part.shape)}."
                )
            part = part.to(z.dtype)  # fun may compute in another precision
            columns.append(part[:, None] if name == "f" else part)
        equalities = parts[2].shape[1] if len(parts) == 3 and parts[2] is not None else 0
        return torch.cat(columns, 1), equalities


def _depends(part: Tensor, z: Tensor) -> bool:
    """Whether autograd leads from a part of what fun returns to z."""
    if not part.requires_grad:
        return False
    return torch.autograd.grad(part.sum(), z, retain_graph=True, allow_unused=True)[0] is not None
