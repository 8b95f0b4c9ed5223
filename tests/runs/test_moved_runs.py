"""Questions about a perturbation x' = T(x, theta) on the command line and in plans: theta is kept, an audit makes the
points of it anew."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

import plica
from plica import runs
from plica.cli import main
from plica.models import load_model
from plica.perturbations import parse_distance, parse_through

NET = """
import torch
from torch import nn
import plica

def make():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 8, 3, 2), nn.ReLU(), nn.Flatten(),
                         nn.Linear(32, 5))

brighter = plica.Perturbation(lambda x, theta: x * (1 + theta[:, :, None, None]), torch.zeros(3))
"""
NAMES = ("flow", "rotate-translate", "recolor", "recolor-luv", "hue-saturation", "moved_net:brighter")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "moved_net.py").write_text(NET)
    x = torch.rand(6, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    x = torch.nn.functional.interpolate((3 * x - 1).clamp(0, 1), size=12, mode="bilinear").clamp(0, 1)
    y = load_model("moved_net.py:make")(x).argmax(1)
    y[5] = (y[5] + 1) % 5
    save_file({"x": x, "y": y}, "d.safetensors")
    return tmp_path


def call(command, *more, through="flow", metric="theta", out="out"):
    return main([command, "--model", "moved_net.py:make", "--data", "d.safetensors", "--metric", metric, "--through",
                 through, "--gradients", "15", "--out", out, *more])  # fmt: skip


@pytest.mark.parametrize("through", NAMES)
def test_a_run_keeps_theta_and_an_audit_finds_the_points_in_it(folder, through):
    assert call("radius", through=through) == 0
    held, x = load_file("out/x_adv.safetensors"), load_file("d.safetensors")["x"]
    moving = parse_through(through)
    assert (moving(x, held["theta"]).clamp(0, 1) - held["x_adv"]).abs().max() < 1e-6
    rows = pq.read_table("out/samples.parquet").to_pydict()
    assert rows["success"].count(True) >= 3
    for d, stored, ok in zip(
        moving.distance(x, held["theta"]).tolist(), rows["distance"], rows["success"], strict=True
    ):
        assert not ok or d == pytest.approx(stored, rel=1e-4, abs=1e-6)
    assert main(["audit", "out", "--trust"]) == 0
    (task,) = json.loads(Path("out/audit.json").read_text())["tasks"]
    perturbed = torch.tensor([ok and d > 0 for ok, d in zip(rows["success"], rows["distance"], strict=True)])
    classes = load_model("moved_net.py:make")((held["x_adv"] * 255).round() / 255).argmax(1)
    survive = (classes != load_file("d.safetensors")["y"]) & perturbed
    assert (task["perturbed"], task["survive"]) == (int(perturbed.sum()), int(survive.sum()))
    assert (folder / "out" / "perturbations.png").stat().st_size > 10000


def test_a_theta_that_does_not_give_the_point_is_told(folder, capsys):
    assert call("attack", "--radius", "100") == 0
    held = load_file("out/x_adv.safetensors")
    save_file(held | {"theta": 1.01 * held["theta"]}, "out/x_adv.safetensors")
    assert main(["audit", "out", "--trust"]) == 1
    out = capsys.readouterr().out
    assert "DIFFERS, theta" in out
    assert "DIFFERS, distance" in out


@pytest.mark.parametrize(("off", "differs"), [(0.7e-5, False), (1.5e-5, True)])
def test_theta_may_give_pixels_off_by_a_hundred_thousandth_of_their_range(folder, capsys, off, differs):
    assert call("attack", "--radius", "100", through="recolor") == 0
    held, x = load_file("out/x_adv.safetensors"), load_file("d.safetensors")["x"]
    held = {name: tensor.clone() for name, tensor in held.items()}
    moving = parse_through("recolor")
    low, high = 1.0, 1.1
    for _ in range(40):
        factor = (low + high) / 2
        apart = (moving(x, factor * held["theta"]).clamp(0, 1) - held["x_adv"]).abs().amax()
        low, high = (factor, high) if apart < off else (low, factor)
    save_file(held | {"theta": low * held["theta"]}, "out/x_adv.safetensors")
    main(["audit", "out", "--trust"])
    assert ("DIFFERS, theta" in capsys.readouterr().out) == differs


def test_a_run_whose_theta_was_lost_is_told(folder, capsys):
    assert call("radius") == 0
    held = load_file("out/x_adv.safetensors")
    save_file({"x_adv": held["x_adv"]}, "out/x_adv.safetensors")
    assert main(["audit", "out", "--trust"]) == 1
    assert "has no theta for its point" in capsys.readouterr().out


def test_a_norm_through_a_perturbation_is_measured_between_the_images(folder):
    assert call("radius", through="recolor", metric="l2") == 0
    x, x_adv = load_file("d.safetensors")["x"], load_file("out/x_adv.safetensors")["x_adv"]
    rows = pq.read_table("out/samples.parquet").to_pydict()
    found = torch.tensor(rows["success"])
    stored = torch.tensor(rows["distance"], dtype=torch.float64)
    assert (stored[found] > 0).any()
    torch.testing.assert_close(
        stored[found], (x_adv.double() - x.double()).flatten(1).norm(dim=1)[found], rtol=1e-12, atol=0
    )
    assert stored[~found].isinf().all()
    assert main(["audit", "out", "--trust"]) == 0
    (task,) = runs.load("out").tasks
    assert (task.metric, task.through, task.distance) == ("l2", "recolor", "l2 through recolor")


def test_a_plan_asks_through_a_perturbation_and_is_audited(folder):
    plan = dict(models="moved_net.py:make", data="d.safetensors", gradients=30, chunk=4)
    plan["questions"] = [
        dict(ask="min-radius", metric=["theta", "l2"], through="flow"),
        dict(ask="max-loss", metric="theta", radius=1.0, through="rotate-translate", methods=["grid", "pwcf"]),
        dict(ask="min-radius", metric="l2"),
    ]
    run = plica.evaluate(plan, "all")
    assert run.samples.group_by(["metric", "through"]).aggregate([([], "count_all")]).num_rows == 4
    assert [task.distance for task in run.tasks] == [
        "theta through flow", "l2 through flow", *["theta through rotate-translate"] * 2, "l2"
    ]  # fmt: skip
    thetas = [theta.shape for task in run.tasks[:4] for theta in run.thetas(task)]
    assert {shape[1] for shape in thetas} == {2 * 12 * 12, 3}
    assert list(run.thetas(run.tasks[4])) == [None, None]
    assert main(["audit", "all", "--trust"]) == 0
    record = json.loads((folder / "all" / "audit.json").read_text())
    assert all(task["answers"] == 6 for task in record["tasks"][:2])
    assert main(["report", "all", "-o", "all.html"]) == 0


@pytest.mark.parametrize(
    ("metric", "through", "said"),
    [
        ("theta", None, "name one"),
        ("theta", "flaw", "There is no perturbation 'flaw'"),
        ("l2", "no.module:thing", "cannot be imported"),
        ("l2", "plica:Flow", "not a plica.Perturbation"),
        ("l3x", "flow", "no metric"),
    ],
)
def test_what_is_no_distance_through_a_perturbation(metric, through, said):
    with pytest.raises(ValueError, match=said):
        parse_distance(metric, through)


def test_wrong_words_on_the_command_line_are_one_sentence(folder, capsys):
    assert call("radius", through="flaw") == 2
    assert "There is no perturbation 'flaw'" in capsys.readouterr().err
    assert call("radius", "--method", "curved") == 2
    assert "knows no other" in capsys.readouterr().err
    assert not (folder / "out").exists()


def test_theta_is_kept_of_the_points_that_moved_and_told_for_all(folder, capsys):
    x, started = load_file("d.safetensors")["x"], parse_through("flow").start
    question = dict(ask="max-loss", metric="theta", radius=0.05, through="flow")
    plan = dict(models="moved_net.py:make", data="d.safetensors", gradients=30, chunk=4, questions=question)
    (radii,) = plica.evaluate(plan | {"questions": dict(ask="min-radius", metric="theta", through="flow")}, "r").tasks
    found = torch.tensor(runs.load("r").rows(radii)["distance"].to_pylist())
    question["radius"] = float(found[found.isfinite() & (found > 0)].median()) * 1.01
    run = plica.evaluate(plan, "some")
    (task,) = run.tasks
    rows = run.rows(task)
    assert set(rows["success"].to_pylist()) == {True, False}
    stored = [load_file(file) for file in run.files[task.name]]
    assert 0 < sum(len(held["id"]) for held in stored) < 6
    assert all(len(held["id"]) == len(held["x_adv"]) == len(held["theta"]) for held in stored)
    seen = []
    for (ids, x_adv), theta in zip(run.points(task), run.thetas(task), strict=True):
        assert len(ids) == len(x_adv) == len(theta)
        still = (x_adv == x[ids]).flatten(1).all(1)
        assert torch.equal(theta.isnan().all(1), still)
        made = torch.where(still[:, None], started(x[ids]), theta)
        assert (parse_through("flow")(x[ids], made).clamp(0, 1) - x_adv).abs().max() < 1e-6
        seen += ids.tolist()
    assert seen == rows["id"].to_pylist() == list(range(6))
    assert main(["audit", "some"]) == 2
    assert main(["audit", "some", "--trust"]) == 0
    file, held = next((f, h) for f, h in zip(run.files[task.name], stored, strict=True) if len(h["id"]))
    save_file(held | {"theta": held["theta"] * torch.nan}, file)
    capsys.readouterr()
    assert main(["audit", "some", "--trust"]) == 1
    assert "DIFFERS, theta" in capsys.readouterr().out


def test_a_perturbation_knows_the_bounds_of_the_command_line(folder):
    held = load_file("d.safetensors")
    save_file(held | {"x": held["x"] * 2 - 1}, "d.safetensors")
    assert call("radius", "--bounds=-1,1", through="recolor") == 0
    assert main(["audit", "out", "--trust"]) == 0


@pytest.mark.parametrize(
    ("box", "said"),
    [({"low": np.zeros((3, 12, 12))}, "takes bounds of two numbers"), ({"mask": np.eye(12) > 0}, "leave one out")],
)
def test_bounds_of_each_feature_do_not_go_with_a_perturbation(folder, capsys, box, said):
    np.savez("box.npz", **({"high": np.ones((3, 12, 12))} if "low" in box else {}), **box)
    assert call("radius", "--bounds", "box.npz") == 2
    assert said in capsys.readouterr().err
    question = dict(ask="min-radius", metric="theta", through="flow")
    plan = dict(models="moved_net.py:make", data="d.safetensors", bounds="box.npz", questions=question)
    with pytest.raises(plica.evaluation.PlanError, match=said):
        plica.evaluate(plan, "all")
