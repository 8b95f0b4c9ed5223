"""How a question is written for the solver: there and back, gradients against autograd, sizes in the solver's units."""

import math

import pytest
import torch

from plica.attacks.pwcf.parametrization import Plain, Powered, Sine, parametrize, within
from plica.metrics import Lp

SHAPE, N = (3, 2, 2), 12
BOUNDS = (0.0, 1.0)


def images(r=4, seed=0, spread=0.1):
    """Images near the middle of the box and others not far from them."""
    generator = torch.Generator().manual_seed(seed)
    x = 0.4 + 0.2 * torch.rand(r, N, generator=generator, dtype=torch.float64)
    return x, x + spread * (2 * torch.rand(r, N, generator=generator, dtype=torch.float64) - 1)


def weighted(x, z):
    return torch.linalg.vector_norm((z - x).flatten(1) * torch.linspace(1, 2, N).to(x), dim=1)


def posed(metric, radius=None):
    x, z = images()
    return parametrize(
        metric, SHAPE, BOUNDS, z - x, None if radius is None else torch.full((len(x),), radius, dtype=torch.float64)
    )


METRICS = [Lp(0.5), Lp(1), Lp(1.5), Lp(2), Lp(4), Lp("inf"), weighted]
NAMES = ["l0.5", "l1", "l1.5", "l2", "l4", "linf", "weighted"]
EVERY = pytest.mark.parametrize("metric", METRICS, ids=NAMES)


@EVERY
def test_points_are_recovered_from_their_parameters(metric):
    x, z = images()
    parametrization = posed(metric)
    back = parametrization.image(parametrization.start(x, z), x)
    floor = 0.0
    if isinstance(parametrization, Powered):  # entries that hardly move start at the floor
        floor = parametrization.floor ** (2 / parametrization.p)
        moved = (z - x).abs() > floor
        assert (back - z).abs()[~moved].le(2 * floor).all()
        back, z = back[moved], z[moved]
    torch.testing.assert_close(back, z, rtol=1e-9, atol=1e-9)


@EVERY
@pytest.mark.parametrize("radius", [None, 0.3])
def test_pull_against_autograd(metric, radius):
    x, z = images()
    parametrization = posed(metric, radius)
    u = parametrization.start(x, z).requires_grad_(True)
    weights = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=x.dtype)
    (expected,) = torch.autograd.grad((parametrization.image(u, x) * weights).sum(), u)
    torch.testing.assert_close(parametrization.pull(u.detach(), weights), expected)


def assert_gradient(term, u):
    """The gradient of a term against central differences, float64."""
    value, grad = term(u)
    step = 1e-6
    for j in range(u.shape[1]):
        e = torch.zeros_like(u)
        e[:, j] = step
        slope = (term(u + e)[0] - term(u - e)[0]) / (2 * step)
        torch.testing.assert_close(grad[:, j], slope, rtol=1e-5, atol=1e-7)  # rounding over the step, and step^2
    assert value.shape == u.shape[:1]


@EVERY
def test_the_gradient_of_size(metric):
    x, z = images()
    parametrization = posed(metric)
    assert_gradient(lambda u: parametrization.size(u, x), parametrization.start(x, z))


@EVERY
def test_the_gradient_of_excess(metric):
    x, z = images()
    radius = torch.linspace(0.1, 0.4, len(x), dtype=torch.float64)
    parametrization = posed(metric, 0.3)
    u = parametrization.start(x, z)
    if isinstance(parametrization, Sine):
        assert parametrization.excess(u, x, radius) is None
    else:
        assert_gradient(lambda u: parametrization.excess(u, x, radius), u)


@pytest.mark.parametrize("p", [0.5, 1, 1.5])
def test_powered_size_is_a_power_of_the_distance(p):
    """||x' - x||_p = ||a||_2^(2/p), as long as x' stays in the box."""
    x, z = images()
    parametrization = posed(Lp(p))
    u = parametrization.start(x, z)
    distance = Lp(p)(x, parametrization.image(u, x))
    torch.testing.assert_close(parametrization.size(u, x)[0] ** (2 / p), distance)


