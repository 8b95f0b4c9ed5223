"""Goals and targets on the command line and in plans: the run names them, the audit measures them by its own code."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from plica import evaluate, runs
from plica.analysis.contenders import groups
from plica.cli.app import main
from plica.goals import parse_goal
from plica.trust.audit.reference import goal_of

NET = """
import torch
from torch import nn


def make():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 16), nn.ReLU(), nn.Linear(16, 5)).eval()


def dense():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 3, padding=1)).eval()


def mean_rises(output, y):
    return output.mean(1) - y.mean(1) - 0.02
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model file and data whose y is what the model returns, its signs, its classes."""
    place = tmp_path_factory.mktemp("goals")
    (place / "net_of_goals.py").write_text(NET)
    parts: dict = {}
    exec(compile(NET, "net", "exec"), parts)
    x = torch.rand(6, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        out, dense = parts["make"]()(x), parts["dense"]()(x)
    ys = {"regression": out, "tags": (out > 0).long(), "classes": out.argmax(1), "pixels": dense.argmax(1)}
    for name, y in ys.items():
        np.savez(place / f"{name}.npz", x=x.numpy(), y=y.numpy())
    np.save(place / "targets.npy", out.argmin(1).numpy())
    return place


def plica(*words) -> int:
    with pytest.raises(SystemExit) as ended:
        raise SystemExit(main([str(word) for word in words]))
    return int(ended.value.code or 0)


def test_answers_with_other_goals_are_not_joined(folder, tmp_path, monkeypatch, capsys):
    """Of one run with two goals the nearest point of either is no answer, and an easier goal no more robust model."""
    monkeypatch.chdir(folder)
    questions = [{"ask": "min-radius", "metric": "l2", "goal": f"deviates={size}"} for size in (0.02, 0.05)]
    plan = {"models": "net_of_goals.py:make", "data": "regression.npz", "questions": questions, "gradients": 10}
    run = evaluate(plan, tmp_path / "run")
    found = groups([run])
    assert [group.metric for group in found] == ["l2 (deviates=0.02)", "l2 (deviates=0.05)"]
    assert [len(group.contenders) for group in found] == [1, 1]
    assert (found[0].contenders[0].radius < found[1].contenders[0].radius).all()
    assert plica("compare", tmp_path / "run") == 2
    assert "nothing to compare" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("factory", "data", "goal"),
    [
        ("make", "regression", "deviates=0.02"),
        ("make", "tags", "any-label"),
        ("dense", "pixels", "pixels=0.25"),
        ("make", "regression", "net_of_goals:mean_rises"),
    ],
)
def test_a_run_with_a_goal_is_audited(folder, tmp_path, monkeypatch, factory, data, goal):
    monkeypatch.syspath_prepend(folder)
    monkeypatch.chdir(folder)
    about = ["--model", f"net_of_goals.py:{factory}", "--data", f"{data}.npz", "--metric", "l2", "--goal", goal]
    assert plica("radius", *about, "--gradients", 30, "--out", tmp_path / "run") == 0
    run = runs.load(tmp_path / "run")
    assert run.tasks[0].goal == goal
    assert goal in run.tasks[0].question
    assert set(run.samples["label"].to_pylist()) == {-1}
    assert plica("audit", tmp_path / "run", "--trust") == 0
    assert json.loads((tmp_path / "run" / "audit.json").read_text())["agrees"]


def test_the_audit_of_a_goal_notices_another_y(folder, tmp_path, monkeypatch):
    """The y of the run is shifted, so that what was broken no longer is."""
    monkeypatch.chdir(folder)
    about = ["--model", "net_of_goals.py:make", "--data", "regression.npz", "--metric", "l2", "--goal", "deviates=0.02"]
    assert plica("radius", *about, "--gradients", 30, "--out", tmp_path / "run") == 0
    tensors = load_file(tmp_path / "run" / "inputs.safetensors")
    save_file(tensors | {"y": tensors["y"] + 0.02}, tmp_path / "run" / "inputs.safetensors")
    assert plica("audit", tmp_path / "run", "--trust") == 1


def test_a_plan_with_a_goal(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    about = ["--model", "net_of_goals.py:make", "--data", "tags.npz", "--metric", "l2", "--goal", "any-label"]
    methods = ["--method", "auto", "--method", "pwcf", "--gradients", 30]
    assert plica("evaluate", *about, *methods, "--out", tmp_path / "run") == 0
    run = runs.load(tmp_path / "run")
    assert {task.goal for task in run.tasks} == {"any-label"}
    assert run.summary["questions"][0]["goal"] == "any-label"
    assert plica("audit", tmp_path / "run", "--trust") == 0


@pytest.mark.parametrize("option", [("--targets", "targets.npy"), ("--target", "1")])
def test_targets_on_the_command_line(folder, tmp_path, monkeypatch, option):
    monkeypatch.chdir(folder)
    about = ["--model", "net_of_goals.py:make", "--data", "classes.npz", "--metric", "l2", "--gradients", 40]
    assert plica("radius", *about, *option, "--out", tmp_path / "run") == 0
    run = runs.load(tmp_path / "run")
    rows = run.samples.to_pylist()
    targets = np.load("targets.npy")
    expected = [1 if option[0] == "--target" else int(targets[row["id"]]) for row in rows]
    assert [row["prediction"] for row in rows] == expected
    assert plica("audit", tmp_path / "run", "--trust") == 0


@pytest.mark.parametrize(
    "words",
    [
        ("--data", "regression.npz"),
        ("--data", "tags.npz", "--goal", "nope"),
        ("--data", "regression.npz", "--goal", "any-label"),
        ("--data", "classes.npz", "--target", "1", "--targets", "targets.npy"),
        ("--data", "classes.npz", "--targets", "classes.npz"),
        ("--data", "classes.npz", "--target", "9"),
    ],
)
def test_goals_and_targets_that_are_wrong_input(folder, tmp_path, monkeypatch, words):
    monkeypatch.chdir(folder)
    about = ["--model", "net_of_goals.py:make", "--metric", "l2", "--out", tmp_path / "run"]
    assert plica("radius", *about, *words) == 2
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("text", ["misclassified", "deviates=0.3", "any-label", "pixels=0.3", "pixels=1"])
def test_the_audit_has_the_same_goals_by_other_code(text):
    generator = torch.Generator().manual_seed(0)
    output = torch.randn(7, 4, 5, generator=generator, dtype=torch.float64)
    y = {
        "misclassified": output[:, :, 0].argmin(1), "deviates=0.3": torch.randn(7, 4, 5, generator=generator).double(),
        "any-label": (output > 0.5).long(), "pixels=0.3": output.argmin(1), "pixels=1": output.argmin(1),
    }[text]  # fmt: skip
    output = output[:, :, 0] if text == "misclassified" else output
    other = goal_of(None if text == "misclassified" else text)
    assert other is not None
    torch.testing.assert_close(torch.from_numpy(other(output.numpy(), y.numpy())), parse_goal(text)(output, y))
