"""What goes wrong on the way is noted, and the rest survives; a killed run goes on as if nothing had been."""

import errno
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import plica
from evaluation.compare import assert_same
from evaluation.conftest import PLAN
from plica import runs
from plica.cli import main
from plica.data.arrays import ArraySource
from plica.evaluation import PlanError, worker
from plica.evaluation.run import DiskError
from plica.evaluation.worker import AllFailedError

KILLS = 20


def rows(run):
    return run.samples.to_pylist()


@pytest.mark.parametrize("writes", [1, 4, 9])
def test_a_full_disk_ends_the_run_and_room_lets_it_go_on(plan, whole, monkeypatch, capsys, writes):
    real, count = os.fsync, iter(range(10**6))

    def full(number):
        if next(count) >= 3 * writes:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(number)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(DiskError, match=r"disk of run is full .* finished parts are stored"):
            plica.evaluate(plan, "run")
        (whole.directory.parent / "plan.yaml").write_text(repr(plan))
        assert main(["evaluate", "plan.yaml", "--out", "run"]) == 2
    assert "free some space and run the same command again." in capsys.readouterr().err
    assert not list(runs.load("run").directory.rglob(".tmp*"))
    assert_same(whole, plica.evaluate(plan, "run"))


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full, a device that is always full")
def test_an_error_of_the_system_is_told_apart_from_a_full_disk(plan, folder):
    (folder / "run").mkdir()
    (folder / "run" / "inputs").write_text("")  # a file where a folder belongs
    with pytest.raises(PlanError, match="are not a run of"):
        plica.evaluate(plan, "run")


def test_a_run_that_is_moved_while_it_is_made_ends_and_goes_on_in_its_new_place(plan, whole, folder):
    """It went on in a new directory of the old name, of which nothing could be used at the end."""
    parts = []

    def move(event):
        parts.append(event)
        if len(parts) == 4:
            (folder / "run").rename(folder / "moved")

    with pytest.raises(DiskError, match=r"manifest\.json is gone.* finished parts are stored"):
        plica.evaluate(plan, "run", on_event=move)
    assert not (folder / "run").exists()
    fresh = []
    assert_same(whole, plica.evaluate(plan, "moved", on_event=lambda event: fresh.append(event.fresh)))
    assert fresh.count(False) == 4


def test_an_image_that_cannot_be_read_is_left_out_and_named(plan, whole, monkeypatch):
    read = ArraySource.read

    def broken(self, ids):
        if 7 in ids.tolist():
            raise OSError(errno.EIO, "Input/output error")
        return read(self, ids)

    monkeypatch.setattr(ArraySource, "read", broken)
    run = plica.evaluate(plan, "run")
    assert run.notes == ["image 7 could not be read: Input/output error"]
    assert run.summary["notes"] == run.notes
    assert run.summary["questions"][0]["images"] == 19
    kept = [row for row in rows(whole) if row["id"] != 7]
    assert [(r["id"], r["distance"]) for r in rows(run)] == [(r["id"], r["distance"]) for r in kept]
    monkeypatch.setattr(ArraySource, "read", read)
    assert plica.evaluate(plan, "run").notes == run.notes  # what was left out stays out


def test_pixels_outside_of_their_range_are_left_out_too(plan, folder):
    x, y = (np.load("d.npz")[name] for name in "xy")
    x = x.astype(np.float32) / 255
    x[7, 0, 0, 0], x[18, 0, 3, 3] = np.nan, 1.5
    np.savez("d.npz", x=x, y=y)
    run = plica.evaluate(plan | {"methods": "radius"}, "run")
    assert [note.split(":")[0] for note in run.notes] == ["image 7 could not be read", "image 18 could not be read"]
    assert "not finite" in run.notes[0]
    assert len(run.rows(run.tasks[0])) == 18
    np.savez("d.npz", x=255 * x, y=y)
    with pytest.raises(PlanError, match="pixels must lie in"):
        plica.evaluate(plan, "none")


def test_when_memory_ends_the_batch_is_halved_and_that_is_noted(plan, whole, monkeypatch):
    attack, sizes = plica.attack, []

    def hungry(model, x, *given, batch_size=None, **more):
        sizes.append(batch_size)
        if len(x) > 2 and (batch_size or len(x)) > 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return attack(model, x, *given, batch_size=batch_size, **more)

    monkeypatch.setattr(worker, "attack", hungry)
    monkeypatch.setattr("plica.evaluation.prepare._try", lambda *_: None)
    run = plica.evaluate(plan | {"methods": "radius"}, "run")
    assert sizes[:2] == [None, 3]
    assert sizes[2:5] == [1, 1, 1]  # remembered
    assert run.notes[0] == "make--min-radius-l2--radius, chunk 0: out of memory, batch size 3 from here"
    assert len(run.notes) == 2
    assert [r["distance"] for r in rows(run)] == [r["distance"] for r in rows(whole) if r["method"] == "radius"]


