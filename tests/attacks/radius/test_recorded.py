"""On a GPU what follows the model calls of a stage is recorded and replayed. Without one, a list of the operations
takes the place of the recording: replaying it does the same to the same memory, and nothing else of Python runs."""

import dataclasses
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import plica
from plica.attacks.radius import search, steps
from plica.solver import accelerator


class Operations(TorchDispatchMode):
    """Lists operations with their arguments and the memory that their results were written to."""

    def __init__(self) -> None:
        super().__init__()
        self.done: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func.__name__ not in ("_local_scalar_dense.default", "nonzero.default"), "a wait for the device"
        out = func(*args, **(kwargs or {}))
        if not func.is_view:
            self.done.append((func, args, kwargs or {}, out))
        return out

    def again(self) -> None:
        for func, args, kwargs, out in self.done:
            new = func(*args, **kwargs)
            pairs = [(out, new)] if isinstance(out, torch.Tensor) else zip(out, new, strict=True)
            for old, now in pairs:
                if old is not now and old.data_ptr() != now.data_ptr():
                    old.copy_(now)


def listed(counts: dict[str, int]):
    """A stand-in for `accelerator.Recorder`."""

    def recorded(run, inputs, owners):
        counts["recorded"] += 1
        own = [t.clone() for t in inputs]
        before = [
            (owner, name, t) for owner in owners for name, t in vars(owner).items() if isinstance(t, torch.Tensor)
        ]
        kept = [t.clone() for _, _, t in before]
        run_best = owners[0].task.best
        best = run_best._points.clone(), run_best._numbers.clone()
        with Operations() as operations:
            run(*own)
            accelerator.write_back(before)
        # a graph is not carried out while it is recorded
        for (owner, name, t), value in zip(before, kept, strict=True):
            setattr(owner, name, t.copy_(value))
        run_best._points.copy_(best[0])
        run_best._numbers.copy_(best[1])

        def replay(*new):
            counts["replayed"] += 1
            for t, value in zip(own, new, strict=True):
                t.copy_(value)
            operations.again()

        return replay

    return recorded


def network(classes: int = 6) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, 2), nn.LeakyReLU(), nn.Conv2d(8, 8, 3, 2), nn.LeakyReLU(), nn.Flatten(),
            nn.Linear(8 * 9, classes),
        ).eval()  # fmt: skip


WEIGHTS = torch.ones(3, 16, 16)
WEIGHTS[:, :4], WEIGHTS[:, 4:8] = torch.inf, 2


def same_when_replayed(net, x, y, metric, targets, monkeypatch):
    def answer():
        with accelerator.forced():
            return plica.attack(net, x, y, plica.MinRadius(metric), gradients=110, targets=targets)

    expected = answer()
    counts = {"recorded": 0, "replayed": 0}
    monkeypatch.setattr(steps, "Recorder", lambda: listed(counts))
    found = answer()
    assert counts["recorded"] >= 2
    assert counts["replayed"] > 3 * counts["recorded"]
    assert torch.equal(found.x_adv, expected.x_adv)
    assert torch.equal(found.distance, expected.distance)
    assert torch.equal(found.stationarity.nan_to_num(-1), expected.stationarity.nan_to_num(-1))
    assert found.status == expected.status


@pytest.mark.parametrize(
    ("metric", "targeted"),
    [(plica.Lp(2), False), (plica.Lp("inf"), False), (plica.WeightedLp(1, WEIGHTS), False), (plica.Lp(2), True)],
    ids=str,
)
def test_replayed_steps_give_the_same_bits(metric, targeted, monkeypatch):
    net = network()
    x = torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    y = net(x).argmax(1)
    same_when_replayed(net, x, y, metric, (y + 1) % 6 if targeted else None, monkeypatch)


@pytest.mark.parametrize("p", [2, "inf"])
def test_so_do_slow_returns(p, monkeypatch):
    monkeypatch.setattr(search, "SCHEDULE", dataclasses.replace(search.SCHEDULE, kinked=2.0))
    net = network()
    x = torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    same_when_replayed(net, x, net(x).argmax(1), plica.Lp(p), None, monkeypatch)


def mostly_flat(z, w, v):
    """Most of the box is of class 2, and flat there; rows go there on their way to class 1."""
    s, t = (z - 0.5) @ w, (z - 0.5) @ (0.3 * w + 0.91**0.5 * v)
    other = 0.01 * t.clamp(max=0.3)
    return torch.stack([(1.5 - 3 * torch.relu(s - 0.2)).clamp(0, 1), other - 0.1, 0.5 + 1e-4 * other], 1)


def slowly_reached(z, w, v):
    """Each of the first features counts only once the one before it is large, so that a step gains one of them, and no
    point is found before the first overshoot phase."""
    gates = torch.cat([torch.ones_like(z[:, :1]), (z[:, :12].detach() > 0.9).to(z)], 1).cumprod(1)
    return torch.stack([12.5 - (gates * z[:, :13]).sum(1), 0 * z[:, 0]], 1)


@pytest.mark.parametrize("net", [mostly_flat, slowly_reached])
def test_so_do_steps_where_linear_models_mislead(net, monkeypatch):
    w, v = torch.linalg.qr(torch.randn(128, 2, generator=torch.Generator().manual_seed(0))).Q.T
    x = 0.4 + 0.2 * torch.rand(10, 128, generator=torch.Generator().manual_seed(1))
    y = torch.zeros(10, dtype=torch.long)
    same_when_replayed(lambda z: net(z, w, v), x, y, plica.Lp(2), None, monkeypatch)


def test_a_stage_with_a_metric_of_the_user_is_not_recorded(monkeypatch):
    class Own:
        """A norm with a prox, whose code may do anything."""

        def __call__(self, x, x_adv):
            return (x_adv - x).flatten(1).abs().sum(1)

        def norm(self, u):
            return u.abs().sum(1)

        def prox(self, u, eta):
            return u.sign() * (u.abs() - eta[:, None]).clamp(min=0)

    net = network()
    x = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    counts = {"recorded": 0, "replayed": 0}
    monkeypatch.setattr(steps, "Recorder", lambda: listed(counts))
    result = plica.attack(net, x, net(x).argmax(1), plica.MinRadius(Own()), gradients=20)
    assert result.success.all()
    assert counts["recorded"] == 0
