"""The solver alone: min f(x) s.t. c(x) <= 0, h(x) = 0 for any functions written in torch."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import replace
from numbers import Real

import torch
from jaxtyping import Float
from torch import Tensor

from plica.solver.bfgs_sqp.solver import BFGSSQP
from plica.solver.bfgs_sqp.state import Solution
from plica.solver.bfgs_sqp.stationarity import Stationarity
from plica.solver.problem import Autograd, Written

PATIENCE = 100  # steps without a change of f beyond rounding
FINEST = {torch.float64: 1e-12, torch.float32: 1e-5}  # below these, rounding of f and its gradients decides


def minimize(
    fun: Written,
    x0: Float[Tensor, "*b n"],
    *,
    data: Sequence[Tensor] = (),
    tol: float = 1e-6,
    max_steps: int = 1000,
    memory: int | None = None,
) -> Solution:
    """Minimise f subject to c <= 0 and h = 0, from x0, by BFGS-SQP (Curtis, Mitchell, Overton 2017).

    The rows of a batch are separate problems, solved at the same time; `data` gives each its own numbers::

        plica.minimize(lambda x, centre: ((x - centre) ** 2).sum(1), torch.zeros(100, 3), data=[centres])

    Args:
        fun: a function of x (b, n) that returns f (b,), or (f, c), or (f, c, h). The constraints are c (b, m) <= 0 and
            h (b, k) = 0; c may be None. It is written in torch, differentiable almost everywhere, and must not mix
            rows.
        data: tensors with an entry for each problem, the leading axis b (none for one problem alone): fun is called as
            fun(x, *data) with the entries of its rows.
        x0: (n,) for one problem or (b, n) for b of them, float32 or float64.
        tol: tolerance of the measure of stationarity and of the largest violation. At least 1e-12 in float64 and 1e-5
            in float32; a smaller one is raised to that.
        max_steps: most steps of each problem; a step takes one or more evaluations.
        memory: pairs of limited-memory BFGS; None keeps a dense matrix up to 200 unknowns and 10 pairs beyond.

    Returns:
        A solution whose x, f, violation, stationarity, steps, evaluations and status have the leading axis that x0 has;
        x is the best feasible point seen (violation <= tol), else the least violated one.

    Raises:
        TypeError: x0 is no tensor of float32 or float64.
        ValueError: x0 has another shape or is not finite, a number is out of its range, or f or a constraint that
            changes with x has no gradient with respect to x.
    """
    if not isinstance(x0, Tensor) or x0.dtype not in FINEST:
        kind = x0.dtype if isinstance(x0, Tensor) else type(x0).__name__
        raise TypeError(
            f"x0 must be a float32 or float64 tensor, got {kind}; convert it with torch.as_tensor(x0, dtype=...)."
        )
    if x0.ndim not in (1, 2) or 0 in x0.shape:
        raise ValueError(
            f"x0 must have shape (n,) or (b, n) with n, b >= 1, got {tuple(x0.shape)}; see Variables for others."
        )
    if not bool(x0.isfinite().all()):
        raise ValueError("x0 must be finite; it contains nan or inf. Start from finite numbers.")
    steps, pairs = _whole(max_steps), None if memory is None else _whole(memory)
    if not isinstance(tol, Real | Tensor) or not tol > 0 or steps < 1 or (pairs is not None and pairs < 1):
        raise ValueError(
            f"tol > 0 and whole numbers max_steps >= 1 and memory >= 1 are needed, got {tol}, {max_steps} and {memory}."
        )
    rows = x0 if x0.ndim == 2 else x0[None]
    for number, part in enumerate(data):
        if not isinstance(part, Tensor) or (x0.ndim == 2 and (not part.ndim or len(part) != len(x0))):
            seen = f"shape {tuple(part.shape)}" if isinstance(part, Tensor) else type(part).__name__
            raise ValueError(
                f"data[{number}] must be a tensor with an entry for each of the {len(rows)} problems, got {seen}."
            )
    parts = tuple(part if x0.ndim == 2 else part[None] for part in data)
    tol = max(tol, FINEST[x0.dtype])
    least = 100 * torch.finfo(x0.dtype).eps
    measure = Stationarity(radius=tol)
    solver = BFGSSQP(tol=tol, max_steps=steps, memory=pairs, patience=PATIENCE, progress=least, measure=measure)
    solution = solver.solve(Autograd.of(fun, rows, parts), rows.detach())
    if x0.ndim == 2:
        return solution
    return replace(solution, **{k: v[0] for k, v in vars(solution).items()})


def _whole(value: object) -> int:
    """A whole number of any type as an int; 0 for anything else."""
    try:
        return 0 if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type] - anything may come
    except (TypeError, RuntimeError):
        return 0