def test_logits_that_are_not_finite_on_some_images(plan, whole, folder):
    x, y = (np.load("d.npz")[name] for name in "xy")
    x[[5, 18, 19], 0, 0, 0] = 255  # the last chunk is 18 and 19
    np.savez("d.npz", x=x, y=y)
    run = plica.evaluate(plan | {"models": {"model": "net.py:sometimes", "name": "make"}}, "run")
    assert {r["id"] for r in rows(run) if r["status"] == "NOT_FINITE"} == {5, 18, 19}
    assert [question["unanswered"] for question in run.summary["questions"]] == [3, 3, 3]
    kept = [r for r in rows(whole) if r["id"] not in (5, 18, 19)]
    assert [r["distance"] for r in rows(run) if r["status"] != "NOT_FINITE"] == [r["distance"] for r in kept]
    x[:, 0, 0, 0] = 255
    np.savez("d.npz", x=x, y=y)
    with pytest.raises(PlanError, match="nan or inf for every image"):
        plica.evaluate(plan | {"models": "net.py:sometimes"}, "none")


def fail_on(monkeypatch, which):
    attack = plica.attack

    def faulty(model, x, *given, **more):
        if which(x):
            raise RuntimeError("singular matrix")
        return attack(model, x, *given, **more)

    monkeypatch.setattr(worker, "attack", faulty)
    monkeypatch.setattr("plica.evaluation.prepare._try", lambda *_: None)


def test_an_image_on_which_the_method_fails_is_named_and_the_others_are_not_harmed(plan, whole, monkeypatch):
    bad = next(whole.inputs())[1][4]
    fail_on(monkeypatch, lambda x: bool((x == bad).flatten(1).all(1).any()))
    run = plica.evaluate(plan | {"methods": "radius"}, "run")
    assert {(r["id"], r["success"]) for r in rows(run) if r["status"] == "FAILED"} == {(4, False)}
    assert run.notes[0] == "make--min-radius-l2--radius, image 4: RuntimeError: singular matrix"
    kept = [r for r in rows(whole) if r["method"] == "radius" and r["id"] != 4]
    assert [r["distance"] for r in rows(run) if r["id"] != 4] == [r["distance"] for r in kept]


PARTLY = """
import torch
from net import make as sound

class Partly(torch.nn.Module):
    "The first logit is not a number where the first pixel is white."
    def __init__(self):
        super().__init__()
        self.net = sound()

    def forward(self, x):
        logits = self.net(x)
        first = torch.where(x.flatten(1)[:, :1] == 1, torch.nan, logits[:, :1])
        return torch.cat([first, logits[:, 1:]], 1)

def make():
    return Partly()
"""


def test_a_single_logit_that_is_not_finite_is_enough(plan, folder, monkeypatch):
    monkeypatch.syspath_prepend(folder)
    (folder / "partly.py").write_text(PARTLY)
    x, y = (np.load("d.npz")[name] for name in "xy")
    x[18:, 0, 0, 0] = 255  # all images of the last chunk
    np.savez("d.npz", x=x, y=y)
    run = plica.evaluate(plan | {"models": "partly.py:make", "methods": "radius"}, "run")
    assert {r["id"] for r in rows(run) if r["status"] == "NOT_FINITE"} == {18, 19}
    assert not [r for r in rows(run) if r["status"] == "FAILED"]
    assert run.notes == []


def test_a_method_that_fails_on_all_images_ends_the_run(plan, folder, monkeypatch, capsys):
    fail_on(monkeypatch, lambda x: True)
    with pytest.raises(AllFailedError, match="image 5: RuntimeError: singular matrix"):
        plica.evaluate(plan, "run")
    (folder / "plan.yaml").write_text(repr(plan))
    assert main(["evaluate", "plan.yaml", "--out", "run"]) == 2
    assert "A method fails on all images of a chunk" in capsys.readouterr().err