@pytest.mark.parametrize("p", [0.5, 1, 1.5])
def test_powered_size_is_that_of_the_clamped_image(p):
    """Far outside the box, where the model sees x' clamped: the distance is that of what it sees, and does not grow."""
    x, _ = images()
    parametrization = posed(Lp(p))
    u = 3 * torch.randn(x.shape, generator=torch.Generator().manual_seed(2), dtype=x.dtype)
    seen = parametrization.image(u, x).clamp(*BOUNDS)
    assert (seen != parametrization.image(u, x)).any()
    value, grad = parametrization.size(u, x)
    torch.testing.assert_close(value ** (2 / p), Lp(p)(x, seen))
    assert (grad[(seen != parametrization.image(u, x))] == 0).all()


@pytest.mark.parametrize("p", [2, 4, 8])
def test_plain_size_is_scaled_to_that_of_l2(p):
    x, _ = images()
    even = x + 0.07
    torch.testing.assert_close(posed(Lp(p)).size(even, x)[0], Lp(2)(x, even))


def test_plain_size_of_any_callable_is_its_value():
    x, z = images()
    torch.testing.assert_close(posed(weighted).size(z, x)[0], weighted(x, z))


def test_sine_size_bounds_the_distance():
    """t sqrt(n), and |x' - x| <= t whatever the unknowns; for an even perturbation that is its l_2 norm."""
    x, z = images()
    parametrization = posed(Lp("inf"))
    u = parametrization.start(x, z)
    t = u[:, N] / math.sqrt(N)
    torch.testing.assert_close(parametrization.size(u, x)[0], t * math.sqrt(N))
    for scale in (1.0, 5.0, 100.0):
        moved = torch.cat([scale * u[:, :N], u[:, N:]], 1)
        assert (Lp("inf")(x, parametrization.image(moved, x)) <= t * (1 + 1e-12)).all()


def test_sine_at_the_start_leaves_room_to_turn():
    x, z = images()
    parametrization = posed(Lp("inf"))
    u = parametrization.start(x, z)
    torch.testing.assert_close(u[:, N] / math.sqrt(N) * parametrization.turn, Lp("inf")(x, z))


def test_sine_within_a_radius():
    x, z = images(spread=0.05)
    radius = torch.tensor([0.05, 0.1, 0.2, 0.3], dtype=torch.float64)
    parametrization = parametrize(Lp("inf"), SHAPE, BOUNDS, z - x, radius)
    u = 10 * torch.randn(x.shape, generator=torch.Generator().manual_seed(3), dtype=x.dtype)
    assert (Lp("inf")(x, parametrization.image(u, x)) <= radius * (1 + 1e-12)).all()


@EVERY
def test_excess_is_negative_exactly_inside(metric):
    x, z = images()
    distance = metric(x, posed(metric).image(posed(metric).start(x, z), x))
    parametrization = posed(metric, 0.3)
    u = parametrization.start(x, z)
    if isinstance(parametrization, Sine):
        return
    for factor, sign in ((0.9, 1), (1.1, -1)):
        assert (parametrization.excess(u, x, factor * distance)[0].sign() == sign).all()


@EVERY
@pytest.mark.parametrize("radius", [None, 0.0])
def test_where_nothing_moved_all_is_finite(metric, radius):
    x, _ = images()
    radii = None if radius is None else torch.zeros(len(x), dtype=x.dtype)
    parametrization = parametrize(metric, SHAPE, BOUNDS, torch.zeros_like(x), radii)
    u = parametrization.start(x, x)
    assert parametrization.image(u, x).isfinite().all()
    assert parametrization.pull(u, torch.ones_like(x)).isfinite().all()
    term = parametrization.size(u, x) if radius is None else parametrization.excess(u, x, radii)
    if not (isinstance(parametrization, Sine) and radius is not None):  # whose ball holds by itself
        assert all(part.isfinite().all() for part in term)


def test_which_metric_is_written_how():
    kinds = [type(posed(metric)) for metric in METRICS]
    assert kinds == [Powered, Powered, Powered, Plain, Plain, Sine, Plain]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-1.0, 1.0), (0.1, 0.7)])
def test_the_gradient_of_a_clamp_counts_the_bounds_as_inside(bounds, dtype):
    low, high = (torch.tensor(bound, dtype=dtype) for bound in bounds)
    past = torch.nextafter(low, low - 1), torch.nextafter(high, high + 1)
    u = torch.stack([low, high, (low + high) / 2, *past, low - 1, high + 1])[None]
    assert within(bounds, u, torch.full_like(u, 2.0)).tolist() == [[2, 2, 2, 0, 0, 0, 0]]
