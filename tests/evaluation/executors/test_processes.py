"""Several devices: one process for each, the same run."""

from pathlib import Path

import pytest
import torch

import plica
from evaluation.compare import assert_same
from plica.evaluation.parse_plan import read_plan
from plica.evaluation.strict import PlanError


def test_devices_of_a_plan(plan, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    for text, devices in {"cpu": ["cpu"], "cuda:1": ["cuda:1"], "cuda:0, cuda:2": ["cuda:0", "cuda:2"],
                          "all": ["cuda:0", "cuda:1", "cuda:2"]}.items():  # fmt: skip
        asked = read_plan(plan | {"device": text})
        assert asked.devices == devices
        assert asked.identity()["device"] == ("cpu" if text == "cpu" else "cuda")
    with pytest.raises(PlanError, match="must be of one kind"):
        _ = read_plan(plan | {"device": "cpu,cuda:0"}).devices
    for text in ("cpu,,cpu", "cpu,", ","):
        with pytest.raises(PlanError, match="not a valid list of devices"):
            _ = read_plan(plan | {"device": text}).devices
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(PlanError, match="this machine has none"):
        plica.evaluate(plan | {"device": "all"}, "run")


@pytest.mark.slow  # two processes that import torch
def test_two_processes_give_the_run_of_one(plan, whole):
    run = plica.evaluate(plan | {"device": "cpu,cpu"}, "two")
    assert_same(whole, run)


DIES = """
import multiprocessing, os, torch
from torch import nn

class Dies(nn.Module):
    "Ends a process that another one started."
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(144, 32), nn.ReLU(), nn.Linear(32, 4))

    def forward(self, x):
        if multiprocessing.parent_process() is not None:
            os._exit(1)
        return self.net(x)

def make():
    return Dies()
"""


@pytest.mark.slow
def test_a_process_that_dies_is_said_and_the_run_goes_on(plan):
    Path("dies.py").write_text(DIES)
    asked = plan | {"models": "dies.py:make"}
    with pytest.raises(RuntimeError, match=r"worker \d \(cpu\) died.*run the same command again"):
        plica.evaluate(asked | {"device": "cpu,cpu"}, "two")
    assert plica.evaluate(asked, "two").summary["complete"]
