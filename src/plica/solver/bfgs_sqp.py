"""BFGS-SQP for nonsmooth constrained problems, many at once (Curtis, Mitchell, Overton 2017; Algorithm 2 of Liang et al. 2023).

Each tick asks the problem once, for all live rows, each at its own place in its own line search. Rows whose search accepted a
step learn from it and start the next search; rows that are done leave, and rows that wait take their places.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from plica.solver import penalty
from plica.solver.linesearch import Search, Verdict, WeakWolfe
from plica.solver.memory import Dense, Limited
from plica.solver.problem import Evaluation, Problem
from plica.solver.rows import join, put, take
from plica.solver.stationarity import Samples, Stationarity
from plica.solver.status import Stop
from plica.solver.steering import Steering

DENSE_UP_TO = 200  # unknowns up to which a dense H is kept when `memory` is not given
PAIRS = 10  # of limited memory otherwise
STOPS = tuple(Stop)
RUNNING = -1


@dataclass(frozen=True)
class Solution:
    """One entry per row. x is the best feasible point seen (violation <= tol), else the least violated one."""

    x: Float[Tensor, "b n"]
    f: Float[Tensor, " b"]
    violation: Float[Tensor, " b"]
    stationarity: Float[Tensor, " b"]
    steps: Int[Tensor, " b"]
    evaluations: Int[Tensor, " b"]
    status: list[Stop]


@dataclass(frozen=True)
class Best:
    """The best point of each row so far, by the order of `better`."""

    x: Float[Tensor, "r n"]
    f: Float[Tensor, " r"]
    violation: Float[Tensor, " r"]

    def note(self, x: Tensor, at: Evaluation, tol: float) -> None:
        """Write in place the rows of x that beat the best: feasible before infeasible, then smaller f or smaller violation."""
        violation = at.violations.amax(1) if at.c.shape[1] else torch.zeros_like(at.f)
        feasible, was = violation <= tol, self.violation <= tol
        better = torch.where(feasible, ~was | (at.f < self.f), ~was & (violation < self.violation)) & at.finite
        rows = better.nonzero()[:, 0]
        self.x[rows], self.f[rows], self.violation[rows] = x[rows], at.f[rows], violation[rows]


@dataclass(frozen=True)
class State:
    """Everything that changes, one entry per live row."""

    row: Int[Tensor, " r"]
    x: Float[Tensor, "r n"]
    at: Evaluation
    mu: Float[Tensor, " r"]
    d: Float[Tensor, "r n"]
    search: Search
    memory: Dense | Limited
    samples: Samples
    best: Best
    rung: Int[Tensor, " r"]  # of the ladder of fallbacks: 0 none, 1 after H = I, 2 after steepest descent
    steps: Int[Tensor, " r"]
    evaluations: Int[Tensor, " r"]
    stationarity: Float[Tensor, " r"]
    landmark: Float[Tensor, " r"]  # best f when progress was last made
    since: Int[Tensor, " r"]  # steps since then
    stop: Int[Tensor, " r"]  # index into STOPS, or RUNNING


@dataclass(frozen=True)
class BFGSSQP:
    """Hyper-parameters. The published values are the defaults of the parts.

    tol: of the stationarity (Eq. 30) and of the largest violation. mu: first penalty parameter. memory: pairs of limited
    memory, None for a dense H up to 200 unknowns and 10 pairs beyond. patience: stop a feasible row after so many steps without a
    relative improvement of f by `progress`; None never does. abyss: a feasible f below -abyss counts as unbounded.
    """

    tol: float = 1e-6
    max_steps: int = 1000
    max_evaluations: int | None = None
    mu: float = 1.0
    memory: int | None = None
    patience: int | None = None
    progress: float = 1e-3
    abyss: float = 1e12
    steering: Steering = field(default_factory=Steering)
    search: WeakWolfe = field(default_factory=WeakWolfe)
    measure: Stationarity = field(default_factory=Stationarity)

    def solve(self, problem: Problem, x0: Float[Tensor, "b n"], batch_size: int | None = None) -> Solution:
        """Solve all rows, at most `batch_size` of them live at a time."""
        b = len(x0)
        size = min(batch_size or b, b)
        waiting = torch.arange(b, device=x0.device)
        live, waiting = self._enter(problem, x0, waiting[:size]), waiting[size:]
        solution = _Collected(x0)
        while len(live.row):
            self._tick(problem, live)
            done = live.stop != RUNNING
            if bool(done.any()):
                solution.collect(take(live, done.nonzero()[:, 0]))
                live, room = take(live, (~done).nonzero()[:, 0]), int(done.sum())
                if len(waiting):
                    live, waiting = join(live, self._enter(problem, x0, waiting[:room])), waiting[room:]
        return solution.finish()

    def _enter(self, problem: Problem, x0: Tensor, rows: Tensor) -> State:
        """Fresh rows: a search from phi = inf along d = 0, so that their first tick evaluates the start and accepts it."""
        x = x0[rows].clone()
        r, k = len(x), 1 + problem.constraints
        zero, count = x.new_zeros(r), torch.zeros_like(rows)
        grads = x.new_zeros(r, k, x.shape[1])
        return State(
            row=rows, x=x, at=Evaluation(x.new_zeros(r, k), grads, problem.equalities), mu=zero + self.mu,
            d=torch.zeros_like(x), search=self.search.start(zero + torch.inf, zero),
            memory=self._memory(r, x), samples=Samples.start(r, self.measure.keep, grads),
            best=Best(x.clone(), zero + torch.inf, zero + torch.inf), rung=count.clone(), steps=count.clone(),
            evaluations=count.clone(), stationarity=zero + torch.inf, landmark=zero + torch.inf, since=count.clone(),
            stop=count + RUNNING,
        )  # fmt: skip

    def _memory(self, rows: int, like: Tensor) -> Dense | Limited:
        if self.memory is None and like.shape[1] <= DENSE_UP_TO:
            return Dense.start(rows, like)
        return Limited.start(rows, like, self.memory or PAIRS)

    def _tick(self, problem: Problem, live: State) -> None:
        """One evaluation per live row, and what follows from it, written into `live`."""
        x = torch.addcmul(live.x, live.search.t[:, None], live.d)
        at = problem(x, live.row)
        live.evaluations.add_(1)
        live.best.note(x, at, self.tol)
        phi, slope = penalty.value(at, live.mu), penalty.slope(at, live.d, live.mu)
        phi = torch.where(at.finite & phi.isfinite(), phi, torch.inf)
        live.stop[(live.steps == 0) & phi.isinf()] = STOPS.index(Stop.NOT_FINITE)
        at = replace(at, done=None) if at.done is None else at
        put(live.search, slice(None), self.search.step(live.search, phi, slope))
        verdict = torch.where(live.stop == RUNNING, live.search.verdict, -1)
        for which, then in (
            (verdict == Verdict.ACCEPTED, self._accept),
            (verdict == Verdict.FAILED, self._fall_back),
            (verdict == Verdict.NO_UPPER_END, self._run_away),
        ):
            rows = which.nonzero()[:, 0]
            if len(rows):
                put(live, rows, then(take(live, rows), x[rows], take(at, rows)))
        if at.done is not None:
            live.stop[at.done] = STOPS.index(Stop.ANSWERED)
        if self.max_evaluations is not None:
            live.stop[(live.stop == RUNNING) & (live.evaluations >= self.max_evaluations)] = STOPS.index(Stop.BUDGET)

    def _accept(self, s: State, x: Tensor, at: Evaluation) -> State:
        """Learn from the step to x and choose the next direction."""
        y = penalty.gradient(at, s.mu) - penalty.gradient(s.at, s.mu)
        s = replace(s, x=x, at=at, rung=torch.zeros_like(s.rung), steps=s.steps + 1,
                    memory=s.memory.update(x - s.x, y), samples=s.samples.add(x, at.grads))  # fmt: skip
        ahead = s.best.f < s.landmark - self.progress * s.landmark.abs().nan_to_num(posinf=0.0)
        s = replace(s, landmark=torch.where(ahead, s.best.f, s.landmark), since=torch.where(ahead, 0, s.since + 1))
        return self._judge(self._aim(s))

    def _aim(self, s: State) -> State:
        """The direction by steering, and a search along it."""
        P, parts = s.memory.products(s.at.grads)
        P = P.double()
        w, mu = self.steering(s.at.c.double(), s.at.equalities, P, s.mu.double())
        w, mu = w.to(s.mu), mu.to(s.mu)
        return self._search(replace(s, mu=mu), -s.memory.combine(w, s.at.grads, parts))

    def _search(self, s: State, d: Tensor) -> State:
        """A search along d; one that does not descend fails at once."""
        phi, slope = penalty.value(s.at, s.mu), penalty.slope(s.at, d, s.mu)
        search = self.search.start(phi, slope)
        length = torch.linalg.vector_norm(d, dim=1)
        return replace(s, d=d, search=search, stationarity=torch.minimum(length, torch.full_like(length, torch.inf)))

    def _judge(self, s: State) -> State:
        """Stop rows that are stationary, or that no longer progress; lower mu of rows stationary at an infeasible point."""
        measure, near = s.stationarity, self.measure.near(s.samples, s.x)
        rows = ((measure > self.tol) & (near.sum(1) > 1)).nonzero()[:, 0]
        if len(rows):
            part = take(s, rows)
            found = self.measure(part.at, part.samples, near[rows], part.mu, part.memory)
            measure = measure.index_copy(0, rows, torch.minimum(found, measure[rows]))
        s = replace(s, stationarity=measure)
        violation = s.at.violations.amax(1) if s.at.c.shape[1] else torch.zeros_like(s.mu)
        feasible, stop = violation <= self.tol, s.stop.clone()
        stop[s.steps >= self.max_steps] = STOPS.index(Stop.MAX_STEPS)
        stop[(s.best.violation <= self.tol) & (s.best.f < -self.abyss)] = STOPS.index(Stop.UNBOUNDED)
        if self.patience is not None:
            stop[(s.best.violation <= self.tol) & (s.since >= self.patience)] = STOPS.index(Stop.STALLED)
        flat = measure <= self.tol
        stop[flat & feasible] = STOPS.index(Stop.STATIONARY)
        s = replace(s, stop=stop)
        stuck = (flat & ~feasible & (stop == RUNNING)).nonzero()[:, 0]
        if len(stuck):
            put(s, stuck, self._contradicted(take(s, stuck)))
        return s

    def _contradicted(self, s: State) -> State:
        """Rows stationary for phi at an infeasible point: infeasible if also stationary for the violation alone, else mu falls."""
        P, parts = s.memory.products(s.at.grads)
        w, _ = self.steering(s.at.c.double(), s.at.equalities, P.double(), torch.zeros_like(s.mu).double())
        away = torch.linalg.vector_norm(s.memory.combine(w.to(s.mu), s.at.grads, parts), dim=1)
        stop = torch.where(away <= self.tol, STOPS.index(Stop.INFEASIBLE), s.stop)
        return self._aim(replace(s, mu=0.1 * s.mu, stop=stop))

    def _fall_back(self, s: State, x: Tensor, at: Evaluation) -> State:
        """The ladder when a search fails: forget the Hessian, then steepest descent of phi, then stop.

        The trial at which the search failed lies across a kink, as a rule: its gradient is worth a sample.
        """
        s = replace(s, rung=s.rung + 1, samples=s.samples.add(x, at.grads))
        fresh = replace(s, memory=self._memory(len(s.row), s.x))
        aimed = self._judge(self._aim(fresh))
        steep = self._search(fresh, -penalty.gradient(s.at, s.mu))
        stop = torch.where((aimed.stop == RUNNING) & (s.rung > 2), STOPS.index(Stop.LINE_SEARCH), aimed.stop)
        put(aimed, (s.rung == 2).nonzero()[:, 0], take(steep, (s.rung == 2).nonzero()[:, 0]))
        return replace(aimed, stop=stop)

    def _run_away(self, s: State, x: Tensor, at: Evaluation) -> State:
        """phi falls without end along d: so does f, if the points are feasible; else the objective weighs too much."""
        feasible = at.violations.sum(1) <= self.tol
        stop = torch.where(feasible, STOPS.index(Stop.UNBOUNDED), s.stop)
        return self._aim(replace(s, mu=0.1 * s.mu, stop=stop))


class _Collected:
    """Rows that are done, in the places they came from."""

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
