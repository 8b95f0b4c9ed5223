"""BFGS-SQP for nonsmooth constrained problems, many at once (Curtis, Mitchell, Overton 2017; Algorithm 2 of Liang et
al. 2023).

Each step of the loop evaluates the problem once for all live rows, each at its own step length of its own line search.
Rows whose search accepted a step update their state and start the next search; finished rows are replaced by waiting
ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from plica.solver.bfgs_sqp import penalty
from plica.solver.bfgs_sqp.linesearch import SearchOutcome, WeakWolfe
from plica.solver.bfgs_sqp.memory import Dense, Memory
from plica.solver.bfgs_sqp.state import RUNNING, STOPS, Best, Collected, Solution, State
from plica.solver.bfgs_sqp.stationarity import Samples, Stationarity, length
from plica.solver.bfgs_sqp.status import Stop
from plica.solver.bfgs_sqp.steering import Steering
from plica.solver.lbfgs import LBFGS
from plica.solver.problem import Aligned, Evaluation, Problem
from plica.solver.rows import ALIGN, aligned, bmm, dot, pick, put, refill, take, write

DENSE_UP_TO = 200  # most unknowns for which H is dense if `memory` is None
PAIRS = 10  # of limited memory for more unknowns
GIVE = 0.3  # factor of mu in `_insist` and `_retreat`
LEAST = 1e-3  # smallest mu at which a search still retreats from the end of the domain
SHORT = 10  # evaluations of a search after which its step may be too short to change x


@dataclass(frozen=True)
class BFGSSQP:
    """The hyper-parameters, with the published values as defaults where the papers state them.

    Attributes:
        tol: tolerance of the stationarity (Eq. 30) and of the largest violation.
        max_steps: most steps of a row.
        max_evaluations: most evaluations of a row; None for any number.
        mu: first penalty parameter.
        memory: pairs of limited memory; None for a dense H up to 200 unknowns and 10 pairs beyond.
        patience: stop a row that has a feasible point after this many steps without a relative improvement of f by
            `progress`; None for never.
        progress: see `patience`.
        insist: lower mu of a row that was never feasible if this many steps have not halved its smallest violation;
            None for never.
        retreat: if a search met the end of the domain and failed, continue from the best feasible point with a lower
            mu.
        abyss: a feasible f below -abyss counts as unbounded.
        steering, search, measure: the parts of the method.
    """

    tol: float = 1e-6
    max_steps: int = 1000
    max_evaluations: int | None = None
    mu: float = 1.0
    memory: int | None = None
    patience: int | None = None
    progress: float = 1e-3
    insist: int | None = None
    retreat: bool = False
    abyss: float = 1e12
    steering: Steering = field(default_factory=Steering)
    search: WeakWolfe = field(default_factory=WeakWolfe)
    measure: Stationarity = field(default_factory=Stationarity)

    def solve(
        self,
        problem: Problem,
        x0: Float[Tensor, "b n"],
        batch_size: int | None = None,
        watch: Callable[[Int[Tensor, " r"]], None] | None = None,
    ) -> Solution:
        """Solve all rows, at most `batch_size` of them at a time. watch: called after each evaluation with the rows
        that are not finished."""
        b, n = x0.shape
        if self._limited(n) and n % ALIGN:
            solution = self.solve(Aligned(problem, n), aligned(x0), batch_size, watch)
            return replace(solution, x=solution.x[:, :n].contiguous())
        size = min(batch_size or b, b)
        waiting = torch.arange(b, device=x0.device)
        live, waiting = self._enter(problem, x0, waiting[:size]), waiting[size:]
        solution = Collected(x0)
        while len(live.row):
            self._tick(problem, live)
            done = live.stop != RUNNING
            if bool(done.any()):
                solution.collect(take(live, done.nonzero()[:, 0]))
                enter, waiting = waiting.split([room := min(len(waiting), int(done.sum())), len(waiting) - room])
                live = refill(live, done, self._enter(problem, x0, enter) if room else None, room)
            if watch is not None:
                watch(torch.cat([live.row, waiting]))
        return solution.finish()

    def _enter(self, problem: Problem, x0: Tensor, rows: Tensor) -> State:
        """New rows. They begin with a search from phi = inf along d = 0, so that their first evaluation is at the
        start, and is accepted."""
        x = x0[rows].clone()
        r, k = len(x), 1 + problem.constraints
        zero, count = x.new_zeros(r), torch.zeros_like(rows)
        grads = x.new_zeros(r, k, x.shape[1])
        return State(
            row=rows, x=x, at=Evaluation(x.new_zeros(r, k), grads, problem.equalities), mu=zero + self.mu,
            w=x.new_zeros(r, k), lagrangian=torch.zeros_like(x), d=torch.zeros_like(x),
            search=self.search.start(zero + torch.inf, zero),
            memory=self._memory(r, x), samples=Samples.start(r, self.measure.keep, grads),
            best=Best(x.clone(), zero + torch.inf, zero + torch.inf), rung=count.clone(), steps=count.clone(),
            evaluations=count.clone(), stationarity=zero + torch.inf, landmark=zero + torch.inf, since=count.clone(),
            worst=zero + torch.inf, late=count.clone(),
            stop=count + RUNNING,
        )  # fmt: skip

    def _limited(self, n: int) -> bool:
        return self.memory is not None or n > DENSE_UP_TO

    def _memory(self, rows: int, like: Tensor) -> Memory:
        if self._limited(like.shape[1]):
            return LBFGS.start(rows, like, self.memory or PAIRS)
        return Dense.start(rows, like)

    def _tick(self, problem: Problem, live: State) -> None:
        """Evaluate every live row once, and update `live`."""
        x = torch.addcmul(live.x, live.search.t[:, None], live.d)
        at = problem(x, live.row)
        finite = at.finite
        live.evaluations.add_(1)
        live.best.note(x, at, finite, self.tol)
        phi, slope = penalty.value(at, live.mu), penalty.slope(at, live.d, live.mu)
        phi = torch.where(finite & phi.isfinite(), phi, torch.inf)
        put(live.search, slice(None), self.search.step(live.search, phi, slope))
        self._end(live, (live.steps == 0) & phi.isinf(), Stop.NOT_FINITE)
        if at.done is not None:
            self._end(live, at.done, Stop.DONE)
        # a step that rounds to zero does not count, even if the search accepted it
        short = ((live.search.outcome == SearchOutcome.ACCEPTED) & (live.search.tries > SHORT)).nonzero()[:, 0]
        nowhere = (x[short] == live.x[short]).all(1)
        live.search.outcome[short] = live.search.outcome[short].masked_fill(nowhere, int(SearchOutcome.FAILED))
        outcome = torch.where(live.stop == RUNNING, live.search.outcome, int(SearchOutcome.TRYING))
        for which, then in (
            (SearchOutcome.ACCEPTED, self._accept),
            (SearchOutcome.FAILED, self._fall_back),
            (SearchOutcome.NO_UPPER_END, self._run_away),
        ):
            rows = (outcome == which).nonzero()[:, 0]
            if len(rows):
                then(live, rows, pick(x, rows), replace(take(at, rows), done=None))
        if self.max_evaluations is not None:
            self._end(live, live.evaluations >= self.max_evaluations, Stop.BUDGET)

    @staticmethod
    def _end(live: State, which: Bool[Tensor, " r"], why: Stop) -> None:
        """Stop the rows of `which` that are still running."""
        live.stop.masked_fill_(which & (live.stop == RUNNING), STOPS.index(why))

    def _accept(self, live: State, rows: Tensor, x: Tensor, at: Evaluation) -> None:
        """Update the rows after the step to x, and choose the next direction."""
        s = x - pick(live.x, rows)
        products = live.memory.update(rows, s, self._change(live, rows, s, at), at.grads)
        live.samples.add(rows, x, at.grads)
        write(live.x, rows, x)
        put(live.at, rows, at)
        live.rung[rows] = 0
        live.steps[rows] += 1
        best, landmark = live.best.f[rows], live.landmark[rows]
        ahead = best < landmark - self.progress * landmark.abs().nan_to_num(posinf=0.0)
        live.landmark[rows] = torch.where(ahead, best, landmark)
        live.since[rows] = torch.where(ahead, 0, live.since[rows] + 1)
        if self.insist is not None:
            self._insist(live, rows, self.insist)
        self._aim(live, rows, at, products)
        self._judge(live, rows, at)

    def _insist(self, live: State, rows: Tensor, steps: int) -> None:
        """Lower mu of rows that were never feasible and whose smallest violation has not halved in so many steps.

        Steering relies on the linear model of the violation. If the predicted decrease repeatedly fails to occur, the
        objective has too much weight.
        """
        least, worst = live.best.violation[rows], live.worst[rows]
        late, halved = live.late[rows] + 1, least <= 0.5 * worst
        give = ~halved & (late >= steps) & (least > self.tol)
        live.mu[rows] *= torch.where(give, GIVE, 1.0).float()
        again = halved | give
        live.worst[rows] = torch.where(again, least, worst)
        live.late[rows] = torch.where(again, 0, late)

    @staticmethod
    def _change(live: State, rows: Tensor, s: Tensor, at: Evaluation) -> Float[Tensor, "r n"]:
        """The change y of the Lagrangian's gradient, with the multipliers of the step, damped (Powell 1978) so that
        s.y > 0.

        The gradient of the penalty itself jumps where a constraint becomes active. The QP models that kink, so H must
        not. For the damping, B s = -t (w G) is known, since the step is s = -t H (w G).
        """
        old, t = pick(live.lagrangian, rows), live.search.t[rows]
        y = bmm(live.w[rows, None], at.grads)[:, 0].sub_(old)
        sy, sBs = dot(s, y), -t * dot(s, old)
        weak = sy < 0.2 * sBs
        if bool(weak.any()):
            theta = torch.where(weak, 0.8 * sBs / (sBs - sy), 1.0)[:, None]
            y = torch.lerp(-t[:, None] * old, y, theta)
        return y

    def _aim(self, live: State, rows: Tensor, at: Evaluation, products: Any = None) -> None:
        """Choose the direction by steering, and start a search along it. products: of the gradients, if they are known.

        This also gives the measure of stationarity for the present gradients alone. It is divided by mu: if mu is small
        every direction is short, however far the objective is from its minimum.
        """
        P, parts = products or live.memory.products(rows, at.grads)
        w, mu = self.steering(at.c.double(), at.equalities, P.double(), live.mu[rows].double(), self.tol)
        w = w.to(live.w)
        lagrangian = bmm(w[:, None], at.grads)[:, 0]
        live.mu[rows], live.w[rows] = mu.to(live.mu), w
        write(live.lagrangian, rows, lagrangian)
        d = live.memory.combine(rows, w, lagrangian, parts).neg_()
        live.stationarity[rows] = length(d, lagrangian) / (live.mu[rows].clamp(max=1) * live.memory.scale(rows))
        self._search(live, rows, at, d)

    def _search(self, live: State, rows: Tensor, at: Evaluation, d: Tensor) -> None:
        """Start a search along d with the unit step. The first step of a row, before H was updated, is at most as long
        as x."""
        mu, t = live.mu[rows], torch.ones_like(d[:, 0])
        first = (live.steps[rows] <= 1).nonzero()[:, 0]
        size, reach = (torch.linalg.vector_norm(v, dim=1) for v in (live.x[rows[first]], d[first]))
        t[first] = (size.clamp(min=1) / reach).clamp(max=1)
        put(live.search, rows, self.search.start(penalty.value(at, mu), penalty.slope(at, d, mu), t))
        write(live.d, rows, d)

    def _judge(self, live: State, rows: Tensor, at: Evaluation) -> None:
        """Stop rows that are stationary, or that no longer progress; lower mu of rows stationary at an infeasible
        point."""
        self._measure(live, rows, at)
        violation = at.violations.amax(1) if at.c.shape[1] else torch.zeros_like(at.f)
        feasible = violation <= self.tol
        flat = live.stationarity[rows] <= torch.where(feasible, self.tol, self.tol / live.mu[rows].clamp(max=1))
        has_feasible = live.best.violation[rows] <= self.tol
        stop = live.stop[rows]
        for which, why in (
            (flat & feasible, Stop.STATIONARY),
            (has_feasible & (live.best.f[rows] < -self.abyss), Stop.UNBOUNDED),
            (has_feasible & (live.since[rows] >= (self.patience or torch.inf)), Stop.STALLED),
            (live.steps[rows] >= self.max_steps, Stop.MAX_STEPS),
        ):
            stop = stop.masked_fill(which & (stop == RUNNING), STOPS.index(why))
        live.stop[rows] = stop
        stuck = (flat & ~feasible).nonzero()[:, 0]
        if len(stuck):
            self._contradicted(live, rows[stuck], take(at, stuck))

    def _measure(self, live: State, rows: Tensor, at: Evaluation) -> None:
        """If several samples are near, replace the stationarity by the measure over their hull where that is
        smaller."""
        if self.measure.keep < 2:
            return
        near = self.measure.near(take(live.samples, rows), live.x[rows])
        many = ((live.stationarity[rows] > self.tol) & (near.sum(1) > 1)).nonzero()[:, 0]
        if len(many):
            some = rows[many]
            measured, _ = self.measure(
                take(at, many), take(live.samples, some), near[many], live.mu[some], live.memory, some
            )
            measured = measured / (live.mu[some].clamp(max=1) * live.memory.scale(some))
            live.stationarity[some] = torch.minimum(live.stationarity[some], measured)

    def _contradicted(self, live: State, rows: Tensor, at: Evaluation) -> None:
        """Treat rows that are stationary for phi at an infeasible point, if no direction lowers the violation by much.
        If they are stationary for the violation alone too, they stop as infeasible; else mu is lowered."""
        P, parts = live.memory.products(rows, at.grads)
        w, hope = self.steering.best(at.c.double(), at.equalities, P.double())
        w = w.to(live.w)
        g = bmm(w[:, None], at.grads)[:, 0]
        flat = length(live.memory.combine(rows, w, g, parts), g) <= self.tol
        hopeless = hope < self.steering.c_viol
        live.stop[rows[hopeless & flat]] = STOPS.index(Stop.INFEASIBLE)
        if bool(hopeless.any()):
            live.mu[rows[hopeless]] *= 0.1
            self._aim(live, rows[hopeless], take(at, hopeless.nonzero()[:, 0]))

    def _fall_back(self, live: State, rows: Tensor, x: Tensor, trial: Evaluation) -> None:
        """What is tried when a search fails: first H = I and the direction over the gradients nearby (Burke et al.
        2020), then steepest descent of phi; then the row stops.

        The point at which the search failed usually lies across a kink, so its gradients are added to the samples.
        """
        live.samples.add(rows, x, trial.grads)
        live.memory.reset(rows)
        if self.retreat:
            back = live.search.wall[rows] & (live.best.violation[rows] <= self.tol) & (live.mu[rows] > LEAST)
            self._retreat(live, rows[back])
            rows = rows[~back]
            if not len(rows):
                return
        live.rung[rows] += 1
        at = take(live.at, rows)
        self._aim(live, rows, at)
        self._judge(live, rows, at)
        live.stop[rows[(live.rung[rows] > 2) & (live.stop[rows] == RUNNING)]] = STOPS.index(Stop.LINE_SEARCH)
        for rung, direction in ((1, self._hull), (2, self._steepest)):
            some = (live.rung[rows] == rung).nonzero()[:, 0]
            if len(some):
                part = take(at, some)
                self._search(live, rows[some], part, direction(live, rows[some], part))

    def _retreat(self, live: State, rows: Tensor) -> None:
        """Continue from the best feasible point, which is evaluated again, with a smaller mu: a search that decreases
        up to the end of the domain has given the objective too much weight."""
        live.mu[rows] *= GIVE
        best = pick(live.best.x, rows)
        write(live.x, rows, best)
        write(live.d, rows, torch.zeros_like(best))
        none = torch.zeros_like(live.mu[rows])
        put(live.search, rows, self.search.start(none + torch.inf, none))

    def _hull(self, live: State, rows: Tensor, at: Evaluation) -> Float[Tensor, "r n"]:
        """d of Eq. (30) over the samples nearby; without samples, the present direction."""
        if self.measure.keep < 2:
            return live.d[rows]
        near = self.measure.near(take(live.samples, rows), live.x[rows])
        return -self.measure(at, take(live.samples, rows), near, live.mu[rows], live.memory, rows)[1]

    @staticmethod
    def _steepest(live: State, rows: Tensor, at: Evaluation) -> Float[Tensor, "r n"]:
        live.w[rows], live.lagrangian[rows] = penalty.weights(at, live.mu[rows]), penalty.gradient(at, live.mu[rows])
        return -live.lagrangian[rows]

    def _run_away(self, live: State, rows: Tensor, x: Tensor, trial: Evaluation) -> None:
        """Treat rows whose phi decreased at every step tried along d: if the last point is feasible, f is unbounded;
        else the objective has too much weight, and mu is lowered."""
        live.stop[rows[trial.violations.sum(1) <= self.tol]] = STOPS.index(Stop.UNBOUNDED)
        live.mu[rows] *= 0.1
        self._aim(live, rows, take(live.at, rows))