@pytest.mark.slow
def test_killed_twenty_times_at_random_moments_it_ends_as_if_it_had_not_been(plan, whole, folder):
    (folder / "plan.yaml").write_text(repr(plan | {"chunk": 2}))
    line = [sys.executable, "-m", "plica", "evaluate", "plan.yaml", "--out"]
    began = time.monotonic()
    subprocess.run([*line, "calm"], check=True, capture_output=True)
    usual = time.monotonic() - began
    dice, finished = random.Random(0), []
    for _ in range(KILLS):
        process = subprocess.Popen([*line, "killed"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for_parts(folder / "killed", process, usual)
        time.sleep(dice.uniform(0, 0.05 * usual))
        process.send_signal(signal.SIGKILL)
        process.wait()
        parts = sorted((folder / "killed").glob("parts/*/[0-9]*.parquet"))
        finished.append({part: part.stat().st_mtime_ns for part in parts})
        for part in parts:
            assert pq.read_table(part).num_rows <= 2
    assert len(finished[-1]) > 5
    subprocess.run([*line, "killed"], check=True, capture_output=True)
    for former in finished:
        assert all(part.stat().st_mtime_ns == time for part, time in former.items())  # nothing was done twice
    assert not list((folder / "killed").rglob(".tmp*"))
    assert_same(runs.load("calm"), runs.load("killed"))


def wait_for_parts(directory, process, usual):
    """Until the process has added a part, which is past its imports and checks."""
    count = len(list(directory.glob("parts/*/*")))
    end = time.monotonic() + 3 * usual
    while len(list(directory.glob("parts/*/*"))) == count and time.monotonic() < end and process.poll() is None:
        time.sleep(0.002)


FAULTY = """
import torch
from net import make

net = make()

def picky():
    def model(x):
        if bool((x[:, 0, 0, 0] == 1).any()):
            raise ValueError("singular matrix")
        return net(x)
    return model

def always():
    def model(x):
        if x.requires_grad:
            raise RuntimeError("never")
        return net(x)
    return model

def of_four():
    return lambda x: net(x.view(4, 1, 12, 12))
"""


@pytest.fixture
def faulty(folder):
    """A plan of one question to a model of a file, on data whose image 4, among the first 16, has a white corner."""
    x, y = (np.load("d.npz")[name] for name in "xy")
    x[4, 0, 0, 0] = 255
    np.savez("d.npz", x=x, y=y)
    (folder / "faulty.py").write_text(FAULTY)

    def plan(model):
        questions = [{"ask": "min-radius", "metric": "l2"}]
        return PLAN | {"models": f"faulty.py:{model}", "methods": "radius", "questions": questions}

    return plan


def test_an_image_that_the_model_refuses_is_left_out_though_it_is_among_the_first(faulty, capsys):
    run = plica.evaluate(faulty("picky"), "run")
    assert {row["id"] for row in rows(run) if row["status"] == "FAILED"} == {4}
    assert "image 4: " in run.notes[0]
    assert "singular matrix" in run.notes[0]
    line = "radius --model faulty.py:picky --data d.npz --metric l2 --gradients 5 --out one"
    assert main(line.split()) == 1
    last_line = capsys.readouterr().err.strip().splitlines()[-1]
    assert last_line.startswith("plica: The model raised ValueError: singular matrix for ")
    assert not os.path.exists("one")


def test_a_model_that_refuses_every_image_is_one_sentence(faulty):
    """In the trial or in the run: images that are wrong from the start ask for no gradient."""
    with pytest.raises((PlanError, AllFailedError), match="The model raised RuntimeError: never"):
        plica.evaluate(faulty("always"), "run")


def test_memory_that_ends_in_the_trial_run_is_left_to_the_run(plan, whole, monkeypatch):
    attack, sizes = plica.attack, []

    def hungry(model, x, *given, batch_size=None, **more):
        sizes.append(len(x))
        if len(x) > 8:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return attack(model, x, *given, batch_size=batch_size, **more)

    monkeypatch.setattr("plica.evaluation.prepare.attack", hungry)
    run = plica.evaluate(plan | {"methods": "radius"}, "run")
    assert sizes == [16, 16, 16]
    assert [r["distance"] for r in rows(run)] == [r["distance"] for r in rows(whole) if r["method"] == "radius"]


def test_a_model_of_one_batch_size_is_evaluated(faulty):
    with pytest.warns(UserWarning, match="run with 4 at a time"):
        run = plica.evaluate(faulty("of_four"), "run")
    free = plica.evaluate(faulty("of_four") | {"models": "net.py:make"}, "free")
    answers = [[row["distance"] for row in rows(asked)] for asked in (run, free)]
    assert answers[0] == pytest.approx(answers[1], rel=1e-3)
