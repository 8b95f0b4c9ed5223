"""The reference trainer: what it writes, that it goes on bit for bit, what it says, and how it is selected."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

import plica
from plica.cli import main
from plica.evaluation import PlanError
from plica.training.augment import augmented
from plica.training.loop import Trainer
from plica.training.overfitting import share_gained
from plica.training.plan import read_training_plan
from plica.training.trainer import DivergedError, TrainingProgress, train
from shared_data import SHARED

NET = """
from torch import nn

def make():
    head = nn.Flatten(), nn.Dropout(0.1), nn.Linear(72, 3)
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), *head)
"""


@pytest.fixture
def plan(tmp_path):
    """Three classes of coloured images with noise, and the plan of a short training."""
    rng = np.random.default_rng(0)
    y = np.arange(96) % 3
    x = 0.35 + 0.3 * np.eye(3)[y][:, :, None, None] + 0.15 * rng.standard_normal((96, 3, 8, 8))
    np.savez(tmp_path / "train.npz", x=x.clip(0, 1).astype(np.float32), y=y)
    (tmp_path / "net.py").write_text(NET)
    return {
        "model": f"{tmp_path / 'net.py'}:make",
        "data": str(tmp_path / "train.npz"),
        "questions": [{"ask": "min-radius", "metric": "l2", "cap": 1.0}],
        "epochs": 3,
        "batch": 16,
        "held_out": 32,
        "save_every": 3,
        "report_n": 4,
        "report_gradients": 5,
        "threads": 1,
    }


def test_a_training_writes_weights_a_log_and_a_run_of_both_networks(plan, tmp_path):
    steps = []
    run = train(plan, tmp_path / "out", on_progress=lambda progress: steps.append((progress.what, progress.step)))
    trained = [(what, step) for what in ("training", "undefended") for step in range(1, 13)]
    assert steps == trained + [("evaluation", step) for step in range(7)]  # two networks in three distances
    log = pq.read_table(tmp_path / "out" / "log.parquet").to_pylist()
    assert [row["epoch"] for row in log] == [1, 2, 3]
    assert all(row["held_out_radius_l2"] > 0 and row["share_gained"] >= 0 and not row["alarm"] for row in log)
    assert log[-1]["held_out_accuracy"] > 0.5
    page = (
        (Path(__file__).parents[2] / "docs" / "reference" / "directory.md")
        .read_text()
        .partition("## What plica train")[2]
    )
    for column in log[0]:
        assert f"`{column.replace('l2', 'METRIC').replace('share_0', 'share_I')}`" in page
    assert {(task.model, task.metric) for task in run.tasks} == {
        (model, metric) for model in ("trained", "undefended") for metric in ("l1", "l2", "linf")
    }
    weights = plica.models.load_model(plan["model"], tmp_path / "out" / "model.safetensors")  # read as --weights
    assert isinstance(weights, torch.nn.Module)
    assert main(["report", str(tmp_path / "out" / "run"), "-o", str(tmp_path / "report.html")]) == 0


FROZEN = """
def first():
    net = make()
    net[0].requires_grad_(False)
    return net

def whole():
    return make().requires_grad_(False)
"""


@pytest.mark.parametrize(("net", "fixed"), [("first", True), ("whole", False)])
def test_a_frozen_layer_stays_as_it_is_unless_all_are_frozen(plan, tmp_path, net, fixed):
    (tmp_path / "net.py").write_text(NET + FROZEN)
    plan |= {"model": f"{tmp_path / 'net.py'}:{net}", "epochs": 1, "ema": 0.9}
    torch.manual_seed(0)
    before = plica.models.load_model(plan["model"]).state_dict()
    train(plan, tmp_path / "out")
    after = plica.models.load_model(plan["model"], tmp_path / "out" / "model.safetensors").state_dict()
    assert torch.equal(before["0.weight"], after["0.weight"]) is fixed
    assert not torch.equal(before["5.weight"], after["5.weight"])


ONE_LOGIT = """
from torch import nn

