"""How a command ends that cannot go on: in one sentence that names the place, with nothing half done left behind."""

import errno
import json
import os
import shutil
import signal
import sys

import pytest
from matplotlib.figure import Figure

import plica
from evaluation.compare import assert_same
from plica import runs
from plica.cli import main
from plica.evaluation.worker import Worker
from plica.utils.files import LOCK, locked

FLAGS = ["--model", "net.py:make", "--data", "d.npz", "--metric", "l2", "--gradients", "5"]


@pytest.fixture
def file(folder, plan):
    (folder / "plan.yaml").write_text(json.dumps(plan))
    return "plan.yaml"


def refusal(capsys, *line):
    capsys.readouterr()
    assert main(list(line)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("plica: ")
    assert err.count("\n") == 1
    return err


def full(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("command", ["radius", "evaluate"])
def test_two_processes_on_one_directory(folder, capsys, command):
    with locked(folder / "new"):
        assert "Another process writes to new" in refusal(capsys, command, *FLAGS, "--out", "new")
    assert [path.name for path in (folder / "new").iterdir()] == [LOCK]
    assert main([command, *FLAGS, "--n", "2", "--out", "new"]) == 0


@pytest.mark.parametrize("command", ["radius", "evaluate"])
@pytest.mark.parametrize(
    ("out", "said"),
    [("/dev/null/x", "/dev/null"), ("d.npz/x", "d.npz"), ("bad\udcff", "The name bad? is not valid Unicode")],
)
def test_a_directory_that_cannot_be_one_is_said_before_any_work(folder, capsys, monkeypatch, command, out, said):
    monkeypatch.setattr(plica, "attack", None)
    before = sorted(folder.iterdir())
    assert said in refusal(capsys, command, *FLAGS, "--out", out)
    assert sorted(folder.iterdir()) == before


def test_an_engine_whose_package_is_missing_leaves_nothing_behind(folder, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    said = refusal(capsys, "evaluate", *FLAGS, "--engine", "ray", "--out", "new")
    assert 'pip install "plica[ray]"' in said
    assert not (folder / "new").exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--loss", "ce"], "--loss is of max-loss"),
        (["--workers", "2"], "workers and gpus are for the engine ray"),
        (["--workers", "1" + "0" * 30, "--engine", "ray"], "workers must be a whole number from 1 to 100000"),
        (["--gpus", "1e400", "--engine", "ray"], "gpus must be a number from 0 to 100000"),
    ],
)
def test_options_that_were_passed_over(folder, capsys, more, said):
    assert said in refusal(capsys, "evaluate", *FLAGS, *more, "--out", "new")
    assert not (folder / "new").exists()


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="there are no such signals here")
@pytest.mark.parametrize("number", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_a_signal_ends_an_evaluation_with_a_sentence_and_a_run_that_goes_on(
    file, whole, folder, capsys, monkeypatch, number
):
    answer, count, sent = Worker.answer, iter(range(100)), getattr(signal, number)

    def ended(worker, work):
        if next(count) == 3:
            os.kill(os.getpid(), sent)
        return answer(worker, work)

    before = signal.getsignal(signal.SIGTERM)  # Ray's own, after a test that has started it
    # the tests may run where it is ignored: under nohup, or behind another program
    former = signal.signal(sent, signal.default_int_handler if number == "SIGINT" else signal.SIG_DFL)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(Worker, "answer", ended)
            assert main(["evaluate", file, "--out", "run"]) == 1
    finally:
        signal.signal(sent, former)
    said = "plica: interrupted; what is finished is in run, and the same command goes on."
    assert capsys.readouterr().err.strip() == said
    assert signal.getsignal(signal.SIGTERM) == before
    assert main(["evaluate", file, "--out", "run"]) == 0
    assert_same(whole, runs.load("run"))


def test_a_signal_ends_a_question_with_a_sentence_and_nothing_is_left(folder, capsys, monkeypatch):
    def ended(*_, **__):
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(plica, "attack", ended)
    assert main(["radius", *FLAGS, "--out", "new"]) == 1
    assert capsys.readouterr().err.strip() == "plica: interrupted, nothing was written."
    assert not (folder / "new").exists()


def test_a_run_of_an_evaluation_is_not_replaced_by_a_single_one(whole, folder, capsys):
    assert "holds no run that could be replaced" in refusal(capsys, "radius", *FLAGS, "--out", "whole", "--overwrite")


def test_files_that_are_there_are_replaced_only_when_asked(whole, folder, capsys, monkeypatch):
    # drawing takes seconds, and is tested elsewhere
    monkeypatch.setattr(Figure, "savefig", lambda figure, file, **_: file.write(b"drawn"))
    lines = {
        "report.html": ["report", "whole", "-o", "report.html"],
        "numbers.json": ["compare", "whole", "--by", "method", "--json", "numbers.json"],
        "figures/methods.tex": ["figures", "whole", "-o", "figures"],
        "tables/table.tex": ["export", "whole", "--out", "tables"],
    }
    for name, line in lines.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("somebody's")
        if name != "figures/methods.tex":
            assert f"{name} is there already" in refusal(capsys, *line)
        else:  # known when all is drawn
            assert "is there already" in refusal(capsys, *line)
        assert (folder / name).read_text() == "somebody's"
        assert [path.name for path in (folder / name).parent.iterdir() if path.name.startswith(".")] == []
        assert main([*line, "--overwrite"]) == 0
        assert (folder / name).read_text() != "somebody's"


@pytest.mark.skipif(not os.path.exists("/dev/null"), reason="there are no devices here")
def test_a_device_is_never_replaced(whole, folder, capsys):
    for line in (["report", "whole", "-o"], ["compare", "whole", "--by", "method", "--json"]):
        assert "not a regular file" in refusal(capsys, *line, "/dev/null", "--overwrite")
    assert "is a file; give a directory" in refusal(capsys, "figures", "whole", "-o", "/dev/null")
    assert not os.path.isfile("/dev/null")


def test_a_full_disk_in_a_merge_leaves_nothing_and_names_the_place(file, folder, capsys, monkeypatch):
    for k in (1, 2):
        assert main(["evaluate", file, "--shard", f"{k}/2", "--out", f"shard-{k}"]) == 0
    copied, copy = iter(range(100)), shutil.copyfile

    def nearly_full(source, target):
        copy(source, target)
        if next(copied) == 5:
            full()

    monkeypatch.setattr(os, "link", full)
    monkeypatch.setattr(shutil, "copyfile", nearly_full)
    said = refusal(capsys, "merge", "shard-1", "shard-2", "--out", "all")
    assert said == "plica: all cannot be written (No space left on device); free some space.\n"
    assert not (folder / "all").exists()
    monkeypatch.setattr(shutil, "copyfile", copy)
    assert main(["merge", "shard-1", "shard-2", "--out", "all"]) == 0


def test_a_full_disk_in_figures_leaves_nothing_and_names_the_place(whole, folder, capsys, monkeypatch):
    draw, drawn = Figure.savefig, iter(range(100))
    monkeypatch.setattr(Figure, "savefig", lambda *a, **k: full() if next(drawn) == 2 else draw(*a, **k))
    said = refusal(capsys, "figures", "whole", "-o", "new/figures")
    assert said == "plica: new/figures cannot be written (No space left on device); free some space.\n"
    assert not (folder / "new").exists()


def test_figures_that_are_larger_than_files_may_be(whole, folder, capsys):
    """The writer of PDF failed a second time, with a traceback."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        said = refusal(capsys, "figures", "whole", "-o", "figures")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert said == "plica: figures cannot be written (File too large); give another place.\n"


def test_the_models_of_a_run_that_cannot_be_written_to_are_examined(whole, folder, capsys, monkeypatch):
    def refused(*_):
        raise PermissionError(errno.EACCES, "Permission denied")

    (folder / "whole" / "checks.json").unlink()
    monkeypatch.setattr("plica.cli.doctor.write_json", refused)
    capsys.readouterr()
    assert main(["doctor", "whole", "--trust"]) == 0
    assert "was not examined" not in capsys.readouterr().out
    assert not (folder / "whole" / "checks.json").exists()


OWN = """
def distance(x, z):
    d = (x - z).flatten(1).norm(dim=1)
    if float(d.detach().max()) > 0.2:
        raise KIND("too\\nfar")
    return d

def goal(output, y):
    if len(output) != 2:
        raise KIND("too\\nmany")
    return output.sum(1) - 100
"""


@pytest.mark.parametrize("kind", ["KeyError", "ValueError", "RuntimeError"])
@pytest.mark.parametrize(
    ("options", "line"),
    [(["--metric", "own:distance"], 5), (["--metric", "l2", "--goal", "own:goal"], 10)],
    ids=["distance", "goal"],
)
def test_code_of_the_users_that_fails_late_is_named_with_its_line(folder, capsys, monkeypatch, kind, options, line):
    (folder / "own.py").write_text(OWN.replace("KIND", kind))
    monkeypatch.delitem(sys.modules, "own", raising=False)
    monkeypatch.syspath_prepend(str(folder))
    capsys.readouterr()
    given = ["--model", "net.py:make", "--data", "d.npz", "--gradients", "5", "--n", "3"]
    assert main(["radius", *given, *options, "--out", "new"]) == 1
    said = capsys.readouterr().err
    assert f"plica: own.py, line {line}, raised {kind}" in said
    assert said.splitlines()[-1].startswith("plica: ")
    assert not (folder / "new").exists()


def test_nodes_take_the_place_of_seconds(folder, capsys):
    said = refusal(capsys, "bracket", *FLAGS, "--nodes", "3", "--seconds", "1", "--out", "new")
    assert said == "plica: --nodes takes the place of --seconds; give one of them.\n"
