"""torch.set_default_device changes no answer: with a GPU as the default plica ended in tracebacks.

The device meta, whose tensors have no numbers, stands in for it: whatever is made without a device shows at once.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import plica
from core.test_default_dtype import NET, QUESTIONS, X, Y
from plica import Lp, MaxLoss, MinRadius
from plica.training import Inner, Union

OF_PACKAGES = {"apgd-ce", "fab-t", "fmn"}  # other people's code
BOX, RADII = (torch.zeros(3, 8, 8), torch.ones(3, 8, 8)), torch.linspace(0.1, 0.3, 5)
FEW = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)).eval()
ROWS = torch.rand(3, 3, generator=torch.Generator().manual_seed(0))


class Noisy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return NET(x) + 0.01 * torch.randn(len(x), 4, device=x.device)


CALLS: dict[str, Callable[[], Any]] = {
    name: lambda method=method, question=question: plica.attack(NET, X, Y, question, method=method, gradients=16)
    for name, (method, question) in QUESTIONS.items()
    if name not in OF_PACKAGES
} | {
    "pixels": lambda: plica.attack(NET, X, Y, MinRadius(Lp(0)), gradients=10),
    "levels": lambda: plica.attack(NET, X, Y, MinRadius(Lp(2)), gradients=10, levels=256),
    "bounds": lambda: plica.attack(NET, X, Y, MinRadius(Lp(2)), gradients=10, bounds=BOX),
    "radii": lambda: plica.attack(NET, X, Y, MaxLoss(Lp(2), RADII), gradients=10),
    "draws": lambda: plica.attack(Noisy(), X[:2], Y[:2], MinRadius(Lp(2)), gradients=10, draws=4),
    "few": lambda: plica.attack(FEW, ROWS, FEW(ROWS).argmax(1), MinRadius(Lp("inf")), gradients=16),
    "certify": lambda: plica.certify(NET, X[:2], Y[:2], MinRadius(Lp(2)), nodes=2),
    "certify within": lambda: plica.certify(NET, X[:2], Y[:2], MaxLoss(Lp("inf"), 0.01), nodes=2),
    "bracket": lambda: plica.bracket(NET, X[:2], Y[:2], MinRadius(Lp("inf")), gradients=10, nodes=2),
    "training": lambda: Inner(MinRadius(Lp(2)))(NET, X, Y),
    "training within": lambda: Union([MaxLoss(Lp(2), 0.1), MaxLoss(Lp(1), 1.0)])(NET, X, Y),
    "minimize": lambda: plica.minimize(lambda z: (z**2).sum(1), ROWS),
}


def numbers(answer: object) -> list[Tensor]:
    return [value.detach() for name, value in vars(answer).items() if isinstance(value, Tensor) and name != "seconds"]


@pytest.mark.parametrize("name", CALLS)
def test_answers_are_those_without_a_default_device(name):
    expected = numbers(CALLS[name]())
    with torch.device("meta"):
        found = numbers(CALLS[name]())
    assert len(found) == len(expected) > 0
    for own, other in zip(found, expected, strict=True):
        assert own.device == other.device
        assert torch.equal(own.nan_to_num(7.0), other.nan_to_num(7.0))