def column():
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 1))

def flat():
    return nn.Sequential(column(), nn.Flatten(0))
"""


@pytest.mark.parametrize("net", ["column", "flat"])
def test_networks_with_one_logit_are_trained_on_both_classes(plan, tmp_path, net):
    """Label 1 was out of bounds for the plain cross-entropy, and of label 0 it was always 0."""
    (tmp_path / "one.py").write_text(ONE_LOGIT)
    data = dict(np.load(tmp_path / "train.npz"))
    np.savez(tmp_path / "two.npz", x=data["x"], y=data["y"] == 1)
    plan |= {"model": f"{tmp_path / 'one.py'}:{net}", "data": str(tmp_path / "two.npz"), "augment": False}
    plan |= {"questions": [], "report_n": 1}
    train(plan, tmp_path / "out")
    assert pq.read_table(tmp_path / "out" / "log.parquet").to_pylist()[-1]["held_out_accuracy"] > 0.9
    np.savez(tmp_path / "two.npz", x=data["x"], y=0 * data["y"])
    train(plan | {"epochs": 1}, tmp_path / "zeros")
    assert pq.read_table(tmp_path / "zeros" / "log.parquet").to_pylist()[-1]["loss"] > 0


def test_of_equally_good_epochs_the_last_is_kept(plan, tmp_path):
    """An ordinary training that has all held-out images right after its first epoch kept that one."""
    trainer = Trainer(read_training_plan(plan | {"questions": [], "epochs": 4}), tmp_path / "out", "training", print)
    trainer.run(lambda progress: None)
    scores = [row["score"] for row in trainer.rows]
    last = max(epoch for epoch, score in enumerate(scores, 1) if score == max(scores))
    assert scores.count(max(scores)) > 1
    assert f"epoch {last} of 4 is kept" in trainer.kept()
    kept = plica.models.load_model(plan["model"], tmp_path / "out" / "model.safetensors").state_dict()
    assert all(torch.equal(kept[name], value) for name, value in trainer.model.state_dict().items()) == (last == 4)


CAPPED = {"ask": "min-radius", "metric": "l2", "cap": 0.5}
LINEAR = """
from torch import nn

