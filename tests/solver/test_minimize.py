"""plica.minimize: its arguments, its shapes, its precisions. What it solves is in test_references.py."""

import inspect
import math

import pytest
import torch

import plica
from plica.solver import Stop

CALL = inspect.unwrap(plica.minimize)  # wrong types are the point here: past the type checker of the tests
CENTRE = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)


def parabola(x):
    return ((x - CENTRE.to(x)) ** 2).sum(1)


def in_half(x):
    """The same, with x_0 <= 0: the nearest point has x_0 = 0, and f = 1."""
    return parabola(x), x[:, :1]


def on_plane(x):
    """And x_1 = x_2: (0, -0.75, -0.75), f = 1 + 2 * 1.25^2."""
    return parabola(x), x[:, :1], x[:, 1:2] - x[:, 2:]


CASES = [(parabola, 0.0, [1, -2, 0.5]), (in_half, 1.0, [0, -2, 0.5]), (on_plane, 4.125, [0, -0.75, -0.75])]
EVERY = pytest.mark.parametrize(("fun", "f", "x"), CASES, ids=["free", "inequality", "equality"])


@EVERY
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_problem(fun, f, x, dtype):
    found = plica.minimize(fun, torch.ones(3, dtype=dtype))
    close = 1e-5 if dtype == torch.float64 else 1e-2  # square root of what f tells apart
    assert found.x.dtype == dtype
    assert found.x.tolist() == pytest.approx(x, abs=close)
    assert found.f.item() == pytest.approx(f, abs=1e-5 if dtype == torch.float64 else 1e-3)
    assert found.violation <= (1e-6 if dtype == torch.float64 else 1e-5)
    for name in ("f", "violation", "stationarity", "steps", "evaluations"):
        assert getattr(found, name).shape == (), name
    assert isinstance(found.status, Stop)


@EVERY
def test_a_batch(fun, f, x):
    starts = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = plica.minimize(fun, starts)
    assert found.x.shape == (4, 3)
    torch.testing.assert_close(found.f, torch.full((4,), f, dtype=torch.float64), rtol=0, atol=1e-5)
    assert len(found.status) == 4
    for name in ("f", "violation", "stationarity", "steps", "evaluations"):
        assert getattr(found, name).shape == (4,), name


def test_a_batch_of_one_keeps_its_axis():
    found = plica.minimize(parabola, torch.ones(1, 3))
    assert found.x.shape == (1, 3)
    assert len(found.status) == 1


def test_no_inequality_but_an_equality():
    found = plica.minimize(lambda x: (parabola(x), None, x[:, 1:2] - x[:, 2:]), torch.zeros(3, dtype=torch.float64))
    assert found.x.tolist() == pytest.approx([1, -0.75, -0.75], abs=1e-5)


def test_a_constant_constraint():
    """Met everywhere, or nowhere: its gradient is 0."""

    def fun(x, c):
        return parabola(x), torch.full((len(x), 1), c, dtype=x.dtype)

    assert plica.minimize(lambda x: fun(x, -1.0), torch.zeros(3, dtype=torch.float64)).f < 1e-9
    assert plica.minimize(lambda x: fun(x, 1.0), torch.zeros(3, dtype=torch.float64)).status == Stop.INFEASIBLE


WEIGHTS = torch.ones(3, requires_grad=True)  # a graph that does not lead to x


@pytest.mark.parametrize(
    ("fun", "name"),
    [
        (lambda x: x.detach().sum(1), "f"),
        (lambda x: (x.detach() * WEIGHTS).sum(1), "f"),
        (lambda x: (x.sum(1), 1 - x.detach()), "c"),
        (lambda x: (x.sum(1), x.new_zeros(len(x), 1), x.detach() * WEIGHTS), "h"),
    ],
)
def test_functions_that_are_cut_off_from_x(fun, name):
    with pytest.raises(ValueError, match=f"fun must return {name} with a gradient"):
        plica.minimize(fun, torch.zeros(3))


