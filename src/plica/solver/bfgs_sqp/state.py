"""The state of BFGS-SQP for live rows, and the results of finished ones."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from plica.solver.bfgs_sqp.linesearch import Search
from plica.solver.bfgs_sqp.memory import Memory
from plica.solver.bfgs_sqp.stationarity import Samples
from plica.solver.bfgs_sqp.status import Stop
from plica.solver.problem import Evaluation
from plica.solver.rows import pick, write

STOPS = tuple(Stop)
RUNNING = -1


@dataclass(frozen=True)
class Solution:
    """The result of `minimize`: one entry per problem; without the leading axis if x0 has none.

    Attributes:
        x: the best feasible point evaluated (violation <= tol), else the one with the smallest violation.
        f: the objective at x.
        violation: the largest violation of a constraint at x.
        stationarity: the measure of Eq. (29-30) at the last point.
        steps: accepted steps.
        evaluations: of fun and its gradients.
        status: why the solver stopped.
    """

    x: Float[Tensor, "*b n"]
    f: Float[Tensor, "*b"]
    violation: Float[Tensor, "*b"]
    stationarity: Float[Tensor, "*b"]
    steps: Int[Tensor, "*b"]
    evaluations: Int[Tensor, "*b"]
    status: list[Stop] | Stop


@dataclass
class Best:
    """The best point of each row so far: feasible before infeasible, then with smaller f or smaller violation."""

    x: Float[Tensor, "r n"]
    f: Float[Tensor, " r"]
    violation: Float[Tensor, " r"]

    def note(self, x: Tensor, at: Evaluation, finite: Tensor, tol: float) -> None:
        """Replace the best points of the rows where x is better, in place."""
        violation = at.violations.amax(1) if at.c.shape[1] else torch.zeros_like(at.f)
        feasible, was = violation <= tol, self.violation <= tol
        better = torch.where(feasible, ~was | (at.f < self.f), ~was & (violation < self.violation)) & finite
        rows = better.nonzero()[:, 0]
        write(self.x, rows, pick(x, rows))
        self.f[rows], self.violation[rows] = at.f[rows], violation[rows]


@dataclass
class State:
    """Everything that changes, one entry per live row."""

    row: Int[Tensor, " r"]
    x: Float[Tensor, "r n"]
    at: Evaluation
    mu: Float[Tensor, " r"]
    w: Float[Tensor, "r k"]  # multipliers (mu, lam) of the direction
    lagrangian: Float[Tensor, "r n"]  # the gradient w G
    d: Float[Tensor, "r n"]
    search: Search
    memory: Memory
    samples: Samples
    best: Best
    rung: Int[Tensor, " r"]  # fallbacks since the last accepted step: 0 none, 1 H = I, 2 steepest descent
    steps: Int[Tensor, " r"]
    evaluations: Int[Tensor, " r"]
    stationarity: Float[Tensor, " r"]
    landmark: Float[Tensor, " r"]  # best f when it last improved by more than `progress`
    since: Int[Tensor, " r"]  # steps since then
    worst: Float[Tensor, " r"]  # smallest violation when it was last halved, or mu lowered by _insist
    late: Int[Tensor, " r"]  # steps since then
    stop: Int[Tensor, " r"]  # index into STOPS, or RUNNING


class Collected:
    """The results of finished rows, in the order of the problems."""

    def __init__(self, x0: Tensor):
        b, number = len(x0), x0.new_zeros(len(x0))
        self.x, self.f, self.violation, self.stationarity = x0.clone(), number.clone(), number.clone(), number.clone()
        self.steps, self.evaluations = (torch.zeros(b, dtype=torch.long, device=x0.device) for _ in range(2))
        self.status = [Stop.NOT_FINITE] * b

    def collect(self, s: State) -> None:
        self.x[s.row], self.f[s.row], self.violation[s.row] = s.best.x, s.best.f, s.best.violation
        self.stationarity[s.row], self.steps[s.row], self.evaluations[s.row] = s.stationarity, s.steps, s.evaluations
        for row, stop in zip(s.row.tolist(), s.stop.tolist(), strict=True):
            self.status[row] = STOPS[stop]

    def finish(self) -> Solution:
        return Solution(self.x, self.f, self.violation, self.stationarity, self.steps, self.evaluations, self.status)
