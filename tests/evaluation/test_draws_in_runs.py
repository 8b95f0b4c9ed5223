"""Models with random outputs, in runs: --draws and draws:, columns, the audit by draws of its own, the verdict."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from plica import runs
from plica.cli.app import main

NET = """
import torch
from torch import nn


class Noisy(nn.Sequential):
    def __init__(self):
        torch.manual_seed(0)
        super().__init__(nn.Flatten(), nn.Linear(48, 16), nn.ReLU(), nn.Linear(16, 5))

    def forward(self, x):
        return super().forward(x + 0.05 * torch.randn_like(x))


def make():
    return Noisy().eval()
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "noisy.py").write_text(NET)
    parts: dict = {}
    exec(compile(NET, "net", "exec"), parts)
    x = torch.rand(4, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    with torch.no_grad(), torch.random.fork_rng():
        y = torch.nn.Sequential(*parts["make"]())(x).argmax(1)
    np.savez(tmp_path / "d.npz", x=x.numpy(), y=y.numpy())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def plica(*words) -> int:
    with pytest.raises(SystemExit) as ended:
        raise SystemExit(main([str(word) for word in words]))
    return int(ended.value.code or 0)


ASK = ["--model", "noisy.py:make", "--data", "d.npz", "--metric", "l2"]


def test_a_single_run_names_its_draws_and_is_audited(folder, capsys):
    assert plica("radius", *ASK, "--draws", 4, "--gradients", 10, "--out", "run") == 0
    assert "mean over 4 draws; at the points found" in capsys.readouterr().out
    run = runs.load("run")
    assert run.tasks[0].draws == 4
    samples = run.samples
    assert set(samples["draws"].to_pylist()) == {4}
    won = np.array(samples["success"])
    assert won.any()
    assert (np.array(samples["share"])[won] > 0.5).all()
    assert plica("audit", "run") == 0
    assert "200 draws" in capsys.readouterr().out
    # a success that is none: the point of the first is the image
    table = pq.read_table("run/samples.parquet")
    wrong = samples.set_column(samples.column_names.index("share"), "share", pa.array([0.02] * 4))
    pq.write_table(wrong.select(table.column_names), "run/samples.parquet")
    assert plica("audit", "run") == 1
    assert "share" in json.loads((folder / "run" / "audit.json").read_text())["tasks"][0]["differences"]


def test_draws_in_a_plan_and_on_the_command_line(folder, capsys):
    pytest.importorskip("pyautoattack")
    (folder / "plan.yaml").write_text(
        "models: noisy.py:make\ndata: d.npz\ngradients: 10\n"
        "questions: {ask: max-loss, metric: linf, radius: 0.2, methods: {name: autoattack-rand, gradients: 8}}\n"
    )
    assert plica("evaluate", "plan.yaml", "--draws", 4, "--out", "run") == 0
    run = runs.load("run")
    assert [(task.method, task.draws) for task in run.tasks] == [("apgd-ce", 4), ("apgd-dlr", 4)]
    findings = {f["check"]: f for f in run.summary["verdict"]["findings"]}
    assert findings["random outputs"]["weight"] == "NOTE"
    assert "mean over 4 draws" in findings["random outputs"]["sentence"]
    assert run.summary["questions"][0]["draws"] == 4
    assert plica("audit", "run") == 0
    part = next((folder / "run" / "parts").glob("*apgd-ce/*.parquet"))  # as if by a version before there was a share
    pq.write_table(pq.read_table(part).drop_columns(["share"]), part)
    assert runs.load("run").samples["share"].null_count == 4
    capsys.readouterr()
    assert plica("evaluate", "plan.yaml", "--draws", 5, "--out", "run") == 2  # another plan
    assert "draws" in capsys.readouterr().err


@pytest.mark.parametrize("draws", [0, -1, 10**9, "many", "1.5"])
def test_a_number_of_draws_that_is_none(folder, capsys, draws):
    assert plica("radius", *ASK, "--draws", draws, "--out", "run") == 2
    assert "draws" in capsys.readouterr().err
    assert not (folder / "run").exists()
