"""Distances: their values, their gradients, and the strings that name them."""

import math

import numpy as np
import pytest
import torch

import plica
from plica import metrics
from plica.metrics import SMOOTHING, Lp, distance, gradient, parse_metric, power, total, warn_of_slip

P = (0.5, 0.8, 1, 1.25, 1.5, 2, 3, 4, 8, 100, math.inf)


def pair(b=6, n=20, dtype=torch.float64, seed=0):
    """Images and perturbed ones, a quarter of the pixels unchanged."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(b, n, generator=generator, dtype=dtype)
    delta = torch.randn(b, n, generator=generator, dtype=dtype) * torch.tensor([1e-6, 1e-3, 0.1, 1, 10, 1e4])[
        :, None
    ].to(dtype)
    delta[:, ::4] = 0
    return x, x + delta


def by_definition(p, delta):
    """The norm of each row, in plain Python."""
    rows = [[abs(v) for v in row] for row in delta.tolist()]
    return torch.tensor(
        [max(row) if p == math.inf else sum(v**p for v in row) ** (1 / p) for row in rows], dtype=torch.float64
    )


@pytest.mark.parametrize("p", [p for p in P if p != 100])
def test_norm(p):
    x, x_adv = pair()
    torch.testing.assert_close(Lp(p)(x, x_adv), by_definition(p, x_adv - x))
    images, images_adv = x.view(6, 5, 2, 2), x_adv.view(6, 5, 2, 2)
    assert torch.equal(Lp(p)(images, images_adv), Lp(p)(x, x_adv))


@pytest.mark.parametrize("p", P)
@pytest.mark.parametrize("size", [1e-12, 1e12])
def test_no_power_under_or_overflows(p, size):
    """float32 ends at 3e38 and 1e-45: the eighth power of either size would be lost."""
    delta = torch.full((1, 4), size)
    expected = size * (1 if p == math.inf else 4 ** (1 / p))
    torch.testing.assert_close(Lp(p).norm(delta), torch.tensor([expected]), rtol=1e-5, atol=0)


@pytest.mark.parametrize("p", [p for p in P if p >= 1])
def test_gradient_against_autograd(p):
    """Away from kinks: every pixel moves, and one of them most."""
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(5, 12, generator=generator, dtype=torch.float64)
    x_adv = x + torch.randn(5, 12, generator=generator, dtype=torch.float64)
    z = x_adv.clone().requires_grad_(True)
    (expected,) = torch.autograd.grad(torch.linalg.vector_norm(z - x, ord=p, dim=1).sum(), z)
    value, grad = Lp(p).gradient(x, x_adv)
    torch.testing.assert_close(value, torch.linalg.vector_norm(x_adv - x, ord=p, dim=1))
    torch.testing.assert_close(grad, expected)


@pytest.mark.parametrize("p", P)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_where_nothing_moved(p, dtype):
    x = torch.rand(3, 7, dtype=dtype)
    value, grad = Lp(p).gradient(x, x.clone())
    assert (value == 0).all()
    assert (grad == 0).all()
    one = x.clone()
    one[0, 2] += 0.25
    value, grad = Lp(p).gradient(x, one)
    assert grad.isfinite().all()
    torch.testing.assert_close(value, torch.tensor([0.25, 0, 0], dtype=dtype), rtol=1e-6, atol=0)
    assert grad[0].argmax() == 2


@pytest.mark.parametrize("p", [p for p in P if p >= 1])
def test_subgradient(p):
    """||z|| >= ||x_adv|| + g.(z - x_adv) for every z, at kinks too."""
    x, x_adv = pair()
    value, grad = Lp(p).gradient(x, x_adv)
    generator = torch.Generator().manual_seed(2)
    for _ in range(50):
        z = x_adv + (x_adv - x).abs().amax(1, keepdim=True) * torch.randn(x.shape, generator=generator, dtype=x.dtype)
        below = value + (grad * (z - x_adv)).sum(1)
        assert (Lp(p)(x, z) >= below - 1e-9 * value).all()  # float64, values of up to 1e5


@pytest.mark.parametrize("p", [0.3, 0.5, 0.8])
def test_below_one_the_gradient_is_that_of_the_smoothed_norm(p):
    x = torch.zeros(2, 6, dtype=torch.float64)
    x_adv = torch.tensor([[0.0, 1e-4, -1e-3, 0.01, -0.3, 1.0], [0, 0, 0, 0, 0, 2e-3]], dtype=torch.float64)
    z = x_adv.clone().requires_grad_(True)
    smooth = ((z**2 + SMOOTHING**2) ** (p / 2)).sum(1) ** (1 / p)
    (expected,) = torch.autograd.grad(smooth.sum(), z)
    value, grad = Lp(p).gradient(x, x_adv)
    torch.testing.assert_close(grad, expected)
    torch.testing.assert_close(value, by_definition(p, x_adv))  # the value is exact all the same
    assert SMOOTHING == 1e-3


def test_the_gradient_of_any_callable():
    x, x_adv = pair()
    calls = []

    def weighted(a, b):
        calls.append(b.requires_grad)
        return ((b - a) ** 2 * torch.arange(20)).sum(1)

    with torch.no_grad():
        value, grad = gradient(weighted, x, x_adv)
    torch.testing.assert_close(value, weighted(x, x_adv))
    torch.testing.assert_close(grad, 2 * (x_adv - x) * torch.arange(20))
    assert calls[0]
    assert not value.requires_grad


def test_the_gradient_of_a_norm_has_the_shape_of_the_image():
    x, x_adv = pair()
    value, grad = gradient(Lp(2), x.view(6, 5, 2, 2), x_adv.view(6, 5, 2, 2))
    assert (value.shape, grad.shape) == ((6,), (6, 5, 2, 2))
    assert torch.equal(grad.flatten(1), Lp(2).gradient(x, x_adv)[1])


@pytest.mark.parametrize("exponent", [0.3, 0.5, 1, 1.7, 2, 7])
def test_power(exponent):
    t = torch.tensor([0.0, 1e-30, 0.1, 1, 1.5, 1e4], dtype=torch.float64)
    torch.testing.assert_close(power(t, exponent), t**exponent, rtol=1e-12, atol=0)


@pytest.mark.parametrize("n", [1, 5, 48, 1000, 3072])
def test_total_does_not_depend_on_the_number_of_rows(n):
    t = torch.rand(40, n, generator=torch.Generator().manual_seed(3))
    together = total(t)
    torch.testing.assert_close(together, t.double().sum(1).float())
    for rows in (1, 2, 3, 7, 16, 33):
        assert torch.equal(total(t[:rows]), together[:rows])


@pytest.mark.parametrize("p", [0.5, 1, 1.25, 1.5, 2, 3, 8, math.inf])
def test_norms_do_not_depend_on_the_number_of_rows(p):
    x, x_adv = (torch.rand(40, 3072, generator=torch.Generator().manual_seed(seed)) for seed in (4, 5))
    value, grad = Lp(p).gradient(x, x_adv)
    for rows in ([0], [17], [39, 3], list(range(33))):
        v, g = Lp(p).gradient(x[rows], x_adv[rows])
        assert torch.equal(v, value[rows])
        assert torch.equal(g, grad[rows])
        assert torch.equal(Lp(p)(x[rows], x_adv[rows]), value[rows])


def test_distance_is_taken_in_float64():
    x = torch.full((1, 4), 0.1)
    x_adv = x + 1e-3
    found = distance(Lp(1), x, x_adv)
    assert found.dtype == torch.float64
    assert found.item() == (x_adv.double() - x.double()).abs().sum().item()


def test_distance_of_a_metric_that_knows_float32_only():
    features = torch.nn.Linear(4, 3)

    def perceptual(x, x_adv):
        return (features(x) - features(x_adv)).norm(dim=1)

    x, x_adv = torch.rand(2, 5, 4, generator=torch.Generator().manual_seed(6))
    found = distance(perceptual, x, x_adv)
    assert found.dtype == torch.float64
    with torch.no_grad():
        torch.testing.assert_close(found.float(), perceptual(x, x_adv))  # sums of float32 in another order


@pytest.mark.parametrize("p", [1, 1.5, 2, 8, math.inf])
def test_scale_brings_an_even_perturbation_to_its_l2_norm(p):
    even = torch.full((1, 50), 0.3, dtype=torch.float64)
    torch.testing.assert_close(Lp(p).norm(even) * Lp(p).scale(50), Lp(2).norm(even))


@pytest.mark.parametrize(
    ("text", "p"), [("l1", 1), ("l2", 2), ("l1.5", 1.5), ("l8", 8), ("linf", math.inf), ("l0.5", 0.5), ("l1e1", 10)]
)
def test_names_of_norms(text, p):
    assert parse_metric(text) == Lp(p)


def test_a_norm_is_written_as_it_is_read():
    for p in P:
        assert parse_metric(str(Lp(p))) == Lp(p)
    assert Lp("inf") == Lp(math.inf) == Lp(float("inf"))


def test_the_name_of_a_function():
    assert parse_metric("plica.metrics:total") is total


BAD = ["", "l", "2", "l0-", "l2-pixel", "l-1", "lnan", "l2x", "L2"]
BAD_FUNCTIONS = {
    ":f": "':f' is not of the form file.py:name or package.module:name",
    "math:": "'math:' is not of the form",
    ".m:f": "The metric's module .m cannot be imported",
    "nowhere_at_all:f": "The metric's module nowhere_at_all cannot be imported: ModuleNotFoundError",
    "nowhere_at_all.py:f": "There is no metric file nowhere_at_all.py",
    "plica.metrics:no_such": "plica.metrics has no 'no_such'; it has",
    "plica.metrics:SMOOTHING": "'plica.metrics:SMOOTHING' is a float, not a function",
}


@pytest.mark.parametrize(("text", "said"), BAD_FUNCTIONS.items())
def test_what_is_not_the_name_of_a_function(text, said):
    with pytest.raises(ValueError, match=said):
        parse_metric(text)


@pytest.mark.parametrize("text", BAD)
def test_bad_names(text):
    with pytest.raises(ValueError, match=r"file\.py:function") as caught:
        parse_metric(text)
    assert text in str(caught.value)


@pytest.mark.parametrize("p", [-1, -1e-9, float("nan"), "two", "-inf", False, True])
def test_bad_norms(p):
    with pytest.raises(ValueError, match="p >= 0"):
        Lp(p)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_p_of_zero_counts_what_changed(dtype):
    x = torch.rand(3, 2, 4, 4, generator=torch.Generator().manual_seed(0)).to(dtype)
    x_adv = x.clone()
    x_adv[1, :, 0, 0] += 1e-3
    x_adv[1, 1, 3, 2] = 0
    x_adv[2] = torch.nextafter(x[2], torch.ones_like(x[2]))
    assert distance(Lp(0), x, x_adv).tolist() == [0, 3, 32]
    assert distance(Lp(0, group="pixel"), x, x_adv).tolist() == [0, 2, 16]
    held = plica.Held(Lp(0, group="pixel"), torch.arange(4) == 3)
    assert distance(held, x, x_adv).tolist() == [0, 2, torch.inf]
    value, grad = Lp(0).gradient(x, x_adv)
    assert value.tolist() == [0, 3, 32]
    assert (grad == 0).all()


def test_a_count_says_what_it_is():
    for metric, text, what in ((Lp(0), "l0", "entry"), (Lp(0, group="pixel"), "l0-pixel", "pixel")):
        assert str(metric) == text
        assert parse_metric(text) == metric
        assert metrics.counts(metric) == metrics.counts(plica.Held(metric, torch.tensor([True, False]))) == what
        assert metrics.lp_form(metric) is None
        assert metrics.properties(metric) == metrics.MetricProperties(batch_invariant=True)
    assert eval(repr(Lp(0, group="pixel")), {"Lp": Lp}) == Lp(0, group="pixel") != Lp(0)
    assert repr(Lp(2)) == "Lp(p=2.0)"
    assert metrics.counts(Lp(1)) is None


def test_a_count_has_no_weights_and_no_part_in_other_distances():
    for p, group in ((2, "pixel"), (0, "channel"), (0, 3)):
        with pytest.raises(ValueError, match='"pixel" with p = 0'):
            Lp(p, group)
    with pytest.raises(ValueError, match="channels"):
        Lp(0, group="pixel")(torch.zeros(2, 3), torch.ones(2, 3))
    with pytest.raises(ValueError, match="Held"):
        plica.WeightedLp(0, torch.ones(3))
    for combine in (lambda m: 2 * m, lambda m: Lp(2) + m, lambda m: m + Lp(2), lambda m: plica.Largest(Lp(2), m)):
        with pytest.raises(metrics.Unsupported, match="l0 is a count"):
            combine(Lp(0))


WRONG_WEIGHTS = (plica.WeightedLp(2, torch.ones(4)), 2 * plica.WeightedLp(1, torch.ones(2, 5)))


@pytest.mark.parametrize("metric", WRONG_WEIGHTS, ids=str)
@pytest.mark.parametrize("bounds", [(0.0, 1.0), (torch.zeros(5), torch.ones(5))], ids=["numbers", "features"])
@pytest.mark.parametrize("ask", [plica.attack, plica.certify])
def test_weights_of_another_shape_are_refused(metric, bounds, ask):
    """What torch says of two shapes was shown."""
    x = torch.rand(2, 5, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match=r"weights of the distance have shape \(.*image, \(5,\); give a weight"):
        ask(torch.nn.Linear(5, 3), x, torch.zeros(2).long(), plica.MinRadius(metric), bounds=bounds)


def test_fixed_pixels_are_bool_and_fit_the_weights():
    for pixels, seen in ((torch.ones(4).long(), "torch.int64"), (torch.ones(4) > 0, "all of them")):
        with pytest.raises(ValueError, match=f"not all of them, got {seen}"):
            plica.Held(Lp(2), pixels)
    with pytest.raises(ValueError, match=r"got pixels of shape \(5,\) and weights of another"):
        plica.Held(plica.WeightedLp(2, torch.ones(4)), torch.zeros(5).bool())


def test_unsupported_is_wrong_input():
    assert issubclass(metrics.Unsupported, ValueError)


def test_a_p_that_may_be_a_slip_is_warned_of():
    with pytest.warns(UserWarning, match=r"l22 is the l_p norm with p = 22; write l22\.0 if"):
        warn_of_slip("l22")
    for text in ("l22.0", "l16", "linf", "l0", "lpips", "net:l22"):  # a warning would be an error
        warn_of_slip(text)
    assert parse_metric("l22.0") == Lp(22)


def test_weights_that_are_an_array_are_refused():
    """Deviations of columns come from numpy; the error was that an array has no isfinite."""
    with pytest.raises(TypeError, match=r"must be a tensor, got ndarray; write torch.as_tensor\(weights\)"):
        plica.WeightedLp(2, np.ones(3))
