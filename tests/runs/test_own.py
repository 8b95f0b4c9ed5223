"""Code of one's own run is run again without being asked; that of a run from elsewhere is not."""

import json
import shutil

import numpy as np
import pytest
from safetensors.torch import save_file

from plica.cli import main
from plica.models import load_model
from plica.runs.own import is_own, remember

NET = """
import torch
from torch import nn

def make():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 3))

other = make
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for place in ("here", "elsewhere"):
        (tmp_path / place / "net.py").write_text(NET)
    np.savez("d.npz", x=np.random.default_rng(0).random((3, 1, 2, 2), dtype=np.float32), y=np.arange(3))
    return tmp_path


def test_an_audit_as_the_readme_prints_it(folder, capsys, monkeypatch):
    line = ["--model", "net.py:make", "--data", "d.npz", "--metric", "l2", "--gradients", "5", "--out"]
    assert main(["radius", *line, "run"]) == 0
    assert main(["audit", "run"]) == 0
    shutil.copytree("run", folder / "elsewhere" / "run")
    summary = json.loads((folder / "here" / "run" / "summary.json").read_text())
    summary["arguments"]["model"] = "net.py:other"  # code of the same folder that nobody has run yet
    (folder / "here" / "run" / "summary.json").write_text(json.dumps(summary))
    assert main(["audit", "run"]) == 2
    assert "is Python code: give --trust" in capsys.readouterr().err
    monkeypatch.chdir(folder / "elsewhere")
    assert main(["audit", "run"]) == 2


def test_an_evaluation_is_remembered_with_all_that_it_ran(folder):
    flags = ["--model", "net.py:make", "--data", "d.npz", "--metric", "l2", "--gradients", "2"]
    assert main(["evaluate", *flags, "--out", "run"]) == 0
    assert is_own("net.py:make")
    assert not is_own("net.py:other")


def test_nothing_is_stored_where_the_folder_cannot_be_written(folder, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(folder / "here" / "net.py"))
    remember(["net.py:make", None, "l2"])
    assert not is_own("net.py:make")


def test_a_command_in_another_folder_than_the_run_was_made_in_says_what_works(folder, capsys, monkeypatch):
    """The message said to give file.py:factory, which no argument of the command takes."""
    (folder / "here" / "mine.py").write_text(NET)
    save_file(load_model("mine.py:make").state_dict(), "net.safetensors")
    line = ["--data", "d.npz", "--gradients", "5", "--model", "mine.py:make", "--metric", "l2", "--out"]
    assert main(["radius", *line, "plain"]) == 0
    assert main(["evaluate", *line, "weighted", "--weights", "net.safetensors"]) == 0
    monkeypatch.chdir(folder)

    def refusal(*command):
        capsys.readouterr()
        assert main([*command, "--trust"]) == 2
        return capsys.readouterr().err

    moved, cure = "here/mine.py:make", "run the command in the folder where the run was made, or name"
    for command in ("audit", "doctor"):
        assert f"model file mine.py; {cure} it with --model (" in refusal(command, "here/plain")
        assert f"model file mine.py; {cure} the model with --model and its w" in refusal(command, "here/weighted")
        assert main([command, "here/plain", "--model", "here/mine.py:make", "--trust"]) == 0
    # a model that is given has the weights that the run names, as the help says; it had none of them
    assert f"weights file net.safetensors; {cure} the model" in refusal("audit", "here/weighted", "--model", moved)
    weights = str(folder / "here" / "net.safetensors")
    assert main(["audit", "here/weighted", "--model", moved, "--weights", weights, "--trust"]) == 0
    monkeypatch.chdir(folder / "here")
    other = (folder / "here" / "mine.py").read_text().replace("manual_seed(0)", "manual_seed(1)")
    (folder / "here" / "other.py").write_text(other)
    assert main(["audit", "weighted", "--model", "other.py:make", "--trust"]) == 0
    (folder / "here" / "net.safetensors").unlink()
    assert f"weights file net.safetensors; {cure} the model" in refusal("audit", "weighted")
