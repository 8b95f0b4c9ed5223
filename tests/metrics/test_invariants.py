"""What holds of norms, weighted, multiplied, added or joined by a maximum, and of their gradients, for any vector."""

import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from plica import Held, Largest, Lp, WeightedLp
from plica.metrics import gradient, lp_form, values

N = 6
ROUNDING = 1e-9  # float64, sums of N terms and powers by way of logarithms
number = st.floats(-10, 10).map(lambda v: 0.0 if abs(v) < 1e-100 else v)  # no underflow in squares of products
vector = st.lists(number, min_size=N, max_size=N).map(lambda v: torch.tensor([v], dtype=torch.float64))
weight = st.lists(st.floats(0.1, 10), min_size=N, max_size=N).map(lambda v: torch.tensor(v, dtype=torch.float64))
factor = st.floats(0.01, 100)
convex_p = st.one_of(st.sampled_from([1.0, 1.5, 2.0, 3.0, 8.0, math.inf]), st.floats(1, 30))
mask = st.lists(st.booleans(), min_size=N, max_size=N).filter(lambda v: not all(v)).map(torch.tensor)


# p, another p, weights and a factor, of which each kind uses some
recipe = st.tuples(convex_p, convex_p, weight, factor)
KINDS = {
    "plain": lambda p, q, w, c: Lp(p),
    "weighted": lambda p, q, w, c: WeightedLp(p, w),
    "multiple": lambda p, q, w, c: c * Lp(p),
    "multiple of weighted": lambda p, q, w, c: c * WeightedLp(p, w),
    "sum": lambda p, q, w, c: c * Lp(p) + Lp(q),
    "largest": lambda p, q, w, c: Largest(c * Lp(p), Lp(q)),
}
every_kind = pytest.mark.parametrize("kind", KINDS)
few = settings(max_examples=40, deadline=None)


def size(metric, delta):
    return metric(torch.zeros_like(delta), delta)


def conjugate(p):
    return math.inf if p == 1 else 1.0 if p == math.inf else p / (p - 1)


@every_kind
@few
@given(recipe, vector, vector)
def test_triangle_inequality(kind, recipe, u, v):
    metric = KINDS[kind](*recipe)
    assert size(metric, u + v) <= (size(metric, u) + size(metric, v)) * (1 + ROUNDING)


@every_kind
@few
@given(recipe, vector, st.floats(-100, 100).filter(lambda t: abs(t) > 1e-3))
def test_homogeneity(kind, recipe, u, t):
    metric = KINDS[kind](*recipe)
    torch.testing.assert_close(size(metric, t * u), abs(t) * size(metric, u), rtol=ROUNDING, atol=0)


@few
@given(st.floats(0.2, 1), vector, st.floats(0.01, 100))
def test_homogeneity_below_one(p, u, t):
    """A quasi-norm: homogeneous, but without a triangle inequality."""
    torch.testing.assert_close(size(Lp(p), t * u), t * size(Lp(p), u), rtol=ROUNDING, atol=0)


@few
@given(convex_p, vector, vector)
def test_dual_norm(p, u, g):
    """|<u, g>| <= ||u||_p ||g||_q (Hoelder), with equality for the gradient, which has ||g||_q = 1."""
    dual = Lp(conjugate(p))
    assert (u * g).sum(1).abs() <= size(Lp(p), u) * size(dual, g) * (1 + ROUNDING)
    assume(bool((u != 0).any()))
    value, grad = gradient(Lp(p), torch.zeros_like(u), u)
    # the conjugate of p near 1 is a large power, whose exponent is only known to a rounding times its size
    torch.testing.assert_close(size(dual, grad), torch.ones_like(value), rtol=1e-6, atol=0)
    torch.testing.assert_close((grad * u).sum(1), value, rtol=1e-6, atol=0)


@every_kind
@few
@given(recipe, vector, vector)
def test_subgradient_inequality(kind, recipe, u, z):
    """||z|| >= ||u|| + <g, z - u> with g the gradient at u, at kinks too."""
    metric = KINDS[kind](*recipe)
    value, grad = gradient(metric, torch.zeros_like(u), u)
    scale = value + size(metric, z)
    assert size(metric, z) >= value + (grad * (z - u)).sum(1) - 1e-6 * scale


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("sum", "largest")])
@few
@given(recipe, vector)
def test_the_l_p_form_is_the_metric(kind, recipe, u):
    metric = KINDS[kind](*recipe)
    form = lp_form(metric)
    assert form is not None
    weighted = u if form.weights is None else form.weights * u
    torch.testing.assert_close(size(Lp(form.p), weighted), size(metric, u), rtol=ROUNDING, atol=0)


@every_kind
@few
@given(recipe, mask, vector)
def test_a_held_norm_is_that_of_the_other_pixels(kind, recipe, fixed, u):
    metric = KINDS[kind](*recipe)
    free = u.masked_fill(fixed, 0)
    held = Held(metric, fixed)
    assert torch.equal(size(held, free), size(metric, free))
    assert size(held, u).isinf() == bool((u != free).any())
    value, grad = gradient(held, torch.zeros_like(u), free)
    assert torch.equal(value, size(metric, free))
    assert (grad[:, fixed] == 0).all()
    assert torch.equal(grad[:, ~fixed], gradient(metric, torch.zeros_like(u), free)[1][:, ~fixed])


@every_kind
@few
@given(recipe, st.integers(0, 2**31), st.permutations(range(5)))
def test_values_do_not_depend_on_the_other_rows(kind, recipe, seed, order):
    metric = KINDS[kind](*recipe)
    x, x_adv = torch.rand(2, 5, N, generator=torch.Generator().manual_seed(seed))
    together = values(metric, x, x_adv)
    assert torch.equal(values(metric, x[order], x_adv[order]), together[order])
    assert torch.equal(values(metric, x[:1], x_adv[:1]), together[:1])
