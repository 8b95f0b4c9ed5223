"""Products in TF32, as GPUs have them by default: ten bits of each number. Simulated on the path of accelerators."""

import pytest
import torch
from torch import nn

import plica
from plica import Lp, MinRadius
from plica.core.model.precision import without_tf32
from plica.solver.accelerator import forced


def ten_bits(t: torch.Tensor) -> torch.Tensor:
    """In float32 where TF32 is allowed; the gradient passes straight through."""
    if t.dtype != torch.float32 or not torch.backends.cudnn.allow_tf32:
        return t
    with torch.no_grad():
        change = ((t.view(torch.int32) + 2**12) & -(2**13)).view(torch.float32) - t
    return t + change


class Coarse(nn.Module):
    def __init__(self, layers: nn.Sequential):
        super().__init__()
        self.layers = layers

    def forward(self, z):
        for layer in self.layers:
            product = isinstance(layer, nn.Conv2d | nn.Linear)
            z = ten_bits(layer(ten_bits(z))) if product else layer(z)
        return z


def case(count: int = 24):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 12, 3, stride=2), nn.ReLU(), nn.Flatten(),
            nn.Linear(192, 40), nn.ReLU(), nn.Linear(40, 5),
        ).eval().requires_grad_(False)  # fmt: skip
    x = torch.rand(count, 3, 2, 2, generator=torch.Generator().manual_seed(1))
    x = nn.functional.interpolate(x, 11, mode="bilinear")
    net[-1].bias -= net(x).mean(0)
    return net, x, net(x).argmax(1)


@pytest.mark.parametrize("gradients", [10, 30])
@pytest.mark.parametrize("form", ["module", "function"])
def test_no_point_is_made_of_the_rounding_and_none_is_lost(form, gradients):
    net, x, y = case()
    model = Coarse(net)
    with forced():
        result = plica.attack(
            model if form == "module" else lambda z: model(z), x, y, MinRadius(Lp(2)), gradients=gradients
        )
    assert result.success.all()
    assert (model(result.x_adv).argmax(1) != y).all()
    assert (net.double()(result.x_adv.double()).argmax(1) != y).all()
    assert (result.forwards <= max(2, gradients // 5)).all()


def test_a_model_in_all_digits_has_the_answers_it_had():
    net, x, y = case(6)
    with forced():
        fine = plica.attack(net, x, y, MinRadius(Lp(2)), gradients=10)
    assert torch.equal(fine.x_adv, plica.attack(net, x, y, MinRadius(Lp(2)), gradients=10).x_adv)


def test_the_setting_is_as_it_was():
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    with without_tf32():
        assert not torch.backends.cudnn.allow_tf32
    assert (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32) == before