def make():
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
"""


@pytest.mark.parametrize("questions", [[CAPPED], [CAPPED | {"cap": None}], []], ids=["cap", "no cap", "no question"])
def test_a_network_that_gives_every_image_the_same_class_is_not_the_best_epoch(plan, tmp_path, questions):
    """The radii of the third that it gets right are huge, and so was their mean."""
    (tmp_path / "linear.py").write_text(LINEAR)
    colours = torch.eye(3).repeat_interleave(64, 1)
    networks = {"colours": (colours, torch.zeros(3)), "constant": (1e-3 * colours, torch.tensor([1.0, 0, 0]))}
    still = {"lr": 1e-12, "momentum": 0, "weight_decay": 0}
    plan |= {"questions": questions, "epochs": 1, "optimizer": still, "augment": False}
    score = {}
    for name, (weight, bias) in networks.items():
        save_file({"1.weight": weight, "1.bias": bias}, tmp_path / f"{name}.safetensors")
        plan["model"] = {"model": f"{tmp_path / 'linear.py'}:make", "weights": str(tmp_path / f"{name}.safetensors")}
        trainer = Trainer(read_training_plan(plan), tmp_path / name, "training", print)
        trainer.run(lambda progress: None)
        row = trainer.rows[0]
        score[name] = row["score"]
        assert "epoch 1 of 1 is kept; on 32 held-out images: " in trainer.kept()
        assert (
            f"radius {'(at most 0.5) ' if questions == [CAPPED] else ''}{row['held_out_radius_l2']:.4g} under l2"
            in trainer.kept()
        )
        assert f"accuracy {row['held_out_accuracy']:.1%}" in trainer.kept()
    assert 2 * score["constant"] < score["colours"] <= 1


def test_two_questions_of_one_metric_have_a_radius_each(plan, tmp_path):
    """The second stood in the place of the first, as a mean radius of at most the cap of the first."""
    plan |= {"questions": [CAPPED, {"ask": "max-loss", "metric": "l2", "radius": 0.1}], "epochs": 1, "augment": False}
    trainer = Trainer(read_training_plan(plan), tmp_path / "out", "training", print)
    trainer.run(lambda progress: None)
    first, second = (trainer.rows[0][f"held_out_radius_{i}_l2"] for i in (0, 1))
    assert first > second > 0
    assert f"mean radius (at most 0.5) {first:.4g} under l2, mean radius (at most 0.1) {second:.4g}" in trainer.kept()


@pytest.mark.parametrize(
    "change",
    [
        {"ema": 0.9, "optimizer": "adamw"},
        pytest.param({}, marks=pytest.mark.slow),
        pytest.param({"questions": [{"ask": "max-loss", "metric": "l2", "radius": 0.3}]}, marks=pytest.mark.slow),
    ],
    ids=["average", "sgd", "pgd"],
)
def test_an_interrupted_training_ends_with_the_same_bits(plan, tmp_path, change):
    plan = plan | {"undefended": False} | change
    train(plan, tmp_path / "whole")

    def interrupt(progress):
        if progress.step == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(plan, tmp_path / "parts", on_progress=interrupt)
    assert pq.read_table(tmp_path / "parts" / "log.parquet").num_rows == 1
    train(plan, tmp_path / "parts")
    for file in ("model.safetensors", "log.parquet"):
        whole, parts = ((tmp_path / name / file).read_bytes() for name in ("whole", "parts"))
        assert whole == parts, file


@pytest.mark.slow
def test_a_killed_training_ends_with_the_same_bits(plan, tmp_path):
    plan |= {"epochs": 30, "undefended": False}
    file = tmp_path / "plan.yaml"
    file.write_text(json.dumps(plan))
    train(plan, tmp_path / "whole")
    words = [sys.executable, "-m", "plica", "train", file, "--out", tmp_path / "parts"]
    process = subprocess.Popen(words, env={**os.environ, "OMP_NUM_THREADS": "1"})
    while not (tmp_path / "parts" / "log.parquet").exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert pq.read_table(tmp_path / "parts" / "log.parquet").num_rows < 30
    subprocess.run(words, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    for name in ("model.safetensors", "log.parquet"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()


@pytest.mark.parametrize("writes", [1, 5])
def test_a_full_disk_is_a_sentence_and_room_lets_the_training_go_on(plan, tmp_path, monkeypatch, capsys, writes):
    """It was a traceback, in the training (the first four files) as in the evaluation at the end."""
    plan |= {"epochs": 1, "undefended": False}
    (tmp_path / "plan.yaml").write_text(json.dumps(plan))
    command = ["train", str(tmp_path / "plan.yaml"), "--out", str(tmp_path / "out")]
    left, real = iter(range(2 * writes)), os.fsync  # of the file and of its folder

    def full(number):
        if next(left, None) is None:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(number)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert main(command) == 2
    said = capsys.readouterr().err
    assert "is full (No space left on device); finished parts are stored: free some space" in said
    assert main(command) == 0
    train(plan, tmp_path / "whole")
    for name in ("model.safetensors", "log.parquet"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()


def test_a_file_that_is_no_checkpoint_is_a_sentence(plan, tmp_path):
    """Each was a traceback."""
    plan |= {"undefended": False, "epochs": 1, "report_n": 1}
    trainer = Trainer(read_training_plan(plan), tmp_path, "training", print)
    trainer.run(lambda progress: None)
    file = tmp_path / "checkpoint.pt"
    state = torch.load(file, weights_only=True)
    for content in (b"hello", b"", file.read_bytes()[:2000]):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=r"checkpoint\.pt cannot be read .*train again"):
            train(plan, tmp_path)
    torch.save([state], file)
    with pytest.raises(ValueError, match="is not a checkpoint of a training"):
        train(plan, tmp_path)
    for other in ({"rows": state["rows"], "plan": state["plan"], "model": state["model"]}, {"counts": {"more": 1}}):
        torch.save(other if "rows" in other else state | other, file)
        with pytest.raises(ValueError, match="a training of another version of plica"):
            train(plan, tmp_path)
    torch.save(state | {"plan": state["plan"] | {"later": 1}}, file)
    with pytest.raises(ValueError, match=r"another plan \(later\)"):
        train(plan, tmp_path)


def test_another_plan_does_not_go_on(plan, tmp_path):
    plan = plan | {"undefended": False, "epochs": 1}
    train(plan, tmp_path / "out")
    with pytest.raises(ValueError, match=r"another plan \(epochs\); give another --out"):
        train(plan | {"epochs": 2}, tmp_path / "out")


def test_another_evaluation_says_that_the_training_is_kept(plan, tmp_path, capsys):
    """It advised to train again elsewhere, and was a traceback where the undefended network was trained meanwhile."""
    plan |= {"undefended": False, "epochs": 1, "report_n": 1}
    for change in ({}, {"undefended": True}, {"report_gradients": 6}):
        (tmp_path / "plan.yaml").write_text(json.dumps(plan | change))
        assert main(["train", str(tmp_path / "plan.yaml"), "--out", str(tmp_path / "out")]) == 2 * bool(change)
    shown = capsys.readouterr()
    assert "These numbers: " in shown.out
    said = shown.err.splitlines()
    assert sum(line.startswith("plica: ") and "delete" in line and "evaluates it anew." in line for line in said) == 2
    shutil.rmtree(tmp_path / "out" / "run")
    steps = []
    train(plan | {"report_gradients": 6}, tmp_path / "out", on_progress=lambda at: steps.append(at.what))
    assert set(steps) == {"evaluation"}


def test_other_data_or_another_network_does_not_go_on(plan, tmp_path):
    """It went on with the new images; another network was a traceback."""
    plan = plan | {"undefended": False, "epochs": 1, "report_n": 1}
    train(plan, tmp_path / "out")
    (tmp_path / "net.py").write_text(NET.replace("Linear(72, 3)", "Linear(72, 4)"))
    with pytest.raises(ValueError, match=r"another network than .*net\.py:make is now; give another --out"):
        train(plan, tmp_path / "out")
    (tmp_path / "net.py").write_text(NET)
    data = np.load(tmp_path / "train.npz")
    np.savez(tmp_path / "train.npz", x=data["x"][::-1], y=data["y"])
    with pytest.raises(ValueError, match=r"other data: .*train\.npz has changed; give another --out"):
        train(plan, tmp_path / "out")


def test_pixels_may_lie_in_other_bounds(plan, tmp_path):
    """They were refused, with the advice to give bounds."""
    data = np.load(tmp_path / "train.npz")
    np.savez(tmp_path / "train.npz", x=2 * data["x"] - 1, y=data["y"])
    changed = {"undefended": False, "epochs": 1, "bounds": [-1, 1], "test": plan["data"], "report_n": 1}
    run = train(plan | changed, tmp_path / "out")
    assert run.bounds.pair == (-1, 1)
    with pytest.raises(ValueError, match=r"x must lie in bounds \[-1, 0\.5\]"):
        train(plan | changed | {"bounds": [-1, 0.5]}, tmp_path / "other")


def test_images_of_one_label_are_a_warning(plan, tmp_path):
    data, said = np.load(tmp_path / "train.npz"), []
    np.savez(tmp_path / "train.npz", x=data["x"], y=0 * data["y"] + 2)

    def interrupt(progress):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(plan, tmp_path / "out", on_progress=interrupt, say=said.append)
    assert said == ["All images of the training have the label 2: a network learns nothing from that."]


ROUNDED = """
import torch
from torch import nn

