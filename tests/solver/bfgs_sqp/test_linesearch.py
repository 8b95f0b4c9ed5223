"""The weak Wolfe search, one number and one slope per row."""

import math

import pytest
import torch

from plica.solver.bfgs_sqp.linesearch import SearchOutcome, WeakWolfe


def run(search, f, slope, r=1, first=1.0):
    """Search along t -> f(t) with derivative slope(t), from t = 0; at most 200 evaluations."""
    zero = torch.zeros(r, dtype=torch.float64)
    s = search.start(f(zero), slope(zero), first)
    for _ in range(200):
        t = s.t
        s = search.step(s, f(t), slope(t))
        if bool((s.outcome != SearchOutcome.TRYING).all()):
            return s, t
    raise AssertionError(f"still trying after 200 evaluations: {s}")


def wolfe(search, f, slope, t):
    zero = torch.zeros_like(t)
    return (f(t) <= f(zero) + search.c1 * t * slope(zero)) & (slope(t) >= search.c2 * slope(zero))


@pytest.mark.parametrize("minimum", [1e-6, 0.01, 0.6, 1.0, 5.0, 1e6])
@pytest.mark.parametrize("first", [1.0, 1e-3])
def test_parabola(minimum, first):
    def f(t):
        return (t - minimum) ** 2

    def slope(t):
        return 2 * (t - minimum)

    s, t = run(WeakWolfe(), f, slope, first=first)
    assert s.outcome == SearchOutcome.ACCEPTED
    assert wolfe(WeakWolfe(), f, slope, t).all()
    assert int(s.tries) <= 2 + 2 * abs(math.log2(minimum / first))  # doublings there and halvings back


def test_the_unit_step_of_a_newton_direction_is_taken_at_once():
    s, t = run(WeakWolfe(), lambda t: (t - 1) ** 2, lambda t: 2 * (t - 1))
    assert t.item() == 1
    assert int(s.tries) == 1


@pytest.mark.parametrize("kink", [1e-3, 0.3, 0.7, 12.0])
def test_kink(kink):
    """|t - kink|: the slopes of either side are -1 and 1, and a step past the kink satisfies both conditions."""

    def f(t):
        return (t - kink).abs()

    def slope(t):
        return torch.where(t > kink, 1.0, -1.0).to(t)

    s, t = run(WeakWolfe(), f, slope)
    assert s.outcome == SearchOutcome.ACCEPTED
    assert wolfe(WeakWolfe(), f, slope, t).all()
    assert kink < t.item() < 2 * kink


def test_open_end():
    s, _ = run(WeakWolfe(doublings=20), lambda t: -t, lambda t: torch.full_like(t, -1.0))
    assert s.outcome == SearchOutcome.NO_UPPER_END
    assert int(s.tries) == 20
    assert s.hi.isinf()


def test_no_step_will_do():
    """phi jumps up behind 0: the bracket closes on 0."""
    s, _ = run(WeakWolfe(), lambda t: (t > 0).to(t), lambda t: torch.full_like(t, -1.0))
    assert s.outcome == SearchOutcome.FAILED
    assert s.lo.item() == 0
    assert s.hi.item() < 1e-9


def test_uphill_fails_at_once_at_no_matter_what_step():
    s, _ = run(WeakWolfe(), lambda t: t, lambda t: torch.ones_like(t))
    assert s.outcome == SearchOutcome.FAILED


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_value_that_is_not_finite_is_an_upper_end(bad):
    """A parabola with its minimum at 0.3, and no value from 0.5 on."""

    def f(t):
        return torch.where(t < 0.5, (t - 0.3) ** 2, bad)

    def slope(t):
        return torch.where(t < 0.5, 2 * (t - 0.3), math.nan)

    s, t = run(WeakWolfe(), f, slope)
    assert s.outcome == SearchOutcome.ACCEPTED
    assert 0.15 <= t.item() < 0.5  # from c2 = 0.5 of the first slope on


def test_never_finite():
    s, _ = run(WeakWolfe(), lambda t: torch.where(t > 0, math.nan, 0.0), lambda t: torch.where(t > 0, math.nan, -1.0))
    assert s.outcome == SearchOutcome.FAILED


def test_rows_search_by_themselves():
    minima = torch.tensor([1e-3, 0.4, 1.0, 7.0, 1e4], dtype=torch.float64)

    def f(t):
        return (t - minima) ** 2

    def slope(t):
        return 2 * (t - minima)

    zero = torch.zeros(5, dtype=torch.float64)
    s = WeakWolfe().start(f(zero), slope(zero))
    accepted = torch.full((5,), math.nan, dtype=torch.float64)
    for _ in range(60):
        t = s.t
        s = WeakWolfe().step(s, f(t), slope(t))
        new = (s.outcome == SearchOutcome.ACCEPTED) & accepted.isnan()
        accepted[new] = t[new]
    assert wolfe(WeakWolfe(), f, slope, accepted).all()
    for i, m in enumerate(minima):
        _, alone = run(WeakWolfe(), lambda t, m=m: (t - m) ** 2, lambda t, m=m: 2 * (t - m))
        assert alone.item() == accepted[i].item()


@pytest.mark.parametrize("constants", [{"c1": 0.0}, {"c1": 0.6}, {"c2": 1.0}])
def test_constants_out_of_order(constants):
    with pytest.raises(ValueError, match="0 < c1 < c2 < 1"):
        WeakWolfe(**constants)
