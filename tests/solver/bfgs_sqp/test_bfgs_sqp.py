"""BFGS-SQP: rows come and go without a trace in the answers of the others, and each end has its status."""

import math

import pytest
import torch

import plica
from plica.solver import BFGSSQP, Evaluation, Stop
from plica.solver.bfgs_sqp.linesearch import WeakWolfe

ROWS = 7


class Kinked:
    """Row i: min sum a_j |x_j - z_ij| + |x|^2 / 2  s.t.  x_0 >= 1 + i / 10; elementwise, so that rows cannot mix.

    Keeps who was asked. Rows in `bad` are nan past |x| = 0.5; row i is done once f falls below floor[i].
    """

    constraints, equalities = 1, 0

    def __init__(self, n, dtype=torch.float64, bad=(), floor=None):
        generator = torch.Generator().manual_seed(0)
        self.z = torch.randn(ROWS, n, generator=generator, dtype=dtype)
        self.a = 0.1 + torch.rand(n, generator=generator, dtype=dtype)
        self.bad, self.floor, self.asked = torch.tensor(bad, dtype=torch.long), floor, []

    def __call__(self, x, rows):
        self.asked.append(rows.tolist())
        away, least = x - self.z[rows], 1 + rows.to(x) / 10
        f = (self.a * away.abs() + x * x / 2).sum(1)
        f = torch.where(torch.isin(rows, self.bad) & (x.abs().amax(1) > 0.5), math.nan, f)
        df = self.a * away.sign() + x
        dc = torch.zeros_like(x)
        dc[:, 0] = -1
        done = None if self.floor is None else f < self.floor[rows]
        return Evaluation(torch.stack([f, least - x[:, 0]], 1), torch.stack([df, dc], 1), done=done)

    def answer(self):
        """x_j shrinks towards 0 by the slope a_j, but no further than z_j; x_0 as far as it must."""
        best = torch.sign(self.z) * torch.minimum(self.z.abs(), self.a)
        least = 1 + torch.arange(ROWS).to(self.z) / 10
        best[:, 0] = torch.maximum(best[:, 0], least)
        return best


def start(n, dtype=torch.float64):
    return 0.3 * torch.randn(ROWS, n, generator=torch.Generator().manual_seed(1), dtype=dtype)


def same(one, other, rows=slice(None)):
    for name in ("x", "f", "violation", "stationarity", "steps", "evaluations"):
        assert torch.equal(getattr(one, name)[rows], getattr(other, name)), name
    statuses = one.status if isinstance(rows, slice) else [one.status[i] for i in rows]
    assert statuses == other.status


SIZES = pytest.mark.parametrize(
    ("n", "memory", "dtype"), [(6, None, torch.float64), (6, 4, torch.float64), (300, None, torch.float32)]
)


@SIZES
@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_rows_enter_as_others_leave(n, memory, dtype, batch_size):
    """The answers are equal to the bit, and no more rows than asked for are live at a time."""
    solver = BFGSSQP(memory=memory, max_evaluations=25)
    together = solver.solve(Kinked(n, dtype), start(n, dtype))
    problem = Kinked(n, dtype)
    same(together, solver.solve(problem, start(n, dtype), batch_size))
    assert max(len(rows) for rows in problem.asked) == min(batch_size, ROWS)
    assert all(len(set(rows)) == len(rows) for rows in problem.asked)
    for row in range(ROWS):  # one evaluation per row and tick, and each of them counted
        assert sum(row in rows for rows in problem.asked) == together.evaluations[row]
    full = sum(len(rows) == min(batch_size, ROWS) for rows in problem.asked)
    if batch_size == 3:
        assert full >= 0.5 * len(problem.asked)  # kept full while rows wait


@SIZES
def test_alone(n, memory, dtype):
    solver = BFGSSQP(memory=memory, max_evaluations=25)
    problem = Kinked(n, dtype)
    together = solver.solve(problem, start(n, dtype))

    for row in (0, 4):

        def alone(x, rows, row=row):
            return problem(x, rows + row)

        alone.constraints, alone.equalities = 1, 0
        same(together, solver.solve(alone, start(n, dtype)[[row]]), [row])


@pytest.mark.parametrize("memory", [None, 10])
def test_the_answer(memory):
    problem = Kinked(6)
    found = BFGSSQP(memory=memory, max_evaluations=150).solve(problem, start(6))
    best = problem(problem.answer(), torch.arange(ROWS))
    assert (found.violation <= 1e-6).all()
    assert (best.violations == 0).all()
    torch.testing.assert_close(found.f, best.f, rtol=1e-4, atol=0)  # six kinks in 150 evaluations
    again = problem(found.x, torch.arange(ROWS))
    assert torch.equal(again.f, found.f)
    assert torch.equal(again.violations[:, 0], found.violation)


@pytest.mark.parametrize("most", [1, 2, 17])
def test_a_budget_is_kept_exactly(most):
    found = BFGSSQP(max_evaluations=most).solve(Kinked(6), start(6), 3)
    assert (found.evaluations <= most).all()
    spent = [s == Stop.BUDGET for s in found.status]
    assert spent == (found.evaluations == most).tolist()
    assert sum(spent) > ROWS / 2


def test_the_step_limit_ends_the_search():
    found = BFGSSQP(max_steps=3).solve(Kinked(6), start(6))
    assert (found.steps <= 3).all()
    assert Stop.MAX_STEPS in found.status


