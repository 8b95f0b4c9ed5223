"""A run is saved whole or not at all, and is read back as it was."""

import errno
import json
import math

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import plica
from plica import runs
from plica.core.result import Result
from plica.plot.perturbations import draw_perturbations
from plica.runs import single
from plica.runs.single import save_run

STATUS = next(iter(plica.Status))
ARGUMENTS = {"command": "radius", "metric": "l2", "seed": 0}


def result(x, distance):
    """A result with the given distances, inf where nothing was found; each entry of x_adv is its own."""
    distance = torch.tensor(distance, dtype=torch.float64)
    found, b = distance.isfinite(), len(distance)
    count = torch.arange(b)
    return Result(
        x_adv=torch.where((found & (distance > 0)).view(-1, 1, 1, 1), 1 - x, x), success=found, distance=distance,
        violation=torch.where(found, 0.0, 0.25).double(), stationarity=torch.full((b,), math.nan).double(),
        gradients=count * 10, forwards=count + 1, status=[STATUS] * b, margin=distance.clamp(max=1),
        prediction=count % 3, seconds=torch.full((b,), 0.5).double(),
    )  # fmt: skip


@pytest.fixture
def case():
    x = torch.rand(5, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    return x, torch.arange(5), result(x, [0.3, math.inf, 0.0, 0.1, 0.2])


def test_what_was_saved_is_read_back(tmp_path, case):
    x, y, answer = case
    summary = save_run(tmp_path / "a" / "b", x, y, answer, ARGUMENTS, elapsed=2.5, draw=draw_perturbations)
    run = runs.load(tmp_path / "a" / "b")
    ((ids, x_adv),) = run.points(run.tasks[0])
    assert torch.equal(ids, torch.arange(5))
    assert torch.equal(x_adv, answer.x_adv)
    assert run.summary == json.loads(json.dumps(summary))
    rows = pq.read_table(tmp_path / "a" / "b" / "samples.parquet").to_pydict()
    measured = ["prediction", "success", "distance", "margin", "violation", "stationarity"]
    assert list(rows) == ["id", "label", *measured, "status", "gradients", "forwards", "seconds", "share"]
    assert rows["id"] == rows["label"] == [0, 1, 2, 3, 4]
    assert rows["status"] == [STATUS.name] * 5
    for name in [*measured[:-1], "gradients", "forwards", "seconds"]:
        assert rows[name] == getattr(answer, name).tolist(), name
    assert all(math.isnan(value) for value in rows["stationarity"])
    assert sorted(path.name for path in (tmp_path / "a" / "b").iterdir()) == sorted(single.FILES)
    assert (tmp_path / "a" / "b" / "perturbations.png").read_bytes().startswith(b"\x89PNG")


def test_the_summary_counts_what_was_not_found_as_beyond(case):
    summary = single.summarise(case[2], ARGUMENTS, elapsed=1.0)
    assert summary["accuracy"] == 0.8  # one image of five has distance 0: misclassified as it is
    assert "robust_accuracy" not in summary
    assert summary["radius"]["0.5"] == 0.2  # of 0, 0.1, 0.2, 0.3, not found
    assert summary["radius"]["0.75"] == 0.3
    assert summary["radius"]["1"] is None
    assert summary["gradients"] == 100
    assert summary["status"] == {STATUS.name: {"images": 5, "means": STATUS.value}}
    attack = single.summarise(case[2], ARGUMENTS | {"radius": "8/255"}, elapsed=1.0)
    assert attack["robust_accuracy"] == pytest.approx(0.2)


@pytest.mark.parametrize("part", ["table", "points", "picture", "summary", "move"])
def test_a_full_disk_leaves_nothing(tmp_path, case, monkeypatch, part):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    draw = full if part == "picture" else None
    if part == "table":
        monkeypatch.setattr(pq, "write_table", full)
    elif part == "move":
        monkeypatch.setattr("os.replace", full)
    elif part != "picture":
        monkeypatch.setattr(f"pathlib.Path.write_{'bytes' if part == 'points' else 'text'}", full)
    with pytest.raises(OSError, match="No space left"):
        save_run(tmp_path / "new" / "run", *case, ARGUMENTS, elapsed=1.0, draw=draw)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "empty").mkdir()
    with pytest.raises(OSError, match="No space left"):
        save_run(tmp_path / "empty", *case, ARGUMENTS, elapsed=1.0, draw=draw)
    assert list(tmp_path.rglob("*")) == [tmp_path / "empty"]


def test_a_run_is_replaced_only_when_asked(tmp_path, case):
    save_run(tmp_path / "run", *case, ARGUMENTS, elapsed=1.0)
    with pytest.raises(FileExistsError, match="not empty"):
        save_run(tmp_path / "run", *case, ARGUMENTS, elapsed=2.0)
    (tmp_path / "run" / "notes.txt").write_text("mine")
    save_run(tmp_path / "run", *case, ARGUMENTS, elapsed=3.0, overwrite=True)
    assert runs.load(tmp_path / "run").summary["seconds"] == 3.0
    assert (tmp_path / "run" / "notes.txt").read_text() == "mine"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    with pytest.raises(FileExistsError, match="no run that could be replaced"):
        save_run(tmp_path / "other", *case, ARGUMENTS, elapsed=1.0, overwrite=True)


def test_a_directory_that_cannot_be_one(tmp_path, case):
    (tmp_path / "file").touch()
    for place in ("file", "file/below"):
        with pytest.raises(NotADirectoryError, match="is a file"):
            single.check_directory(tmp_path / place)


def test_runs_that_are_incomplete_or_broken(tmp_path, case):
    save_run(tmp_path / "run", *case, ARGUMENTS, elapsed=1.0)
    for name in ("summary.json", "x_adv.safetensors", "samples.parquet"):
        file = tmp_path / "run" / name
        whole = file.read_bytes()
        file.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(ValueError, match=r"is broken|cannot be read"):
            next(runs.load(tmp_path / "run").points(runs.load(tmp_path / "run").tasks[0]))
        file.unlink()
        with pytest.raises(FileNotFoundError, match=r"has no summary|has no x_adv|is not a run"):
            runs.load(tmp_path / "run")
        file.write_bytes(whole)
    assert np.array_equal(runs.load(tmp_path / "run").samples["id"], np.arange(5))


def test_a_directory_with_a_colon_in_its_name(tmp_path, case, monkeypatch):
    """pyarrow takes what stands before it for the name of a file system."""
    monkeypatch.chdir(tmp_path)
    save_run("cuda:99", *case, ARGUMENTS, elapsed=1.0)
    assert len(runs.load("cuda:99").samples) == len(case[1])
