"""What can be seen of devices without another one: numbers of rows are made where the rows are."""

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

import plica


class Placed(TorchFunctionMode):
    """Refuses numbers of rows that are made on the default device."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.arange and not getattr(kwargs.get("dtype"), "is_floating_point", False):
            assert "device" in kwargs, "torch.arange without a device"
        return func(*args, **kwargs)


@pytest.mark.parametrize(
    "question",
    [
        plica.MinRadius("theta", through=plica.Flow()),
        plica.MinRadius("theta", through=plica.Recolor()),
        plica.MinRadius("theta", through=plica.RotateTranslate()),
        plica.MinRadius(plica.Lp(2)),
        plica.MinRadius(plica.Lp(0)),
        plica.MaxLoss(plica.Lp("inf"), radius=0.1),
    ],
    ids=["flow", "recolor", "rotate", "l2", "l0", "max-loss"],
)
def test_rows_are_numbered_on_the_device_of_the_images(question):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 16), nn.ReLU(), nn.Linear(16, 4)).eval()
    x = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    with Placed():
        result = plica.attack(net, x, net(x).argmax(1), question, gradients=12)
    assert result.distance.shape == (2,)
