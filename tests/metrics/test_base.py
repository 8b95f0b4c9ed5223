"""What a metric says of itself, and that searches use it: its own gradient, its l_p form."""

import pytest
import torch

import plica
from linear import linear
from plica.core.metric_checks import check_metric
from plica.metrics import BaseMetric, Combinable, MetricProperties, differentiable_value, gradient, lp_form, properties


class Counted:
    """The l_2 norm with a gradient of its own; counts its calls, and refuses to be differentiated by autograd."""

    def __init__(self):
        self.calls = 0

    def __call__(self, x, x_adv):
        assert not (torch.is_grad_enabled() and x_adv.requires_grad), "autograd was used"
        return torch.linalg.vector_norm((x_adv - x).flatten(1), dim=1)

    def gradient(self, x, x_adv):
        self.calls += 1
        delta = (x_adv - x).detach()
        value = torch.linalg.vector_norm(delta.flatten(1), dim=1)
        length = torch.where(value > 0, value, 1).view(-1, *[1] * (x.ndim - 1))
        return value, delta / length


@pytest.mark.parametrize("method", ["auto", "curved", "pwcf", "lpa"])
def test_a_gradient_of_its_own_is_what_searches_use(method):
    case, metric = linear(b=2, shape=(3, 4, 4)), Counted()
    radius = -case.margin / case.model.w.norm()
    question = plica.MaxLoss(metric, 2 * radius) if method == "lpa" else plica.MinRadius(metric)
    result = plica.attack(case.model, case.x, case.y, question, method=method, gradients=30)
    assert result.success.all()
    assert metric.calls > 10


@pytest.mark.parametrize("around", [lambda d: 0.5 * plica.Lp(1) + d, lambda d: plica.Largest(d, plica.Lp("inf")),
                                    lambda d: plica.Held(d, torch.arange(48).view(3, 4, 4) % 5 == 0)])  # fmt: skip
def test_a_gradient_of_its_own_is_used_inside_other_metrics(around):
    case, metric = linear(b=2, shape=(3, 4, 4)), Counted()
    result = plica.attack(case.model, case.x, case.y, plica.MinRadius(around(metric)), gradients=20)
    assert result.success.all()
    assert metric.calls > 10
    x_adv = case.x + torch.where(torch.arange(48).view(3, 4, 4) % 5 == 0, 0, 0.01)
    value, grad = gradient(around(metric), case.x, x_adv)
    expected = gradient(around(plica.Lp(2)), case.x, x_adv)
    torch.testing.assert_close(value, expected[0])
    torch.testing.assert_close(grad, expected[1])


def test_a_gradient_of_its_own_is_used_through_a_perturbation():
    case, metric = linear(b=2, shape=(3, 4, 4)), Counted()
    directions = torch.randn(7, 48, generator=torch.Generator().manual_seed(2))
    for on, distance in (("theta", metric), (metric, plica.Lp(2))):
        through = plica.Perturbation(lambda x, t: x + (t @ directions).view_as(x), torch.zeros(7), distance)
        before = metric.calls
        assert plica.attack(
            case.model, case.x, case.y, plica.MinRadius(on, through=through), gradients=30
        ).success.all()
        assert metric.calls > before + 10


def test_autograd_goes_through_a_gradient_of_its_own():
    x, x_adv = torch.rand(2, 4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    inside = x_adv.clone().requires_grad_(True)
    (3 * differentiable_value(Counted(), x, 2 * inside)).sum().backward()
    torch.testing.assert_close(inside.grad, 6 * gradient(plica.Lp(2), x, 2 * x_adv)[1])


@pytest.mark.parametrize(
    ("returned", "says"),
    [
        (lambda v, g: (v, g.flatten(1)), r"gradient of shape \(2, 3, 4, 4\), got \(2,\) and \(2, 48\)"),
        (lambda v, g: (v.sum(), g), r"value of shape \(2,\)"),
        (lambda v, g: (2 * v, g), "make them agree"),
        (lambda v, g: (v, g / 0), "gradient is not finite beside an image"),
    ],
)
def test_a_bad_gradient_of_its_own_is_said_before_any_work(returned, says):
    class Wrong(Counted):
        def gradient(self, x, x_adv):
            return returned(*super().gradient(x, x_adv))

    with pytest.raises(ValueError, match=says):
        check_metric(Wrong(), torch.rand(2, 3, 4, 4))


@pytest.mark.parametrize("method", ["radius", "auto"])
@pytest.mark.parametrize("p", [0.5, 1, 1.5, 2, "inf"])
def test_half_a_norm_keeps_its_prox(p, method):
    """The same search, and every distance exactly half: 0.5 changes no bit of a mantissa.

    For p = 0.5 its root does, and pixels differ in the last bit.
    """
    case = linear(b=3, shape=(3, 4, 4))
    whole, half = (
        plica.attack(case.model, case.x, case.y, plica.MinRadius(metric), method=method, gradients=40)
        for metric in (plica.Lp(p), 0.5 * plica.Lp(p))
    )
    bits, relative = (3, 1e-5) if p == 0.5 else (0, 0)
    torch.testing.assert_close(half.x_adv, whole.x_adv, rtol=0, atol=bits * torch.finfo(torch.float32).eps)
    torch.testing.assert_close(half.distance, whole.distance / 2, rtol=relative, atol=0)
    assert whole.success.all()


def test_a_scaled_norm_has_weights():
    assert lp_form(plica.Lp(2)).weights is None
    assert lp_form(3 * plica.Lp(2)).weights == 3
    weighted = 2 * plica.WeightedLp(1, torch.tensor([1.0, torch.inf]))
    assert lp_form(weighted).weights.tolist() == [2, torch.inf]
    assert lp_form(plica.Lp(2) + plica.Lp(2)) is None
    case = linear(b=1)
    with pytest.raises(plica.Unsupported, match=r"needs its prox; l2 \+ l1 has none"):
        plica.attack(case.model, case.x, case.y, plica.MinRadius(plica.Lp(2) + plica.Lp(1)), method="radius")


def test_what_nothing_is_said_of():
    assert properties(lambda x, z: (z - x).flatten(1).sum(1)) == MetricProperties()
    assert BaseMetric().properties == MetricProperties()
    assert Combinable().lp_form() is None
    assert Combinable().fixed_pixels() is None