def test_rows_that_are_done_stop_there():
    floor = torch.full((ROWS,), -math.inf, dtype=torch.float64)
    floor[[2, 5]] = math.inf  # answered by the first point
    solver = BFGSSQP(max_evaluations=25)
    free, found = solver.solve(Kinked(6), start(6)), solver.solve(Kinked(6, floor=floor), start(6), 3)
    assert [status == Stop.DONE for status in found.status] == [i in (2, 5) for i in range(ROWS)]
    assert found.evaluations[[2, 5]].tolist() == [1, 1]
    others = [0, 1, 3, 4, 6]
    assert torch.equal(found.x[others], free.x[others])


def test_patience():
    """Feasible rows without a large improvement for three steps are let go."""
    patient = BFGSSQP(max_evaluations=80).solve(Kinked(6), start(6))
    hasty = BFGSSQP(patience=3, progress=0.9, max_evaluations=80).solve(Kinked(6), start(6))
    stalled = torch.tensor([s == Stop.STALLED for s in hasty.status])
    assert stalled.sum() > ROWS / 2
    assert (hasty.steps[stalled] < patient.steps[stalled]).all()
    assert (hasty.violation[stalled] <= 1e-6).all()
    assert (hasty.f >= patient.f).all()


def test_a_row_that_is_not_finite_does_not_hurt_the_others():
    """Rows 1 and 4 are nan wherever x_0 >= 1 could hold: they end, and the others are as without them."""
    solver, x0 = BFGSSQP(max_evaluations=25), start(6)
    free = solver.solve(Kinked(6), x0)
    x0[1] = 0.9  # nan from the start
    found = solver.solve(Kinked(6, bad=(1, 4)), x0)
    assert found.status[1] == Stop.NOT_FINITE
    assert found.evaluations[1] == 1
    assert torch.equal(found.x[1], x0[1])
    assert found.x[4].abs().amax() <= 0.5
    others = [0, 2, 3, 5, 6]
    same(found, _rows(free, others), others)


def _rows(solution, rows):
    values = {k: v[rows] for k, v in vars(solution).items() if k != "status"}
    return type(solution)(status=[solution.status[i] for i in rows], **values)


@pytest.mark.parametrize("c", [math.nan, math.inf])
def test_constraints_that_are_not_finite(c):
    def nowhere(x, rows):
        values = torch.stack([(x * x).sum(1), torch.full_like(x[:, 0], c)], 1)
        return Evaluation(values, torch.stack([2 * x, x], 1))

    nowhere.constraints, nowhere.equalities = 1, 0
    assert BFGSSQP().solve(nowhere, start(3)).status == [Stop.NOT_FINITE] * ROWS


def test_the_caller_s_start_is_left_alone():
    x0 = start(6)
    BFGSSQP(max_steps=3).solve(Kinked(6), x0)
    assert torch.equal(x0, start(6))


def test_scaling_the_objective_and_mu_together_changes_nothing_but_f():
    """mu f is all that the penalty sees."""

    class Scaled(Kinked):
        def __call__(self, x, rows):
            at = super().__call__(x, rows)
            scale = torch.tensor([1024.0, 1], dtype=x.dtype)  # a power of two: no rounding
            return Evaluation(at.values * scale, at.grads * scale[:, None])

    plain = BFGSSQP(max_evaluations=25).solve(Kinked(6), start(6))
    scaled = BFGSSQP(mu=1 / 1024, max_evaluations=25).solve(Scaled(6), start(6))
    torch.testing.assert_close(scaled.f, 1024 * plain.f, rtol=1e-3, atol=0)


class Cliff:
    """min |x|  s.t.  x_0 >= 1, where the constraint is told from x_0 = 0.95 on only."""

    constraints, equalities = 1, 0

    def __call__(self, x, rows):
        size = torch.linalg.vector_norm(x, dim=1)
        c = torch.where(x[:, 0] < 0.95, math.inf, 0.2 * (1 - x[:, 0]))
        dc = torch.zeros_like(x)
        dc[:, 0] = -0.2
        return Evaluation(torch.stack([size, c], 1), torch.stack([x / size[:, None], dc], 1))


def test_a_search_that_falls_towards_the_end_of_the_domain_retreats_with_a_smaller_mu():
    """There the slope of the objective is five times that of the violation."""
    solver = BFGSSQP(max_evaluations=200, retreat=True, search=WeakWolfe(at_wall=4))
    solution = solver.solve(Cliff(), torch.tensor([[3.0, 1.0, -2.0], [1.5, 0.0, 0.5]]).double())
    torch.testing.assert_close(solution.f, torch.ones(2).double(), rtol=1e-4, atol=0)
    assert (solution.violation <= 1e-6).all()


def test_steps_that_leave_the_domain_by_far_are_halved_until_they_do_not():
    """log x ends at 0; the gradient at the start is 10,000, so that the first step has to be halved fourteen times."""

    def f(x):
        inside = (x > 0).all(1)
        return torch.where(inside, 1e4 * x.sum(1) - torch.where(x > 0, x, 1).log().sum(1), math.inf)

    solution = plica.minimize(f, torch.full((1, 3), 0.5).double(), max_steps=100)
    torch.testing.assert_close(solution.x, torch.full((1, 3), 1e-4).double(), rtol=0.01, atol=0)
    assert solution.status == [Stop.STATIONARY]