class Rounded(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))

    def forward(self, x):
        return self.net((255 * x).round() / 255)
"""


@pytest.mark.parametrize("question", [CAPPED, {"ask": "max-loss", "metric": "linf", "radius": 0.1}, None])
def test_a_network_without_a_gradient_in_its_input_is_a_warning(plan, tmp_path, question):
    """It was trained on the images as they are, without a word."""
    (tmp_path / "net.py").write_text(ROUNDED)
    said = []
    plan |= {"model": f"{tmp_path / 'net.py'}:Rounded", "questions": [question] if question else []}
    Trainer(read_training_plan(plan), tmp_path / "out", "training", said.append)
    assert ["with respect to its input is 0 at all of 16 training images" in text for text in said] == [True] * bool(
        question
    )


def test_no_batch_is_larger_than_that_of_the_plan(plan, tmp_path):
    """All held-out images were one batch, which a large network has no memory for."""
    sizes = []
    for question in (CAPPED, {"ask": "max-loss", "metric": "linf", "radius": 0.1}):
        planned = read_training_plan(plan | {"questions": [question], "epochs": 1})
        trainer = Trainer(planned, tmp_path / question["ask"], "training", print)
        trainer.model.register_forward_pre_hook(lambda module, x: sizes.append(len(x[0])))
        trainer.run(lambda progress: None)
    assert max(sizes) == 16


def test_a_solver_that_needs_more_gradients_is_no_overfitting(plan, tmp_path, monkeypatch):
    """Of Flow, whose share is below one half before the training, it was said."""
    shares = iter([0.5, 0.4, 0.3, 0.2])
    monkeypatch.setattr("plica.training.loop.share_gained", lambda *_: next(shares))
    said = []
    trainer = Trainer(read_training_plan(plan), tmp_path / "out", "training", said.append)
    trainer.run(lambda progress: None)
    assert [row["alarm"] for row in trainer.rows] == [False, False, True]
    assert len(said) == 1
    assert "20% as effective" in said[0]


def test_the_log_of_a_training_without_questions_counts_no_radii(plan, tmp_path):
    """It said that none of the images was classified correctly."""
    trainer = Trainer(read_training_plan(plan | {"questions": [], "epochs": 1}), tmp_path, "training", print)
    trainer.run(lambda progress: None)
    row = pq.read_table(tmp_path / "log.parquet").to_pylist()[0]
    for column in ("correct", "gradients", "beyond_cap", "not_finite", "radius_50"):
        assert np.isnan(row[column]), column


def test_a_loss_that_is_not_finite_ends_with_the_best_weights(plan, tmp_path, capsys):
    plan = plan | {"undefended": False, "optimizer": {"name": "sgd", "lr": 1e30, "momentum": 0.0}, "warmup": 0.0}
    with pytest.raises(DivergedError, match=r"The loss is not finite at step \d+ of 12; .*smaller lr"):
        train(plan, tmp_path / "out")
    (tmp_path / "plan.yaml").write_text(json.dumps(plan))
    assert main(["train", str(tmp_path / "plan.yaml"), "--out", str(tmp_path / "again")]) == 1
    assert "not finite" in capsys.readouterr().err


def test_an_interruption_says_whether_there_is_a_checkpoint(plan, tmp_path, monkeypatch, capsys):
    def interrupted(read, out, on_progress, say):
        on_progress(TrainingProgress("training", step=1, steps=4, loss=1.0, fresh=1, seconds=0.1))
        raise KeyboardInterrupt

    monkeypatch.setattr("plica.cli.train.run_plan", interrupted)
    (tmp_path / "plan.yaml").write_text(json.dumps(plan))
    command = ["train", str(tmp_path / "plan.yaml"), "--out", str(tmp_path / "out")]
    assert main(command) == 1
    assert "interrupted before the first checkpoint" in capsys.readouterr().err
    (tmp_path / "out").mkdir()
    (tmp_path / "out/checkpoint.pt").write_bytes(b"")
    assert main(command) == 1
    assert "the last checkpoint is in" in capsys.readouterr().err


def test_who_has_no_plan_is_told_where_one_is(tmp_path, capsys):
    assert main(["train", str(tmp_path / "none.yaml"), "--out", str(tmp_path / "out")]) == 2
    assert "plica train --help shows one" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"epoch": 3}, "did you mean 'epochs'"),
        ({"questions": [{"ask": "max-loss", "metric": "l2"}]}, "max-loss takes a radius"),
        ({"questions": [{"ask": "min-radius", "metric": "l22x"}]}, "l22x"),
        ({"outer": "trade"}, "did you mean 'trades'"),
        ({"weight": 3}, "weight goes with outer: trades or mart"),  # it was ignored
        ({"pick": "any"}, "there is no pick"),
        ({"epochs": 2**63}, "epochs.*less than or equal to 100000"),
        ({"gradients": 2**63}, "gradients.*less than or equal to 1000"),
        ({"optimizer": "adam"}, "did you mean 'adamw'"),
        ({"held_out": 96}, "leaves no image to train on"),
        ({"questions": [{"ask": "min-radius", "metric": "l2"}] * 2, "pick": "max"}, "give caps"),
    ],
)
def test_an_invalid_plan_is_said_before_any_work(plan, tmp_path, change, said):
    with pytest.raises(ValueError, match=said) as caught:
        train(plan | change, tmp_path / "out")
    assert isinstance(caught.value, PlanError) or "held_out" in change
    assert not (tmp_path / "out" / "checkpoint.pt").exists()


def test_crops_and_flips_are_parts_of_the_padded_image():
    x = torch.rand(50, 1, 8, 16)
    generator = torch.Generator().manual_seed(0)
    moved = augmented(x, generator)
    wide = torch.nn.functional.pad(x, (2, 2, 1, 1))
    seen = set()
    for i in range(50):
        views = {
            (top, left, flip): (wide[i].flip(-1) if flip else wide[i])[:, top : top + 8, left : left + 16]
            for top in range(3) for left in range(5) for flip in (False, True)
        }  # fmt: skip
        equal = [key for key, view in views.items() if torch.equal(view, moved[i])]
        assert len(equal) == 1
        seen.update(equal)
    assert len(seen) > 15


def test_the_share_gained_is_low_where_a_gradient_says_little(plan):
    """A linear network gives all to one step; one whose logits wave says little of the ball in a single gradient."""
    question = {"ask": "max-loss", "metric": "linf", "radius": 0.03}
    read = read_training_plan(plan | {"questions": [question], "gradients": 1})
    torch.manual_seed(0)
    x, y = torch.rand(16, 3, 8, 8), torch.arange(16) % 3
    smooth = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 3))
    assert share_gained(read, smooth, x, y, 1.0) > 0.9

    class Wavy(torch.nn.Module):
        def forward(self, z):
            return smooth(z) + 40 * torch.sin(60 * z.flatten(1)[:, :3]) ** 2

    assert share_gained(read, Wavy(), x, y, 1.0) < 0.5


CONVOLUTIONS = """
from torch import nn

