"""torch.set_default_dtype changes no answer: it moved those of auto by 3e-6, and ended curved and apgd-ce in errors."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

import plica
from plica import Lp, MaxLoss, MinRadius, trust
from plica.metrics import CIEDE2000
from plica.models.adapt import Adapted


@contextmanager
def double_by_default() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def network() -> tuple[nn.Module, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 4)).eval()
    with torch.no_grad():
        for weights in net.parameters():
            weights.copy_(0.2 * torch.randn(weights.shape, generator=generator))
    x = torch.rand(5, 3, 8, 8, generator=generator)
    return net, x, net(x).argmax(1)


NET, X, Y = network()  # in float32


def powers(x: Tensor, x_adv: Tensor) -> Tensor:
    return (x_adv - x).flatten(1).abs().pow(1.5).sum(1)


QUESTIONS = {
    "auto-l2": ("auto", MinRadius(Lp(2))),
    "auto-l1": ("auto", MinRadius(Lp(1))),
    "auto-l0.5": ("auto", MinRadius(Lp(0.5))),
    "auto-inside": ("auto", MaxLoss(Lp("inf"), 0.05)),
    "pwcf-l1.5": ("pwcf", MinRadius(Lp(1.5))),
    "curved-function": ("curved", MinRadius(powers)),
    "auto-colour": ("auto", MinRadius(CIEDE2000())),
    "auto-sum": ("auto", MinRadius(Lp(2) + 0.5 * Lp(1))),
    "pgd": ("pgd", MaxLoss(Lp(2), 0.5)),
    "flow": ("auto", MinRadius("theta", plica.Flow())),
    "grid": ("grid", MinRadius("theta", plica.RotateTranslate())),
    "hue": ("auto", MinRadius(Lp(2), plica.HueSaturation())),
    "apgd-ce": ("apgd-ce", MaxLoss(Lp("inf"), 0.05)),
    "fab-t": ("fab-t", MinRadius(Lp(2))),
    "fmn": ("fmn", MinRadius(Lp("inf"))),
}


@pytest.mark.parametrize("name", QUESTIONS)
def test_answers_are_equal_to_the_bit(name):
    method, question = QUESTIONS[name]
    if method in ("apgd-ce", "fab-t"):
        pytest.importorskip("pyautoattack")
    if method == "fmn":
        pytest.importorskip("foolbox")
    expected = plica.attack(NET, X, Y, question, method=method, gradients=10)
    with double_by_default():
        result = plica.attack(NET, X, Y, question, method=method, gradients=10)
        assert torch.get_default_dtype() == torch.float64
    assert result.x_adv.dtype == torch.float32
    assert torch.equal(result.x_adv, expected.x_adv)
    assert torch.equal(result.distance, expected.distance)
    assert result.status == expected.status


def test_a_model_meets_the_default_that_its_user_has_set():
    pytest.importorskip("pyautoattack")
    met = set()

    def model(x):
        met.add(torch.get_default_dtype())
        return NET(x)

    with double_by_default():
        plica.attack(model, X, Y, MaxLoss(Lp("inf"), 0.05), method="apgd-ce", gradients=5)
    assert met == {torch.float64}


def answers_of_the_solver() -> Tensor:
    x0 = torch.tensor([[1.5, -0.5], [0.2, 0.7]], dtype=torch.float32)
    return plica.minimize(lambda x: ((x**2).sum(1) + (x[:, 0] - 1).abs(), x[:, 1:] - 0.1), x0).x


def verdict_of_the_checks() -> trust.Verdict:
    return trust.examine(NET, X, Y)


def normalised_logits() -> Tensor:
    return Adapted(NET, ((0.5, 0.4, 0.3), (0.2, 0.2, 0.1)))(X)


@pytest.mark.parametrize("function", [answers_of_the_solver, verdict_of_the_checks, normalised_logits])
def test_so_are_those_of_the_solver_the_checks_and_a_normalisation(function: Callable[[], object]):
    expected = function()
    with double_by_default():
        result = function()
    if isinstance(expected, Tensor) and isinstance(result, Tensor):
        assert result.dtype == expected.dtype
        assert torch.equal(result, expected)
    else:
        assert result == expected