def test_a_feasible_point_alone():
    found = plica.minimize(lambda x: (x.new_zeros(len(x)), 1 - x), torch.zeros(3, dtype=torch.float64))
    assert found.x.min() >= 1 - 1e-6


@pytest.mark.parametrize("memory", [2, 50])
def test_memory(memory):
    def badly_scaled(x):
        return ((x - 1) ** 2 * torch.logspace(0, 2, x.shape[1], dtype=x.dtype)).sum(1)

    found = plica.minimize(badly_scaled, torch.zeros(20, dtype=torch.float64), memory=memory)
    assert found.f < 1e-6


def test_a_finer_tolerance_comes_closer():
    def quartic(x):
        return (x**4).sum(1) + in_half(x)[0]

    coarse, fine = (plica.minimize(quartic, torch.ones(3, dtype=torch.float64), tol=tol) for tol in (1e-2, 1e-10))
    assert fine.stationarity <= 1e-10
    assert fine.f <= coarse.f
    assert fine.evaluations > coarse.evaluations


def test_no_more_steps_than_allowed():
    def rosenbrock(x):
        return (100 * (x[:, 1:] - x[:, :-1] ** 2) ** 2 + (1 - x[:, :-1]) ** 2).sum(1)

    found = plica.minimize(rosenbrock, torch.full((10,), -1.2, dtype=torch.float64), max_steps=4)
    assert found.steps <= 4
    assert found.status == Stop.MAX_STEPS


def test_a_start_that_is_not_finite_there():
    found = plica.minimize(lambda x: x.log().sum(1), torch.full((2,), -1.0, dtype=torch.float64))
    assert found.status == Stop.NOT_FINITE
    assert found.evaluations == 1
    assert found.x.tolist() == [-1, -1]


def test_functions_that_are_not_finite_beyond():
    """-sum log x + x_0: the search steps past 0 and comes back."""
    found = plica.minimize(lambda x: x.sum(1) - x.log().sum(1), torch.tensor([9.0, 0.01], dtype=torch.float64))
    assert found.x.tolist() == pytest.approx([1, 1], abs=1e-5)


def test_the_start_is_left_alone_and_may_require_gradients():
    x0 = torch.ones(3, dtype=torch.float64, requires_grad=True)
    found = plica.minimize(parabola, x0)
    assert x0.tolist() == [1, 1, 1]
    assert not found.x.requires_grad
    with torch.no_grad():
        assert torch.equal(plica.minimize(parabola, x0.detach()).x, found.x)


@pytest.mark.parametrize("x0", [torch.ones(3, dtype=torch.long), torch.ones(3, dtype=torch.float16), [1.0, 2.0], None])
def test_starts_of_another_type(x0):
    with pytest.raises(TypeError, match="x0 must be a float32 or float64 tensor"):
        CALL(parabola, x0)


@pytest.mark.parametrize("shape", [(), (0,), (2, 0), (0, 2), (2, 2, 2)])
def test_starts_of_another_shape(shape):
    with pytest.raises(ValueError, match=r"x0 must have shape \(n,\) or \(b, n\)"):
        CALL(parabola, torch.ones(shape))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_starts_that_are_not_finite(value):
    with pytest.raises(ValueError, match="x0 must be finite"):
        CALL(parabola, torch.tensor([0.0, value, 1.0]))


@pytest.mark.parametrize(
    "more",
    [
        {"tol": 0.0},
        {"tol": -1.0},
        {"tol": math.nan},
        {"tol": "1e-4"},
        {"max_steps": 0},
        {"max_steps": 2.5},
        {"memory": 0},
        {"memory": 2.5},
    ],
)
def test_numbers(more):
    with pytest.raises(ValueError, match=next(iter(more))):
        CALL(parabola, torch.ones(3), **more)


