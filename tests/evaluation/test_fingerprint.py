"""A run is resumed with the models and distances that it was begun with, wherever these keep what they depend on."""

import json

import pytest
import torch
from torch import nn

import plica
from plica.evaluation import PlanError
from plica.evaluation.fingerprint import model_sums, same
from plica.evaluation.merge import merge

SCALED = """
from pathlib import Path

import torch
from torch import nn


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(144, 4))
        self.temperature = float(Path("value.txt").read_text())

    def forward(self, x):
        return self.net(x) / self.temperature


def attribute():
    return Scaled()


def closure():
    module, mean = Scaled().net, float(Path("value.txt").read_text())
    return lambda x: module(x - 0.1 * mean)


def far(x, x_adv):
    return float(Path("value.txt").read_text()) * torch.linalg.vector_norm((x_adv - x).flatten(1), dim=1)


class Turn:
    unit = 1.0

    def start(self, x):
        return x.new_zeros(len(x), 1)

    def __call__(self, x, theta):
        return x + float(Path("value.txt").read_text()) * theta.view(-1, 1, 1, 1) * x * (1 - x)

    def distance(self, x, theta):
        return theta.abs().amax(1)


turn = Turn()
"""


@pytest.fixture
def scaled(folder, monkeypatch):
    """A folder with d.npz and scaled.py, whose models and distances read value.txt."""
    (folder / "scaled.py").write_text(SCALED)
    (folder / "value.txt").write_text("1.0")
    monkeypatch.syspath_prepend(folder)
    return folder


def plan(model="scaled.py:attribute", **question):
    question = {"ask": "min-radius", "metric": "l2"} | question
    return {"models": model, "data": {"path": "d.npz", "n": 4}, "questions": question, "gradients": 5, "chunk": 2}


@pytest.mark.parametrize(
    ("changed", "settings"),
    [
        ("model attribute", {"model": "scaled.py:attribute"}),
        ("model closure", {"model": "scaled.py:closure"}),
        ("distance scaled:far", {"model": "net.py:make", "metric": "scaled:far"}),
        ("distance l2 through scaled:turn", {"model": "net.py:make", "through": "scaled:turn"}),
    ],
)
def test_a_change_that_no_hash_sees_is_noticed_on_resume(scaled, changed, settings):
    """The answers of the two models were mixed, exit status 0: an attribute of a module, a variable of a closure."""
    run = plica.evaluate(plan(**settings), "run")
    parts = sorted(run.directory.glob("parts/*/*"))
    for part in parts[len(parts) // 2 :]:
        part.unlink()
    before = sorted(file.name for file in run.directory.rglob("*"))
    (scaled / "value.txt").write_text("1.3")
    with pytest.raises(
        PlanError, match=f"a {changed} that gave other values on the first images: something that it uses"
    ):
        plica.evaluate(plan(**settings), "run")
    assert sorted(file.name for file in run.directory.rglob("*")) == before
    (scaled / "value.txt").write_text("1.0")
    resumed = plica.evaluate(plan(**settings), "run")
    assert len(resumed.samples) == 4


def test_shards_of_two_models_are_not_joined(scaled):
    plica.evaluate(plan(), "one", shard="1/2")
    (scaled / "value.txt").write_text("1.3")
    plica.evaluate(plan(), "two", shard="2/2")
    with pytest.raises(PlanError, match="two does not belong to one: it has a model attribute that gave other values"):
        merge(["one", "two"], "joined")


def test_a_run_without_such_a_record_is_resumed(scaled):
    run = plica.evaluate(plan(), "run")
    manifest = json.loads((run.directory / "manifest.json").read_text())
    del manifest["answers"]
    (run.directory / "manifest.json").write_text(json.dumps(manifest))
    assert len(plica.evaluate(plan(), "run").samples) == 4


def test_rounding_is_no_change_and_random_outputs_are_not_compared():
    net, x = nn.Sequential(nn.Flatten(), nn.Linear(48, 10)), torch.rand(6, 3, 4, 4)
    answers = model_sums(net, x)
    assert same(answers, model_sums(lambda x: net(x) * (1 + 1e-5), x))
    assert not same(answers, model_sums(lambda x: net(x) * 1.01, x))
    assert not same(answers, model_sums(lambda x: net(x).flip(1), x))
    assert model_sums(lambda x: net(x) + torch.randn(10), x) == []
    assert same(answers, [])
