"""levels on the command line and in plans: the run names them, the audit checks them, PNG files hold the points."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from plica import runs
from plica.analysis.contenders import groups
from plica.cli.app import main

NET = """
import torch
from torch import nn


def make():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 16), nn.ReLU(), nn.Linear(16, 5)).eval()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model file, images of 8 bits with the model's classes, and runs on them."""
    place = tmp_path_factory.mktemp("levels")
    (place / "net_of_levels.py").write_text(NET)
    parts: dict = {}
    exec(compile(NET, "net", "exec"), parts)
    x = torch.randint(60, 196, (4, 3, 8, 8), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    with torch.no_grad():
        y = parts["make"]()(x.float() / 255).argmax(1)
    np.savez(place / "data.npz", x=x.numpy(), y=y.numpy())
    about = ["--model", place / "net_of_levels.py:make", "--data", place / "data.npz", "--gradients", 20]
    assert plica("radius", *about, "--metric", "l2", "--levels", 256, "--out", place / "grid") == 0
    assert plica("radius", *about, "--metric", "l2", "--out", place / "free") == 0
    edge = ["--metric", "linf", "--radius", "6/255", "--levels", 256, "--out", place / "edge"]
    assert plica("evaluate", *about, *edge) == 0
    return place


def plica(*words) -> int:
    return int(main([str(word) for word in words]) or 0)


def only_folder(place):
    """The folder of the one task, which lies where it was asked for, whatever the task is called."""
    (found,) = (place / "png").iterdir()
    return found


def model_of(folder):
    parts: dict = {}
    exec(compile((folder / "net_of_levels.py").read_text(), "net", "exec"), parts)
    return parts["make"]()


def test_a_run_names_its_levels_and_is_audited(folder):
    run = runs.load(folder / "grid")
    assert run.tasks[0].levels == 256
    assert "256 levels" in run.tasks[0].question
    assert runs.load(folder / "free").tasks[0].levels is None
    assert plica("audit", folder / "grid", "--trust") == 0
    record = json.loads((folder / "grid" / "audit.json").read_text())["tasks"][0]
    assert record["perturbed"] == record["survive"] == 4


def test_answers_with_and_without_levels_are_not_joined(folder):
    found = groups([runs.load(folder / "grid"), runs.load(folder / "free")])
    assert {group.metric for group in found} == {"l2", "l2 (256 levels)"}


def test_a_plan_with_levels(folder, capsys):
    run = runs.load(folder / "edge")
    assert plica("show", folder / "edge") == 0
    assert "256 levels" in capsys.readouterr().out
    assert run.summary["questions"][0]["levels"] == 256
    assert run.samples["levels"].to_pylist() == [256] * 4
    distances = np.array(run.samples["distance"].to_pylist())
    assert (np.isfinite(distances) & (distances > 6 / 255)).any()  # an edge pixel, as float32 rounds it
    assert plica("audit", folder / "edge", "--trust") == 0


def test_the_audit_notices_a_pixel_off_the_grid(folder, tmp_path):
    place = tmp_path / "run"
    place.mkdir()
    for file in (folder / "grid").iterdir():
        (place / file.name).write_bytes(file.read_bytes())
    tensors = load_file(place / "x_adv.safetensors")
    tensors["x_adv"][0, 0, 0, 0] += 1e-4
    save_file(tensors, place / "x_adv.safetensors")
    assert plica("audit", place, "--trust") == 1
    assert "levels" in json.loads((place / "audit.json").read_text())["tasks"][0]["differences"]


def test_png_files_hold_the_judged_points(folder, tmp_path, capsys):
    assert plica("export", folder / "grid", "--png", "--out", tmp_path) == 0
    assert "to the bit" in capsys.readouterr().out
    run, model = runs.load(folder / "grid"), model_of(folder)
    task = run.tasks[0]
    ((ids, x_adv),) = run.points(task)
    labels = dict(zip(*(run.samples[name].to_pylist() for name in ("id", "label")), strict=True))
    for number, point in zip(ids.tolist(), x_adv, strict=True):
        pixels = np.asarray(Image.open(only_folder(tmp_path) / f"{number:06d}.png"))
        read = torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 255
        assert torch.equal(read, point)
        assert int(model(read[None]).argmax()) != labels[number]
    assert plica("export", folder / "grid", "--png", "--out", tmp_path) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert plica("export", folder / "grid", "--png", "--out", tmp_path, "--overwrite") == 0


def test_png_files_of_other_runs_are_rounded_and_measured_again(folder, tmp_path, capsys):
    assert plica("export", folder / "free", "--png", "--out", tmp_path, "--trust") == 0
    said = capsys.readouterr().out
    run, model = runs.load(folder / "free"), model_of(folder)
    kept = 0
    for number, label in zip(*(run.samples[name].to_pylist() for name in ("id", "label")), strict=True):
        pixels = np.asarray(Image.open(only_folder(tmp_path) / f"{number:06d}.png"))
        kept += int(model(torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255).argmax()) != label
    assert f"4 points lie off the 256 levels and were rounded, of which {kept} still count" in said


def test_what_is_no_picture_is_refused(tmp_path, folder, capsys):
    with np.load(folder / "data.npz") as data:
        np.savez(tmp_path / "flat.npz", x=data["x"].reshape(4, 192), y=data["y"])
    about = ["--model", folder / "net_of_levels.py:make", "--data", tmp_path / "flat.npz", "--metric", "l2"]
    assert plica("radius", *about, "--gradients", 20, "--levels", 256, "--out", tmp_path / "run") == 0
    found = pq.read_table(tmp_path / "run" / "samples.parquet").to_pylist()
    assert any(row["success"] and row["distance"] > 0 for row in found)
    assert plica("export", tmp_path / "run", "--png") == 2
    assert "shape (192,)" in capsys.readouterr().err


@pytest.mark.parametrize("words", [("--levels", "1"), ("--levels", "8/255"), ("--levels", "256", "--through", "flow")])
def test_levels_that_are_wrong_input(folder, tmp_path, words, capsys):
    about = ["--model", folder / "net_of_levels.py:make", "--data", folder / "data.npz", "--out", tmp_path / "run"]
    assert plica("radius", *about, "--metric", "theta" if "--through" in words else "l2", *words) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
