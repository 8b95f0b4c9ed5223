"""A target in plans and on the command line: the class that counts, and answers kept apart from those without."""

import hashlib
import io
import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from plica import evaluate, runs
from plica.analysis.contenders import groups
from plica.cli.app import main
from plica.evaluation.parse_plan import read_plan
from plica.evaluation.strict import PlanError

NET = """
import torch
from torch import nn


def make():
    torch.manual_seed(3)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 4)).eval()


def linear():
    torch.manual_seed(5)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 4, bias=False)).eval()
"""


def name_of(file) -> str:
    """How runs call a file of targets."""
    return f"{file.name}-{hashlib.sha256(np.load(file).astype('<i8').tobytes()).hexdigest()[:8]}"


def plica(*words) -> int:
    return int(main([str(word) for word in words]) or 0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model, eight images with its classes, and runs with and without a target and draws."""
    place = tmp_path_factory.mktemp("targets")
    (place / "net_of_targets.py").write_text(NET)
    parts: dict = {}
    exec(compile(NET, "net", "exec"), parts)
    x = torch.rand(8, 3, 2, 2, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        y, of_linear = (parts[factory]()(x).argmax(1) for factory in ("make", "linear"))
    y[0] = 1  # whatever the model says: an image of the target is left out
    np.savez(place / "data.npz", x=x.numpy(), y=y.numpy())
    np.savez(place / "linear.npz", x=x.numpy(), y=of_linear.numpy())
    np.save(place / "targets.npy", (y.numpy() + 1) % 4)
    about = ["--model", place / "net_of_targets.py:make", "--data", place / "data.npz", "--gradients", 20]
    l2 = [*about, "--metric", "l2"]
    for name, more in {"free": [], "draws": ["--draws", 2]}.items():
        assert plica("radius", *l2, *more, "--out", place / name) == 0
    assert plica("radius", *l2, "--target", 1, "--out", place / "single") == 0
    assert plica("radius", *l2, "--targets", place / "targets.npy", "--out", place / "each") == 0
    assert plica("evaluate", *l2, "--target", 1, "--method", "auto", "--method", "pwcf", "--out", place / "plan") == 0
    assert plica("evaluate", *l2, "--targets", place / "targets.npy", "--out", place / "each-plan") == 0
    return place


def test_a_plan_aims_at_the_class_as_the_command_does(folder):
    single, plan = runs.load(folder / "single"), runs.load(folder / "plan")
    assert plan.tasks[0].target == single.tasks[0].target == "1"
    y = torch.as_tensor(np.load(folder / "data.npz")["y"])
    first, _ = (plan.rows(task, ["id", "distance", "prediction", "success"]) for task in plan.tasks)
    assert sorted(first["id"].to_pylist()) == (y != 1).nonzero()[:, 0].tolist()
    order = np.argsort(first["id"].to_numpy())
    other = single.rows(single.tasks[0], ["id", "distance"])
    np.testing.assert_array_equal(first["distance"].to_numpy()[order], other["distance"].to_numpy())
    assert set(first["prediction"].to_numpy()[first["success"].to_numpy()]) == {1}


def test_the_audit_measures_the_target(folder):
    assert plica("audit", folder / "plan", "--trust") == 0
    assert all(not task["differences"] for task in json.loads((folder / "plan" / "audit.json").read_text())["tasks"])


def test_an_answer_to_another_target_is_no_success(folder, tmp_path):
    """The manifest and rows say another class than the one that was reached."""
    shutil.copytree(folder / "plan", tmp_path / "run")
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    for task in manifest["tasks"]:
        task["target"] = "2"
    (tmp_path / "run" / "manifest.json").write_text(json.dumps(manifest))
    assert plica("audit", tmp_path / "run", "--trust") == 1


def test_answers_to_other_questions_are_not_joined(folder):
    found = groups([runs.load(folder / name) for name in ("free", "single", "each", "each-plan", "draws", "plan")])
    assert {group.metric for group in found} == {
        "l2", "l2 (target 1)", f"l2 (target {name_of(folder / 'targets.npy')})", "l2 (2 draws)",
    }  # fmt: skip


def test_show_names_the_target(folder, capsys):
    assert plica("show", folder / "plan") == 0
    assert "target 1" in capsys.readouterr().out


@pytest.mark.parametrize("more", [{"goal": "deviates=0.1"}, {"targets": "targets.npy"}])
def test_a_target_goes_with_no_other_goal(more):
    question = {"ask": "min-radius", "metric": "l2", "target": 1} | more
    with pytest.raises(PlanError, match="goal, target and targets exclude each other"):
        read_plan({"models": "net.py:make", "data": "d.npz", "questions": question})


def test_a_target_that_is_no_class_is_one_sentence(folder, capsys):
    about = ["--model", folder / "net_of_targets.py:make", "--data", folder / "data.npz", "--metric", "l2"]
    assert plica("evaluate", *about, "--target", 9, "--out", folder / "nine") == 2
    assert "targets must hold classes from 0 to 3" in capsys.readouterr().err


def test_the_only_class_of_all_images_is_one_sentence(folder, tmp_path, capsys):
    data = np.load(folder / "data.npz")
    np.savez(tmp_path / "ones.npz", x=data["x"], y=0 * data["y"] + 1)
    about = ["--model", folder / "net_of_targets.py:make", "--data", tmp_path / "ones.npz", "--metric", "l2"]
    assert plica("evaluate", *about, "--target", 1, "--out", tmp_path / "run") == 2
    assert "all have the label 1; give another target" in capsys.readouterr().err


def test_the_first_images_may_all_have_the_target_as_their_label(folder, tmp_path):
    """As of data that are sorted by class; they were refused."""
    data = np.load(folder / "data.npz")
    x = torch.from_numpy(np.concatenate([data["x"][:1]] * 20 + [data["x"][1:3]]))
    y = np.array([1] * 20 + [0 if label == 1 else label for label in data["y"][1:3]])
    np.savez(tmp_path / "sorted.npz", x=x.numpy(), y=y)
    plan = dict(models=f"{folder / 'net_of_targets.py'}:make", data=str(tmp_path / "sorted.npz"), gradients=20)
    run = evaluate(plan | dict(questions=dict(ask="min-radius", metric="l2", target=1)), tmp_path / "run")
    assert run.samples["id"].to_pylist() == [20, 21]


def test_a_plan_gives_each_row_its_target_as_the_command_does(folder):
    single, plan = runs.load(folder / "each"), runs.load(folder / "each-plan")
    assert (
        plan.tasks[0].question == single.tasks[0].question == f"min-radius l2 target {name_of(folder / 'targets.npy')}"
    )
    rows = plan.rows(plan.tasks[0]).to_pydict()
    assert rows["target_class"] == np.load(folder / "targets.npy").tolist()
    assert rows["distance"] == single.rows(single.tasks[0]).to_pydict()["distance"]
    columns = (rows[name] for name in ("prediction", "target_class", "success"))
    assert all(prediction == target for prediction, target, ok in zip(*columns, strict=True) if ok)
    assert any(rows["success"])


def test_the_audit_measures_the_target_of_each_row(folder, tmp_path):
    shutil.copytree(folder / "each-plan", tmp_path / "run")
    assert plica("audit", tmp_path / "run", "--trust") == 0
    (part,) = (tmp_path / "run").glob("parts/*/00000.parquet")
    table = pq.read_table(part)
    other = pa.array([(t + 1) % 4 for t in table["target_class"].to_pylist()])
    column = table.column_names.index("target_class")
    pq.write_table(table.set_column(column, "target_class", other), part)
    assert plica("audit", tmp_path / "run", "--trust") == 1


def test_a_run_with_targets_is_resumed_with_these_targets_alone(folder, tmp_path, capsys):
    np.save(tmp_path / "targets.npy", np.load(folder / "targets.npy"))
    about = ["--model", folder / "net_of_targets.py:make", "--data", folder / "data.npz", "--gradients", 20]
    about += ["--metric", "l2", "--targets", tmp_path / "targets.npy", "--out", tmp_path / "run"]
    assert plica("evaluate", *about) == 0
    (part,) = (tmp_path / "run").glob("parts/*/00000.parquet")
    before = part.read_bytes()
    part.unlink()
    assert plica("evaluate", *about) == 0
    columns = ["distance", "target_class"]
    assert pq.read_table(part, columns=columns) == pq.read_table(io.BytesIO(before), columns=columns)
    np.save(tmp_path / "targets.npy", (np.load(folder / "targets.npy") + 1) % 4)
    capsys.readouterr()
    assert plica("evaluate", *about) == 2
    assert "questions[0].targets holds other target classes" in capsys.readouterr().err


def test_other_targets_of_the_same_name_are_another_question(folder, tmp_path, capsys):
    """One model was ranked against itself, and a plan with both files was refused as asking one question twice."""
    about = {"models": f"{folder / 'net_of_targets.py'}:make", "data": f"{folder / 'data.npz'}", "gradients": 1}
    files = [tmp_path / name / "targets.npy" for name in "ab"]
    for k, file in enumerate(files):
        file.parent.mkdir()
        np.save(file, ((np.load(folder / "targets.npy") + k) % 4).astype(np.int16))
    questions = [{"ask": "min-radius", "metric": "l2", "targets": str(file)} for file in files]
    first, second = (task.target for task in evaluate(about | {"questions": questions}, tmp_path / "run").tasks)
    assert [first, second] == [name_of(file) for file in files]
    assert first != second
    single = ["--model", about["models"], "--data", about["data"], "--gradients", 1, "--metric", "l2"]
    assert plica("radius", *single, "--targets", files[1], "--out", tmp_path / "other") == 0
    capsys.readouterr()
    assert plica("compare", folder / "each", tmp_path / "other") == 2
    told = " ".join(capsys.readouterr().err.split())
    assert first in told
    assert second in told


@pytest.mark.parametrize("command", ["radius", "evaluate"])
@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda t, y: np.where(np.arange(8) == 5, y, t), "Targets must differ from the labels, but"),
        (lambda t, y: np.where(np.arange(8) == 5, 9, t), "must hold classes from 0 to 3"),
        (lambda t, y: t - 1 - 4 * (np.arange(8) == 5), "must hold classes from 0 to 3"),
        (lambda t, y: t[:5], "has 5 targets and the images go up to row 7"),
        (lambda t, y: t.astype(float), "one class, a whole number, for every row"),
        (None, "cannot be read as a .npy file of targets"),
        ("0 1 2", "it is no .npy file; write one with numpy.save"),
        (lambda t, y: t.astype(object), "it holds Python objects, which are refused"),
    ],
)
def test_targets_that_do_not_fit_are_refused_before_any_work(folder, tmp_path, capsys, command, change, sentence):
    if isinstance(change, str):
        (tmp_path / "bad.npy").write_text(change)
    elif change is not None:
        y = np.load(folder / "data.npz")["y"]
        np.save(tmp_path / "bad.npy", change((y + 2) % 4, y))
    about = ["--model", folder / "net_of_targets.py:make", "--data", folder / "data.npz", "--metric", "l2"]
    assert plica(command, *about, "--targets", tmp_path / "bad.npy", "--out", tmp_path / "run") == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "run" / "manifest.json").exists()


def test_lower_bounds_of_a_plan_are_those_of_the_targets(folder, tmp_path):
    """`certify` of the whole plan: the bounds of any class were stored, and restarts found points of any class."""
    plan = {
        "models": f"{folder / 'net_of_targets.py'}:linear", "data": {"path": str(folder / "linear.npz"), "n": 2},
        "questions": {"ask": "min-radius", "metric": "linf", "target": 1}, "gradients": 20, "certify": {"nodes": 2},
    }  # fmt: skip
    run = evaluate(plan, tmp_path / "run")
    rows = run.rows(run.tasks[0]).to_pydict()
    assert all(prediction == 1 for prediction, ok in zip(rows["prediction"], rows["success"], strict=True) if ok)
    assert any(rows["closed"])
    assert plica("audit", tmp_path / "run", "--trust") == 0
