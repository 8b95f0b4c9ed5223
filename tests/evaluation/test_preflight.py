"""The quick checks of doctor before the work of a new run."""

import numpy as np
import pytest
import torch

from plica import evaluate, runs
from plica.cli.app import main
from plica.evaluation.preflight import CHECKS
from plica.trust.registry import CHECKS as ALL

NET = """
import torch
from torch import nn


class Net(nn.Module):
    "Tells four levels of grey apart, of images that were normalised."

    def forward(self, x):
        grey = x.flatten(1).mean(1)
        return 40 * torch.stack([-(grey - level).abs() for level in (-1.5, -0.5, 0.5, 1.5)], 1)


def make():
    return Net().eval()


def saturated():
    layer = nn.Linear(48, 4)
    layer.weight.data *= 1e5
    return nn.Sequential(nn.Flatten(), layer, nn.Softmax(1))


def noisy():
    net = make()
    return lambda x: net((x - 0.4734) / 0.2517) + torch.randn(len(x), 4)


def probabilities():
    net = make()
    return lambda x: (10 * net((x - 0.4734) / 0.2517)).softmax(1)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Grey images of four levels, which the network tells apart when they are normalised."""
    (tmp_path / "dark.py").write_text(NET)
    y = torch.arange(40) % 4
    x = (torch.tensor([-1.5, -0.5, 0.5, 1.5])[y] * 0.2517 + 0.4734).clamp(0, 1).view(-1, 1, 1, 1)
    noise = 0.02 * torch.rand(40, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    np.savez(tmp_path / "d.npz", x=(x + noise).clamp(0, 1).numpy(), y=y.numpy())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def plica(*words) -> int:
    with pytest.raises(SystemExit) as ended:
        raise SystemExit(main([str(word) for word in words]))
    return int(ended.value.code or 0)


FLAGS = ["--data", "d.npz", "--metric", "linf", "--radius", "0.001", "--gradients", "1"]


def test_a_forgotten_normalisation_is_said_first_and_once_with_what_to_type(folder, capsys):
    line = ["evaluate", "--model", "dark.py:make", *FLAGS]
    assert plica(*line, "--out", "run") == 0
    first = capsys.readouterr()
    assert "--model dark.py:make@imagenet" in first.err  # of CIFAR-10 is as good here
    assert "on 32 images of make; the work goes on" in first.err
    assert plica(*line, "--out", "run") == 0  # not a new run
    assert "doctor" not in capsys.readouterr().err
    assert plica(*line, "--skip-doctor", "--out", "other") == 0
    assert "doctor" not in capsys.readouterr().err
    holding_nan = ["seconds", "share", "stationarity"]
    a, b = (runs.load(name).samples.drop_columns(holding_nan) for name in ("run", "other"))
    assert a.equals(b)
    assert plica("evaluate", "--model", "dark.py:make@cifar10", *FLAGS, "--out", "right") == 0
    assert "doctor" not in capsys.readouterr().err


def test_a_bracket_can_leave_the_checks_out_too(folder, capsys):
    line = ["bracket", "--model", "dark.py:saturated", "--data", "d.npz", "--metric", "linf", "--n", "2"]
    line += ["--gradients", "1", "--nodes", "1"]
    assert plica(*line, "--out", "run") == 0
    assert "--skip-doctor leaves this out" in capsys.readouterr().err
    assert plica(*line, "--skip-doctor", "--out", "other") == 0
    assert "doctor" not in capsys.readouterr().err


def test_randomness_and_probabilities_are_said_and_draws_are_a_cure(folder, capsys):
    assert plica("evaluate", "--model", "dark.py:probabilities", *FLAGS, "--n", 8, "--out", "p") == 0
    assert "return the logits" in capsys.readouterr().err
    noisy = ["evaluate", "--model", "dark.py:noisy", *FLAGS, "--n", 8]
    assert plica(*noisy, "--out", "a") == 0
    assert "--draws 16" in capsys.readouterr().err
    assert plica(*noisy, "--draws", 2, "--out", "b") == 0
    assert "--draws 16" not in capsys.readouterr().err


def test_a_slow_model_and_another_goal_are_left_alone(folder, monkeypatch):
    monkeypatch.setattr("plica.evaluation.preflight.SECONDS", 1e-9)
    found = []
    plan = {"models": "dark.py:make", "data": "d.npz", "gradients": 1}
    evaluate(plan | {"questions": {"ask": "min-radius", "metric": "l2"}}, n=8, on_preflight=found.append)
    assert not found


def test_the_quick_checks_are_checks():
    assert set(CHECKS) <= set(ALL)