def make():
    features = nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.BatchNorm2d(32)
    return nn.Sequential(*features, nn.ReLU(), nn.Flatten(), nn.Linear(2048, 128), nn.ReLU(), nn.Linear(128, 10))
"""


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the images of shared/data beside the repository")
@pytest.mark.parametrize(("gradients", "rings"), [(1, True), (4, False)], ids=["fgsm", "pgd-4"])
def test_the_alarm_rings_where_one_step_is_overfitted_and_not_for_four(tmp_path, gradients, rings):
    (tmp_path / "net.py").write_text(CONVOLUTIONS)
    plan = {
        "model": f"{tmp_path / 'net.py'}:make",
        "data": {"path": str(SHARED / "cifar10" / "cifar10_train_20000.npz"), "n": 144},
        "questions": [{"ask": "max-loss", "metric": "linf", "radius": "16/255"}],
        "gradients": gradients,
        "epochs": 60,
        "batch": 64,
        "held_out": 16,
        "optimizer": {"name": "adamw", "lr": 0.003, "weight_decay": 0.0},
        "augment": False,
        "undefended": False,
        "report_n": 1,
        "report_gradients": 1,
    }
    said = []
    train(plan, tmp_path / "out", say=said.append)
    assert sum("Catastrophic overfitting" in sentence for sentence in said) == rings
    log = pq.read_table(tmp_path / "out" / "log.parquet").to_pylist()
    assert log[-1]["alarm"] == rings
    assert min(row["share_gained"] for row in log) < 0.5 if rings else min(row["share_gained"] for row in log) > 0.6


ODD = """
import torch
from torch import nn


