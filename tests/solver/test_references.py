"""Every reference problem, solved: gap to the known optimum, violation, evaluations; and what holds of any answer."""

from __future__ import annotations

import pytest
import torch
from jaxtyping import Float
from torch import Tensor

import plica
from plica.solver import Stop
from solver.references import INFEASIBLE, REFERENCES, UNBOUNDED, Reference, parts, violation

GAP, VIOLATION = 1e-4, 1e-5  # what counts as reached, as in benchmarks/references.py
EVALUATIONS = 2000  # twice what the hardest may need, fifty times the median; a failed line search spends forty
BY_NAME = pytest.mark.parametrize("name", REFERENCES)
# Those that take more than five seconds, and in float32 more than one.
LONG = {"hs64", "mifflin1", "wong1", "chained_cb3"}
LONG_IN_FLOAT32 = LONG | {
    "maxquad", "basis_pursuit", "hs81", "chained_lq", "maxq", "hs31", "linf_to_halfspace", "plane_in_l1_ball", "maxl",
    "hs113", "l1_in_ball", "hs50", "hs52", "l1_on_plane", "shor", "concave", "rosen_suzuki_max", "hs32", "rosenbrock",
    "hs65",
}  # fmt: skip


def names(long: set[str]) -> list:
    return [pytest.param(name, marks=[pytest.mark.slow] if name in long else []) for name in REFERENCES]


def gap(name: str, f) -> float:
    """|f - f*| in units of max(1, |f*|)."""
    f_star = REFERENCES[name].f_star
    return abs(float(f) - f_star) / max(1, abs(f_star))


def around(reference: Reference, b: int, spread: float) -> Float[Tensor, "b n"]:
    """b starts, scattered about the published one."""
    generator = torch.Generator().manual_seed(0)
    return reference.start() + spread * torch.randn(b, len(reference.x0), dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("name", [name for name, reference in REFERENCES.items() if reference.x_star is not None])
def test_the_answers_agree_with_the_problems(name):
    reference = REFERENCES[name]
    values = reference.fun(torch.tensor([reference.x_star], dtype=torch.float64))
    assert parts(values)[0].item() == pytest.approx(reference.f_star, rel=1e-12, abs=1e-12)
    assert violation(values).item() <= 1e-12


@BY_NAME
def test_a_row_does_not_see_the_others(name):
    """What `fun` owes the solver: values of a row are the same alone and in a batch, in the dtype of x."""
    reference = REFERENCES[name]
    x = around(reference, 5, 0.1)
    together = torch.cat([part.reshape(5, -1) for part in parts(reference.fun(x))], 1)
    alone = torch.cat([torch.cat([part.reshape(1, -1) for part in parts(reference.fun(row[None]))], 1) for row in x])
    torch.testing.assert_close(alone, together, rtol=1e-12, atol=1e-12)
    assert parts(reference.fun(x.float()))[0].dtype == torch.float32


@pytest.mark.parametrize("name", names(LONG))
def test_the_optimum_is_reached(name):
    reference = REFERENCES[name]
    found = plica.minimize(reference.fun, reference.start())
    again = reference.fun(found.x[None])
    assert violation(again).item() == pytest.approx(found.violation.item(), abs=1e-12)
    assert parts(again)[0].item() == pytest.approx(found.f.item(), rel=1e-12, abs=1e-12)
    assert found.violation <= VIOLATION
    assert gap(name, found.f) <= GAP
    assert found.evaluations <= EVALUATIONS


@pytest.mark.parametrize("name", names(LONG_IN_FLOAT32))
def test_float32_comes_close(name):
    """1e-3: single precision holds f to 1e-7 of its largest term, and a minimiser to the square root of that.

    tol is the finest that makes sense in float32.
    """
    reference = REFERENCES[name]
    found = plica.minimize(reference.fun, reference.start(torch.float32), tol=1e-5)
    assert found.x.dtype == torch.float32
    assert found.violation <= 1e-3
    assert gap(name, found.f) <= 1e-3


FEASIBLE_STARTS = [name for name, problem in REFERENCES.items() if violation(problem.fun(problem.start()[None])) == 0]


@pytest.mark.parametrize("name", FEASIBLE_STARTS)
@pytest.mark.parametrize("max_steps", [1, 3])
def test_never_worse_than_a_feasible_start(name, max_steps):
    """Above all where there is no time: the first steps may well lead outside."""
    reference = REFERENCES[name]
    found = plica.minimize(reference.fun, reference.start(), max_steps=max_steps)
    assert found.violation <= 1e-6  # the default tol
    assert found.f <= parts(reference.fun(reference.start()[None]))[0].item()


SOME = ["hs71", "hs43", "hs6", "rosenbrock", "cb2", "shor", "theta", "l1_in_ball", "parrott"]


@pytest.mark.parametrize("b", [2, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", SOME)
def test_alone_equals_in_a_batch(name, b):
    """Several starts at once and one by one.

    To rounding where the trajectories agree to the bit, which elementwise functions grant; to the accuracy of an
    answer otherwise, since a kink may magnify the last bit of a matrix product or an eigenvalue.
    """
    reference = REFERENCES[name]
    starts = around(reference, b, 0.05)
    together = plica.minimize(reference.fun, starts)
    backwards = plica.minimize(reference.fun, starts.flip(0))
    for i, start in enumerate(starts):
        alone = plica.minimize(reference.fun, start)
        for f, missed in ((together.f[i], together.violation[i]), (backwards.f[-1 - i], backwards.violation[-1 - i])):
            assert f.item() == pytest.approx(alone.f.item(), rel=1e-5, abs=1e-5)
            assert missed <= VIOLATION


@pytest.mark.parametrize("problem", INFEASIBLE, ids=lambda problem: problem.name)
def test_a_contradiction_is_named(problem):
    found = plica.minimize(problem.fun, problem.start())
    assert found.status is Stop.INFEASIBLE
    assert found.violation.item() == pytest.approx(problem.violation, abs=1e-3)
    assert found.violation == pytest.approx(violation(problem.fun(found.x[None])).item(), abs=1e-12)


@pytest.mark.parametrize("problem", UNBOUNDED, ids=lambda problem: problem.name)
def test_an_endless_descent_is_named(problem):
    found = plica.minimize(problem.fun, problem.start())
    assert found.status is Stop.UNBOUNDED
    assert found.violation <= VIOLATION
    assert found.f < -1e3
