"""An audit, and pictures of the points, of models that write into their input or take one size of batches alone."""

import numpy as np
import pytest
import torch

import plica
from plica.cli import main

MODELS = """import torch
from torch import nn

class Linear(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))

    def forward(self, x):
        return self.net((x - 0.5) / 0.25)

class Writes(Linear):
    def forward(self, x):
        return self.net(x.sub_(0.5).div_(0.25))

class One(Linear):
    def forward(self, x):
        return super().forward(x.reshape(1, 3, 8, 8))

class Four(Linear):
    def forward(self, x):
        return super().forward(x.reshape(4, 3, 8, 8))
"""


@pytest.mark.filterwarnings("ignore:The model takes no batch")
@pytest.mark.parametrize("name", ["Writes", "One", "Four"])
def test_models_that_attacks_take_are_audited(name, tmp_path, monkeypatch, capsys):
    """Margins of the first were measured at images that it had changed, the others ended in tracebacks."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(MODELS)
    names: dict = {}
    exec(MODELS, names)
    x = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    y = names["Linear"]()(x).argmax(1)
    np.savez("d.npz", x=x.numpy(), y=y.numpy())
    run = plica.evaluate(dict(
        models=f"net.py:{name}", data="d.npz", questions=dict(ask="min-radius", metric="l2"), gradients=10
    ), "run")  # fmt: skip
    expected = plica.attack(names["Linear"](), x, y, plica.MinRadius(plica.Lp(2)), gradients=10)
    assert run.samples["distance"].to_pylist() == pytest.approx(expected.distance.tolist(), rel=1e-5)
    assert main(["audit", "run", "--trust"]) == 0
    assert "run: 6 answers, no disagreement" in capsys.readouterr().out
    assert main(["export", "run", "--png", "--trust"]) == 0
    assert len(list((tmp_path / "run").rglob("*.png"))) == 6
