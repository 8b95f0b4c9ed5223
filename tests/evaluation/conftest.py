"""A small network in a file, twenty images for it, and a plan that asks both kinds of question of two methods."""

import os
import shutil

import numpy as np
import pytest
import torch

import plica
from plica import runs
from plica.models import load_model

NET = """
import torch
from torch import nn

def make():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(144, 32), nn.ReLU(), nn.Linear(32, 4))

def other():
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(144, 32), nn.ReLU(), nn.Linear(32, 4))

class Sometimes(nn.Module):
    "Not a number where the first pixel is white."
    def __init__(self):
        super().__init__()
        self.net = make()

    def forward(self, x):
        return torch.where(x.flatten(1)[:, :1] == 1, torch.nan, self.net(x))

def sometimes():
    return Sometimes()
"""
# chunks of six: three whole ones and one of two images
PLAN = {
    "models": "net.py:make",
    "data": "d.npz",
    "questions": [
        {"ask": "min-radius", "metric": ["l2", "l1"]},
        {"ask": "max-loss", "metric": "linf", "radius": "8/255"},
    ],
    "methods": ["radius", "pwcf"],
    "gradients": 4,
    "chunk": 6,
}


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """A folder with net.py, d.npz and the finished run "whole"; images 3 and 17 have a label not the network's."""
    folder, former = tmp_path_factory.mktemp("made"), os.getcwd()
    os.chdir(folder)
    (folder / "net.py").write_text(NET)
    x = torch.randint(40, 200, (20, 1, 12, 12), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    y = load_model("net.py:make")(x.float() / 255).argmax(1)
    y[[3, 17]] = (y[[3, 17]] + 1) % 4
    np.savez("d.npz", x=x.numpy(), y=y.numpy())
    plica.evaluate(PLAN, "whole")
    os.chdir(former)
    return folder


@pytest.fixture(autouse=True)
def no_ascent(monkeypatch):
    """Models are examined by the checks that take a few runs: those that follow the gradient take a quarter of the time
    of these evaluations. The run "whole" has all, and tests/trust says what each finds."""
    monkeypatch.setattr("plica.trust.registry.climb", lambda few: None)


@pytest.fixture
def folder(tmp_path, monkeypatch, made):
    """The current folder, a copy of that one."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def plan(folder):
    return PLAN


@pytest.fixture
def whole(folder):
    """The run that the plan makes."""
    return runs.load(folder / "whole")
