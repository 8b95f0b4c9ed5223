"""Features of different ranges, some of which must not move: in plans, on the command line, when they are audited."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load, save_file

import plica
from plica import runs
from plica.cli import main
from plica.evaluation import PlanError, read_plan
from plica.evaluation.merge import merge
from plica.models import load_model
from plica.trust import audit

NET = """
import torch
from torch import nn

W = torch.tensor([3.0, -1.0, 0.02, 0.5, -0.01, 2.0])

def make():
    net = nn.Linear(6, 2)
    with torch.no_grad():
        net.weight.copy_(torch.stack([-W / 2, W / 2]))
        net.bias.zero_()
    return net
"""
W = torch.tensor([3.0, -1.0, 0.02, 0.5, -0.01, 2.0])
LOW = np.array([-5.0, -10, 0, -1, 0, -4])
HIGH = np.array([5.0, 10, 900, 1, 5000, 4])
MASK = np.array([True, False, True, True, True, False])
PLAN = {
    "models": "net.py:make",
    "data": "d.npz",
    "questions": [{"ask": "min-radius", "metric": "l2"}, {"ask": "max-loss", "metric": "l2", "radius": 2}],
    "methods": ["radius", "pwcf"],
    "individual": True,
    "bounds": "box.npz",
    "gradients": 20,
    "chunk": 5,
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A linear model, twelve inputs far from the walls in what may move, their labels, and the box."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(NET)
    generator = np.random.default_rng(0)
    middle, span = (LOW + HIGH) / 2, HIGH - LOW
    x = (middle + span * generator.uniform(-0.1, 0.1, (12, 6))).astype(np.float32)
    x[:, 1] = LOW[1]  # at the wall; it does not move
    y = (torch.from_numpy(x) @ W > 0).long().numpy()
    np.savez("d.npz", x=x, y=y)
    np.savez("box.npz", low=LOW, high=HIGH, mask=MASK)
    return tmp_path


def exact():
    """The distance to the hyperplane where features 1 and 5 stay."""
    x = torch.from_numpy(np.load("d.npz")["x"])
    return (x.double() @ W.double()).abs() / torch.linalg.vector_norm(W[torch.from_numpy(MASK)].double())


def test_a_plan_for_features(folder):
    run = plica.evaluate(PLAN, "run")
    for task in run.tasks:
        rows, found = run.rows(task), torch.tensor(run.rows(task)["distance"].to_pylist(), dtype=torch.float64)
        assert (found >= exact() * (1 - 1e-6)).all()
        if task.method == "radius":
            near = exact() < 2 if task.kind == "max-loss" else exact() > 0
            assert 0 < near.sum() <= 12
            assert rows["success"].to_pylist() == near.tolist()
            if task.kind == "min-radius":  # a margin made of rounding is stretched by as much
                assert torch.allclose(found, exact(), rtol=1.1e-3)
        x, x_adv = (torch.cat([part[1] for part in parts]) for parts in (run.inputs(), run.points(task)))
        assert torch.equal(x[:, ~MASK], x_adv[:, ~MASK])
        assert (x_adv >= torch.from_numpy(LOW)).all()
        assert (x_adv <= torch.from_numpy(HIGH)).all()
    assert torch.equal(run.bounds.mask, torch.from_numpy(MASK))
    shards = [plica.evaluate(PLAN, f"s{i}", shard=f"{i}/2").directory for i in (1, 2)]
    merged = merge(shards, "merged")
    assert torch.equal(merged.bounds.high, torch.from_numpy(HIGH))
    assert merged.samples["distance"].to_pylist() == run.samples["distance"].to_pylist()


def test_a_run_keeps_its_bounds_in_its_own_folder(folder):
    run = plica.evaluate(PLAN | {"methods": "radius", "gradients": 10}, "run")
    (folder / "box.npz").unlink()
    kept = runs.load("run").bounds
    assert (folder / "run" / "bounds.safetensors").is_file()
    assert torch.equal(kept.mask, torch.from_numpy(MASK))
    assert torch.equal(kept.low, torch.from_numpy(LOW))
    assert torch.equal(run.bounds.high, torch.from_numpy(HIGH))


def test_other_bounds_are_another_plan(folder):
    plica.evaluate(PLAN | {"methods": "radius"}, "run")
    (folder / "same.npz").write_bytes((folder / "box.npz").read_bytes())
    plica.evaluate(PLAN | {"methods": "radius", "bounds": "same.npz"}, "run")
    np.savez("box.npz", low=LOW, high=HIGH + 1, mask=MASK)
    with pytest.raises(PlanError, match="another plan: bounds is"):
        plica.evaluate(PLAN | {"methods": "radius"}, "run")


def test_an_audit_knows_the_box_and_the_mask(folder):
    run = plica.evaluate(PLAN | {"methods": "radius"}, "run")
    model = {"make": load_model("net.py:make")}

    def differences():
        both = audit(run, model, bounds=run.bounds.pair, mask=run.bounds.mask)
        return next(audited.differences for audited in both if audited.task == run.tasks[0])

    assert differences() == {}
    file = run.files[run.tasks[0].name][0]
    honest = file.read_bytes()  # what load_file gives is mapped to the file, and would change with it
    for feature, by, kind in ((5, 1e-3, "mask"), (2, 901.0, "bounds")):
        tensors = load(honest)
        tensors["x_adv"][0, feature] += by
        save_file(tensors, file)
        assert kind in differences()
    file.write_bytes(honest)
    assert main(["audit", "run"]) == 2  # the model is code, which an audit runs with --trust alone
    assert main(["audit", "run", "--trust"]) == 0


def test_the_same_on_the_command_line(folder, capsys):
    line = ["--model", "net.py:make", "--data", "d.npz", "--metric", "l2", "--method", "radius", "--gradients", "40"]
    assert main(["radius", *line, "--bounds", "box.npz", "--out", "one"]) == 0
    assert main(["evaluate", *line, "--bounds", "box.npz", "--out", "all"]) == 0
    one, every = runs.load("one"), runs.load("all")
    assert torch.equal(one.bounds.low, torch.from_numpy(LOW))
    distance = pq.read_table("one/samples.parquet")["distance"].to_pylist()
    assert every.samples["distance"].to_pylist() == distance
    assert np.allclose(distance, exact(), rtol=1.1e-3)
    assert main(["audit", "one", "--trust"]) == 0
    capsys.readouterr()
    main(["doctor", "--model", "net.py:make", "--data", "d.npz", "--bounds", "box.npz", "--images", "4"])
    printed = capsys.readouterr().out
    assert "checks:" in printed
    assert "The pixels range" not in printed
    np.savez("wide.npz", low=-10, high=5000)
    assert main(["radius", *line, "--bounds", "wide.npz", "--out", "wide"]) == 0
    assert (np.array(pq.read_table("wide/samples.parquet")["distance"]) <= np.array(distance) * 1.0011).all()
    assert main(["radius", *line, "--bounds=-10,5000", "--out", "one", "--overwrite"]) == 0
    assert json.loads((folder / "one" / "summary.json").read_text())["arguments"]["bounds"] == "-10,5000"
    assert runs.load("one").bounds.mask is None


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"low": LOW[:5], "high": HIGH[:5]}, "of an image's shape"),
        ({"low": LOW, "high": HIGH[:5]}, "have different shapes"),
        ({"low": HIGH, "high": LOW}, "low <= high everywhere"),
        ({"low": LOW, "high": HIGH, "mask": MASK[:4]}, "The mask has shape"),
        ({"low": LOW, "high": HIGH, "mask": MASK & False}, "lets nothing move"),
        ({"low": LOW, "high": HIGH, "mask": MASK * 1.0}, "save booleans"),
        ({"low": LOW, "top": HIGH}, "name them low, high and mask"),
        ({"low": LOW, "high": np.array([None] * 6)}, "cannot be read as bounds"),
        ({"low": LOW + 20, "high": HIGH + 20}, "outside its bounds"),
        ({}, "name them low, high and mask"),
    ],
)
def test_bounds_that_do_not_fit(folder, capsys, arrays, said):
    np.savez("box.npz", **arrays)
    with pytest.raises(PlanError) as refused:
        plica.evaluate(PLAN, "run")
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not (folder / "run").exists()
    line = ["radius", "--model", "net.py:make", "--data", "d.npz", "--metric", "l2", "--out", "one"]
    assert main([*line, "--bounds", "box.npz"]) == 2
    assert said in capsys.readouterr().err


def test_bounds_with_a_row_for_each_image_are_refused_before_the_work(folder, capsys):
    """plica radius takes them; evaluate, bracket and doctor ended in a traceback when all the searches were done."""
    x = np.load("d.npz")["x"]
    np.savez("box.npz", low=x - 1, high=x + 1)
    with pytest.raises(ValueError, match="a row for each image; here"):
        plica.evaluate(PLAN | {"chunk": 12}, "run")
    line = ["--model", "net.py:make", "--data", "d.npz", "--bounds", "box.npz"]
    searched = ["--metric", "l2", "--gradients", "20", "--out"]
    assert main(["radius", *line, *searched, "one"]) == 0
    assert main(["audit", "one", "--trust"]) == 0
    for command in (["bracket", *line, *searched, "run"], ["doctor", *line], ["doctor", "one", "--trust"]):
        capsys.readouterr()
        assert main(command) == 2
        assert "shape (12, 6), a row for each image; here" in capsys.readouterr().err
    assert not (folder / "run").exists()


def test_a_mask_needs_weights(folder):
    asked = {"ask": "min-radius", "metric": "ssim"}
    with pytest.raises(PlanError, match="A mask goes with l_p distances"):
        plica.evaluate(PLAN | {"questions": asked}, "run")


@pytest.mark.parametrize(
    ("bounds", "said"),
    [
        ("none.npz", "no file of bounds none.npz"),
        ("0;1", "write two numbers"),
        ([1, 0], "low <= high"),
        ([0, 1, 2], "bounds"),
    ],
)
def test_bounds_that_are_none(folder, bounds, said):
    with pytest.raises((ValueError, FileNotFoundError), match=said) as refused:
        plica.evaluate(PLAN | {"bounds": bounds}, "run")
    assert "\n" not in str(refused.value)


def test_two_numbers_as_text():
    assert read_plan(PLAN | {"bounds": "-1, 2"}).bounds == (-1.0, 2.0)
    assert read_plan(PLAN | {"bounds": "-1, 2"}).identity()["bounds"] == [-1.0, 2.0]