@pytest.mark.parametrize(
    ("fun", "kind", "match"),
    [
        (lambda x: x, ValueError, r"fun must return f of shape \(1,\)"),
        (lambda x: x.sum(), ValueError, r"got \(\)"),
        (lambda x: (x.sum(1), x[:, 0]), ValueError, r"fun must return c of shape \(1, 'm'\)"),
        (lambda x: (x.sum(1), x.T), ValueError, "fun must return c"),
        (lambda x: (x.sum(1), x, x[:, 0]), ValueError, "fun must return h"),
        (lambda x: (x.sum(1), x, x, x), ValueError, "got 4 values"),
        (lambda x: 1.0, TypeError, "must return tensors, got float for f"),
        (lambda x: (x.sum(1), 0.0), TypeError, "got float for c"),
    ],
)
def test_functions_of_another_shape(fun, kind, match):
    with pytest.raises(kind, match=match):
        CALL(fun, torch.ones(3))


def test_every_problem_has_its_own_data():
    """The nearest point to a centre in a half space a.x <= b: known, and the same alone as together."""
    generator = torch.Generator().manual_seed(0)
    centre, normal = (torch.randn(5, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    offset = torch.randn(5, generator=generator, dtype=torch.float64)

    def fun(x, centre, normal, offset):
        return ((x - centre) ** 2).sum(1), (x * normal).sum(1, keepdim=True) - offset[:, None]

    data = [centre, normal, offset]
    found = plica.minimize(fun, torch.zeros(5, 3, dtype=torch.float64), data=data)
    excess = ((centre * normal).sum(1) - offset).clamp(min=0) / (normal**2).sum(1)
    torch.testing.assert_close(found.x, centre - excess[:, None] * normal, rtol=0, atol=1e-5)
    alone = plica.minimize(fun, torch.zeros(3, dtype=torch.float64), data=[part[3] for part in data])
    torch.testing.assert_close(alone.x, found.x[3], rtol=0, atol=1e-9)


@pytest.mark.parametrize("data", [[torch.zeros(3, 1)], [torch.tensor(1.0)], [[1.0, 2.0]]])
def test_data_without_an_entry_for_each_problem(data):
    with pytest.raises(ValueError, match=r"data\[0\] must be a tensor with an entry for each of the 2 problems"):
        CALL(lambda x, t: x.sum(1), torch.zeros(2, 3), data=data)


@pytest.mark.parametrize("vectorised", [True, False])
def test_many_constraints_take_one_backward_pass(vectorised, monkeypatch):
    """300 half spaces around a ball; also where an operation has no vectorised derivative."""

    class Halved(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x / 2

        @staticmethod
        def backward(ctx, grad):
            return grad / 2

    normal = torch.nn.functional.normalize(
        torch.randn(300, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    )
    goal = 3 * torch.ones(6, dtype=torch.float64)

    def fun(x):
        x = x if vectorised else 2 * Halved.apply(x)
        return ((x - goal) ** 2).sum(1), x @ normal.T - 1

    calls = []
    original = torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *a, **k: calls.append(1) or original(*a, **k))
    found = plica.minimize(fun, torch.zeros(6, dtype=torch.float64))
    assert found.status is Stop.STATIONARY
    assert found.violation <= 1e-6
    if vectorised:
        assert len(calls) <= 2 + int(found.evaluations)  # two see beforehand that f and c depend on x
    # the multipliers of the constraints that hold with equality are >= 0: no nearer point
    active = normal[(found.x @ normal.T - 1).abs() < 1e-5]
    multipliers = torch.linalg.lstsq(active.T, goal - found.x).solution
    assert (multipliers >= -1e-4).all()
    torch.testing.assert_close(active.T @ multipliers, goal - found.x, rtol=0, atol=1e-4)


def test_a_function_may_compute_in_float64():
    """Of x in float32: "Index put requires the source and destination dtypes match"."""
    for x0 in (torch.zeros(3), torch.zeros(2, 3)):
        found = CALL(lambda x: (parabola(x.double()), x[:, :1].double()), x0)
        assert found.x.dtype == torch.float32
        torch.testing.assert_close(found.x, torch.tensor([0, -2, 0.5]).expand_as(x0), rtol=0, atol=1e-3)