def net():
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 3))


def normed():
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 3), nn.BatchNorm1d(3))


def double():
    return net().double()


def without():
    return nn.Flatten()


class Odd(nn.Module):
    def __init__(self, way):
        super().__init__()
        self.net, self.way = net(), way

    def forward(self, x):
        return self.net(x.sub_(0.5)) if self.way == "in place" else self.net(x).detach()


def in_place():
    return Odd("in place")


def detached():
    return Odd("detached")


def endless():
    return nn.Sequential(net(), nn.Softmax(1), nn.Threshold(2, float("inf")))


def unflattened():
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(3, 3, 1))
"""


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"model": "double"}, "fails on images of the training.*torch.float64; train it in torch.float32"),
        ({"model": "without"}, "has no parameters to train"),
        ({"model": "in_place"}, "changes its input"),
        ({"model": "detached"}, "has no gradient in its parameters"),
        ({"model": "endless"}, "gives logits that are not finite for images of the training; mend it"),
        (
            {"model": "unflattened", "questions": []},
            r"logits of shape \(b, classes\), got \(2, 3, 1, 1\); let it return",
        ),
        ({"test": "small.npz"}, r"fails on images of the test, \(3, 4, 4\)"),
        ({"test": "labels.npz"}, "y of the test must hold classes from 0 to 2"),
        ({"test": "nowhere.npz"}, "nowhere.npz"),
        ({"test": "tags.npz"}, r"\(4, 2\); 4 images need one label each, \(4,\)\.$"),  # no goal can be named here
        ({"data": "tags.npz"}, r"\(4, 2\); 4 images need one label each, \(4,\)\.$"),
        ({"model": "normed", "batch": 1}, "cannot be trained on batches of one image: .*; take a larger batch"),
        ({"device": "tpu"}, "The device 'tpu' cannot be used here"),
        ({"seed": 2**70}, "seed: input should be less than or equal"),
        ({"bounds": [0.0, float("inf")]}, "bounds: two finite numbers are needed"),
    ],
)
def test_what_cannot_be_trained_is_one_sentence_before_any_work(plan, tmp_path, change, sentence):
    """It was a traceback, and of the images of the test one after the whole training."""
    x = np.random.default_rng(0).random((4, 3, 8, 8), dtype=np.float32)
    np.savez(tmp_path / "small.npz", x=x[:, :, ::2, ::2], y=np.arange(4) % 3)
    np.savez(tmp_path / "labels.npz", x=x, y=np.arange(4))
    np.savez(tmp_path / "tags.npz", x=x, y=np.ones((4, 2), dtype=int))
    (tmp_path / "odd.py").write_text(ODD)
    change |= {"model": f"{tmp_path / 'odd.py'}:{change.get('model', 'net')}"}
    change |= {key: str(tmp_path / change[key]) for key in ("data", "test") if key in change}
    with pytest.raises((ValueError, OSError), match=sentence):
        train(plan | change, tmp_path / "out", on_progress=lambda progress: pytest.fail("a step was taken"))
