"""The path of accelerators on a CPU: sound, repeatable, independent of other rows, as good, and without waits."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import plica
from plica.solver import accelerator

CASES = [("auto", plica.Lp(2)), ("auto", plica.Lp("inf")), ("auto", plica.Lp(1)), ("pwcf", plica.Lp(2))]
GRADIENTS = 25


def small():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(3, 8, 5, 4), nn.ReLU(), nn.Conv2d(8, 8, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(72, 5)
        )
    x = torch.rand(24, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    return net.eval().requires_grad_(False), x, net(x).argmax(1)


@pytest.mark.parametrize(("method", "metric"), CASES, ids=str)
def test_answers_on_the_path_of_accelerators(method, metric):
    net, x, y = small()

    def ask(rows=slice(None)):
        question = plica.MinRadius(metric)
        return plica.attack(net, x[rows], y[rows], question, method=method, gradients=GRADIENTS)

    usual = ask()
    with accelerator.forced():
        found, again, some = ask(), ask(), ask([5, 3, 11])
    assert not accelerator.is_accelerator(x.device)
    for field in ("x_adv", "distance", "gradients"):
        assert torch.equal(getattr(found, field), getattr(again, field))
        assert torch.equal(getattr(found, field)[[5, 3, 11]], getattr(some, field))
    assert found.success.all()
    assert (net.double()(found.x_adv.double()).argmax(1) != y).all()
    assert ((found.x_adv >= 0) & (found.x_adv <= 1)).all()
    torch.testing.assert_close(metric(x.double(), found.x_adv.double()), found.distance)
    # searches amplify roundings row by row, and the mean of 24 is the same to some thousandths
    assert (found.distance / usual.distance).log().mean().abs() < 0.01


def test_few_operations_and_no_wait_inside_a_stage(monkeypatch):
    path = Path(__file__).parents[2] / "benchmarks" / "launches.py"
    spec = importlib.util.spec_from_file_location("launches", path)
    launches = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "launches", launches)
    spec.loader.exec_module(launches)
    row, count = launches.measure("l2", images=8, gradients=30, where=True)
    assert row["stage waits"] == 0, count.lines
    assert 20 < row["operations"] < 235  # of a short attack; of 100 gradients 190
    with launches.counted() as known:
        mask = torch.tensor([1.0, 0.0]) + 1 > 1  # two operations
        assert mask.nonzero().cpu().tolist() == [[0]]  # an operation and three waits
    assert (known.operations, known.waits) == (3, 3)


def test_memory_is_kept_from_step_to_step():
    scratch = accelerator.Scratch()
    first = scratch(4, torch.zeros(3, 5))
    second = scratch(2, torch.zeros(3, 5))
    assert first.shape == (4, 3, 5)
    assert second.shape == (2, 3, 5)
    assert second.data_ptr() == first.data_ptr()
    assert scratch(4, torch.zeros(9, 5)).shape == (4, 9, 5)
