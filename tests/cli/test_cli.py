"""The command line: what a run leaves, what it says while it works, and wrong input in one sentence with status 2."""

import errno
import inspect
import json
import math
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import typer
import yaml
from safetensors.torch import load_file

import plica
from plica.cli import attack, main, progress, radius, train
from plica.cli.app import COMMANDS, app
from plica.cli.progress import AttackProgress
from plica.core.formulations import parse_radius
from plica.models import load_model
from plica.training.plan import read_training_plan

NET = """
import torch
from torch import nn

def make():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 4))

def flat():
    return lambda x: x.flatten(1).sum(1)

def taxicab(x, x_adv):
    return (x_adv - x).abs().flatten(1).sum(1)

def fails():
    raise RuntimeError("no GPU")
"""

LATE = """
import net
import torch

def make():
    model = net.make()
    torch.set_default_device("meta")
    return model
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, with a network and six images: the last is labelled wrongly on purpose."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(NET)
    (tmp_path / "broken.py").write_text("1 / 0")
    x = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 0.5 + 0.25
    y = load_model("net.py:make")(x).argmax(1)
    y[5] = (y[5] + 1) % 4
    np.savez("d.npz", x=x.numpy(), y=y.numpy())
    return tmp_path


def call(*more, command="radius", model="net.py:make", data="d.npz", metric="l2", out="out"):
    """The exit status of a complete command line, changed or completed by the arguments."""
    given = dict(model=model, data=data, metric=metric, out=out)
    options = [word for name, value in given.items() if value is not None for word in (f"--{name}", str(value))]
    return main([command, *options, *more])


def refusal(capsys, status):
    """The one sentence of a refused command; nothing else was said, and nothing was written."""
    out, err = capsys.readouterr()
    assert status == 2
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("plica: ")
    assert err.endswith(".\n")
    return err


def test_radius_writes_a_run_and_tells_the_median(folder, capsys):
    assert call("--gradients", "30", "--seed", "3") == 0
    out = capsys.readouterr().out
    summary = json.loads((folder / "out" / "summary.json").read_text())
    rows = pq.read_table(folder / "out" / "samples.parquet").to_pydict()
    x = torch.from_numpy(np.load("d.npz")["x"])
    x_adv = load_file(folder / "out" / "x_adv.safetensors")["x_adv"]
    measured = (x_adv.double() - x.double()).flatten(1).norm(dim=1)
    predicted = load_model("net.py:make")(x_adv).argmax(1)
    assert rows["success"] == [True] * 6
    assert rows["distance"] == pytest.approx(measured.tolist(), rel=1e-9)  # float64 sums in another order
    assert rows["distance"][5] == 0  # misclassified as it is
    assert rows["prediction"] == predicted.tolist()
    assert all(p != y for p, y in zip(rows["prediction"], rows["label"], strict=True))
    assert max(rows["gradients"]) <= 30
    assert summary["accuracy"] == pytest.approx(5 / 6)
    assert summary["arguments"]["seed"] == 3
    assert summary["arguments"]["command"] == "radius"
    assert f"median {summary['radius']['0.5']:.4g}" in out
    assert "accuracy 83.3%" in out


def test_attack_stays_within_the_radius(folder, capsys):
    assert call("--radius", "3/255", "--gradients", "30", command="attack", metric="linf") == 0
    rows = pq.read_table(folder / "out" / "samples.parquet").to_pydict()
    found = [d for d, ok in zip(rows["distance"], rows["success"], strict=True) if ok]
    assert all(d <= 3 / 255 for d in found)
    assert len(found) == 4  # the others' radii are 3.5 and 5.3
    robust = json.loads((folder / "out" / "summary.json").read_text())["robust_accuracy"]
    assert robust == pytest.approx(1 - len(found) / 6)
    assert f"not broken {robust:.1%}" in capsys.readouterr().out


def test_an_attack_that_finds_nothing_says_so_once(folder, capsys):
    assert call("--radius", "1e-6", "--n", "5", "--gradients", "10", command="attack", metric="linf") == 0
    out = capsys.readouterr().out
    assert "not broken 100.0%\nlinf distance: not found for any image\n" in out


@pytest.mark.parametrize("metric", ["net:taxicab", "net.py:taxicab"])
def test_a_distance_of_ones_own_and_the_first_images_only(folder, metric):
    assert call("--n", "2", "--gradients", "30", metric=metric) == 0
    rows = pq.read_table(folder / "out" / "samples.parquet").to_pydict()
    x = np.load("d.npz")["x"][:2]
    x_adv = load_file(folder / "out" / "x_adv.safetensors")["x_adv"].numpy()
    assert rows["distance"] == pytest.approx(np.abs(x_adv.astype(float) - x).sum(axis=(1, 2, 3)), rel=1e-6)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (dict(out=None), "Missing option '--out'"),
        (dict(data="none.npz"), "no file none.npz"),
        (dict(data="net.py"), "not an .npz file of plain numbers"),
        (dict(model="net.py:other"), "has no 'other'"),
        (dict(model="net.py:fails"), "failed: RuntimeError: no GPU"),
        (dict(model="net.py:flat"), "(b, classes)"),
        (dict(metric="l-1"), "l-1"),
        (dict(metric="l1e400"), "There is no metric 'l1e400'"),
        (dict(metric="l1_0"), "There is no metric 'l1_0'"),
        (dict(metric="far"), "far"),
        (dict(metric="net:none"), "none"),
        (dict(metric="net.py:none"), "net.py has no 'none'; it has "),
        (dict(metric="nope.py:far"), "There is no metric file nope.py; give file.py:name."),
        (dict(metric="broken.py:far"), "The metric file broken.py failed: "),
        (dict(out="net.py"), "net.py is a file"),
        (dict(out="."), "not empty"),
    ],
)
def test_wrong_input_is_one_sentence_and_nothing_is_written(folder, capsys, change, said):
    before = {*folder.iterdir(), folder / "__pycache__"}
    assert said in refusal(capsys, call(**change))
    assert {*folder.iterdir(), folder / "__pycache__"} == before


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--weights", "none.pt"], "no weights file none.pt"),
        (["--gradients", "many"], "--gradients"),
        (["--gradients", "0"], "greater than or equal to 1, got '0'"),
        (["--levels", "1"], "greater than or equal to 2, got '1'"),
        (["--goal", "mine.py:edges"], "There is no goal file mine.py; give file.py:name."),
        (["--n", "7"], "between 1 and 6"),
        (["--device", "gpu7"], "gpu7"),
        (["--device", "meta"], "The device 'meta' cannot be used here"),
        (["--method", "none"], "none"),
        (["--radius", "1"], "No such option: --radius"),
    ],
)
def test_wrong_options_are_one_sentence(folder, capsys, more, said):
    assert said in refusal(capsys, call(*more))
    assert not (folder / "out").exists()


@pytest.mark.parametrize("radius", ["-1", "x", "1/0", "nan", "inf", "8/255/2", "8/", "/8", "1_0", "1e400", "٣"])
def test_a_radius_that_is_none(folder, capsys, radius):
    assert "such as 0.5 or a ratio such as 8/255" in refusal(capsys, call("--radius", radius, command="attack"))


def test_labels_outside_the_classes(folder, capsys):
    np.savez("d.npz", x=np.load("d.npz")["x"], y=np.arange(6))
    assert "0 to 3" in refusal(capsys, call())


def test_a_radius_may_be_a_ratio():
    assert parse_radius("8/255") == 8 / 255
    assert parse_radius("0.5") == 0.5


def test_a_full_disk_is_wrong_input_too(folder, capsys, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pq, "write_table", full)
    assert call("--gradients", "5") == 2
    said = capsys.readouterr().err.splitlines()
    assert said[-1] == "plica: The results could not be written to out (No space left on device); free some space."
    assert not (folder / "out").exists()


def answer(monkeypatch, then):
    """Let plica.attack report once and then do what `then` does."""

    def attack(*_, on_progress, **__):
        on_progress(plica.Progress(done=0, total=6, gradients=1, radius=math.nan))
        then()

    monkeypatch.setattr(plica, "attack", attack)


def test_an_interruption_ends_tidily(folder, capsys, monkeypatch):
    def interrupt():
        raise KeyboardInterrupt

    answer(monkeypatch, interrupt)
    assert call() == 1
    assert capsys.readouterr().err.strip() == "plica: interrupted, nothing was written."
    assert not (folder / "out").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["evalute"], "No such command 'evalute'. Did you mean 'evaluate'? See plica --help."),
        (
            ["bracket", "--nosuch"],
            "No such option: --nosuch (Possible options: --nodes, --out); see plica bracket --help.",
        ),
        (["figures"], "Missing argument 'RUN...'; see plica figures --help."),
    ],
)
def test_wrong_words_name_the_help_to_read(words, message, capsys):
    assert main(words) == 2
    assert capsys.readouterr().err == f"plica: {message}\n"


@pytest.mark.filterwarnings("always:late.py sets")
def test_a_default_device_that_a_file_sets_is_set_back(folder, capsys):
    """Commands ended in a traceback. The device meta stands in for a GPU: its tensors have no numbers."""
    (folder / "late.py").write_text(LATE)
    assert call(model="late.py:make") == 0
    assert torch.get_default_device() == torch.device("cpu")
    assert "late.py sets torch's default device to meta, which is cpu again" in capsys.readouterr().err


def test_a_fault_of_the_program_is_not_called_wrong_input(folder, monkeypatch):
    answer(monkeypatch, lambda: plica.Lp(-1))  # which code of plica refuses, after the work began
    with pytest.raises(ValueError, match=r"Lp\(p\) needs p >= 0"):
        call()


def test_as_a_program(folder):
    line = [sys.executable, "-m", "plica", "radius", "--model", "net.py:make", "--metric", "l2", "--out", "out"]
    wrong = subprocess.run([*line, "--data", "none.npz"], capture_output=True, text=True, check=False)
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr.splitlines() == [
        "plica: There is no file none.npz; data are one of npz, safetensors, npy, parquet, datasets, folder, "
        "torchvision, factory: see plica radius --help."
    ]


def test_without_a_terminal_there_are_no_control_characters(folder, capsys):
    assert call("--gradients", "5") == 0
    out, err = capsys.readouterr()
    assert out.startswith("6 images, ")
    assert "6/6 images, " in err
    assert "\x1b" not in out + err  # no bar


def test_plain_lines_tell_what_is_done_and_what_is_left(capsys, monkeypatch):
    clock = iter([100.0, 130.0, 130.0, 130.0, 140.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with AttackProgress(budget=10) as report:
        report(plica.Progress(done=5, total=20, gradients=100, radius=0.25))  # half the gradients in 30 seconds
        monkeypatch.setattr(progress.time, "monotonic", lambda: 200.0)
    assert capsys.readouterr().err.splitlines() == [
        "5/20 images, 100 gradients, median distance 0.25, 0:30 left",
        "5/20 images, 100 gradients, 1:40 in all",  # results, with the median over all images, follow
    ]


@pytest.mark.parametrize("command", ["radius", "attack"])
def test_help_teaches_by_example(capsys, command):
    assert main([command, "--help"]) == 0
    said = capsys.readouterr().out
    assert f"plica {command} --model" in said
    assert "samples.parquet" in said


def test_the_help_of_train_holds_a_plan():
    """It named a page of the repository, which an installed package lacks."""
    _, plan = train.EPILOG.split("A plan, robust.yaml:")
    assert [question.metric for question in read_training_plan(yaml.safe_load(plan)).questions] == ["l2"]


PAGES = [page.read_text() for page in (Path(__file__).parents[2] / "docs").rglob("*.md")]
HELP = [getattr(module, "EPILOG", "") for module in COMMANDS]
EXAMPLES = {
    line.strip()
    for text in (*PAGES, *HELP)
    for line in text.splitlines()
    if line.strip().startswith("plica ") and (text in HELP or line.startswith("    "))  # other lines are prose
}


@pytest.mark.parametrize("line", sorted(EXAMPLES))
def test_the_examples_of_help_and_pages_are_commands(line):
    _, name, *words = shlex.split(line, comments=True)
    commands = typer.main.get_command(app).commands
    commands[name].make_context(name, words)  # raises an error where an option is wrong


def test_some_images_by_their_rows_or_a_balanced_sample(folder, capsys):
    assert call("--indices", "1,3-4", "--gradients", "5") == 0
    x = np.load("d.npz")["x"]
    assert pq.read_table(folder / "out" / "samples.parquet")["id"].to_pylist() == [1, 3, 4]
    held = load_file(folder / "out" / "inputs.safetensors")
    assert held["id"].tolist() == [1, 3, 4]
    assert np.array_equal(held["x"].numpy(), x[[1, 3, 4]])
    y = np.array([0, 0, 0, 0, 0, 3])
    np.savez("d.npz", x=x, y=y)
    assert call("--n", "2", "--sample", "balanced", "--seed", "1", "--gradients", "5", out="two") == 0
    assert sorted(pq.read_table("two/samples.parquet")["label"].to_pylist()) == [0, 3]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--indices", "1,x"], "neither rows nor an existing file"),
        (["--indices", "4-2"], "smaller row first"),
        (["--indices", "6"], "there are 6 images"),
        (["--indices", "1", "--n", "1"], "Give --indices alone"),
        (["--sample", "best"], "first, random, balanced"),
    ],
)
def test_images_that_are_not_there(folder, capsys, more, said):
    assert said in refusal(capsys, call(*more))


def test_both_questions_to_one_model_take_the_same_options():
    options = {command: set(inspect.signature(command).parameters) for command in (radius.radius, attack.attack)}
    assert options[attack.attack] - options[radius.radius] == {"radius", "loss"}
    assert options[radius.radius] < options[attack.attack]


def test_the_name_of_a_file_is_not_obeyed_by_the_terminal(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["plan", "new\x1b[31m.yaml"]) == 0
    assert "new?[31m.yaml" in capsys.readouterr().out


@pytest.mark.filterwarnings("default:The model answers at random")
def test_a_model_that_answers_at_random_is_said_before_the_work(folder, capsys):
    (folder / "noisy.py").write_text(
        "import torch\nfrom net import make\n\ndef noisy():\n    net = make()\n"
        "    return lambda x: net(x + 0.01 * torch.randn_like(x))\n"
    )
    assert call("--gradients", "5", model="noisy.py:noisy") == 0
    assert "warning: The model answers at random, and one lucky draw counts" in capsys.readouterr().err
    assert call("--gradients", "5", "--draws", "2", model="noisy.py:noisy", out="drawn") == 0
    assert call("--gradients", "5", out="plain") == 0
    assert "at random" not in capsys.readouterr().err


@pytest.mark.parametrize("code", ["0", "3", "'bye'"])
def test_a_model_that_ends_the_program_is_one_sentence(folder, capsys, code):
    """With sys.exit(0) it looked like success."""
    (folder / "ends.py").write_text(f"import sys\n\ndef ends():\n    return lambda x: sys.exit({code})\n")
    assert call(model="ends.py:ends") == 1
    assert capsys.readouterr().err.endswith(f"ended the program by sys.exit({code}); let it raise an error instead.\n")
    assert not (folder / "out").exists()
