"""plica evaluate, plan, merge and export as they are typed: what they say, and wrong input in one sentence."""

import io
import json
import warnings

import pytest
import torch
from rich.console import Console

import plica
from evaluation.compare import assert_same
from plica import runs
from plica.cli import main, progress
from plica.evaluation import run as evaluation
from plica.evaluation.parse_plan import read_plan
from plica.evaluation.run import Event
from plica.evaluation.tasks import chains
from plica.models import load_model

FLAGS = ["--model", "net.py:make", "--data", "d.npz", "--method", "radius", "--gradients", "4"]


@pytest.fixture
def file(folder, plan):
    """The plan as a file; JSON is YAML."""
    (folder / "plan.yaml").write_text(json.dumps(plan))
    return "plan.yaml"


def refusal(capsys, *line):
    assert main(list(line)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("plica: ")
    return err


def test_a_plan_from_a_file_ends_with_a_table(file, whole, capsys):
    assert main(["evaluate", file, "--out", "whole"]) == 0
    out = capsys.readouterr().out
    inside = next(q for q in whole.summary["questions"] if q["kind"] == "max-loss")
    assert f"{100 * inside['union']['robust_accuracy']['value']:.1f} %" in out
    nearest = whole.summary["questions"][0]
    assert f"{nearest['union']['radius']['0.5']:.4g}" in out
    assert "\x1b" not in out


@pytest.mark.filterwarnings("always:The radius")
def test_a_radius_in_levels_is_warned_of_once(folder, capsys):
    assert main(["evaluate", *FLAGS, "--metric", "linf", "--radius", "8", "--n", "2", "--out", "levels"]) == 0
    assert capsys.readouterr().err.count("warning: The radius 8 is larger than any linf distance") == 1


def test_a_model_that_is_a_program_needs_trust(folder, capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, of the form
        torch.jit.trace(load_model("net.py:make"), torch.rand(2, 1, 12, 12)).save("net.ts")
    line = ["evaluate", "--model", "net.ts", *FLAGS[2:], "--metric", "l2", "--n", "3", "--out", "traced"]
    assert "give --trust" in refusal(capsys, *line)
    assert main([*line, "--trust"]) == 0
    assert runs.load("traced").samples["success"].to_pylist() == [True] * 3


def test_images_by_their_rows(file, whole, capsys):
    (whole.directory.parent / "rows.txt").write_text("3, 9-11 # wrong from the start, and three others\n17\n")
    expected = [3, 9, 10, 11, 17]
    for out, line in (
        ("typed", ["evaluate", file, "--indices", "9-11,3,17"]),
        ("file", ["evaluate", file, "--indices", "rows.txt"]),
        ("flags", ["evaluate", *FLAGS, "--metric", "l2", "--indices", "rows.txt"]),
    ):
        assert main([*line, "--out", out]) == 0
        run = runs.load(out)
        assert [number for ids, *_ in run.inputs() for number in ids.tolist()] == expected
    task = run.tasks[0]  # of plica's own methods, whose answers do not depend on other images
    rows = dict(zip(*whole.rows(task.name).select(["id", "distance"]).to_pydict().values(), strict=True))
    assert run.rows(task)["distance"].to_pylist() == [rows[number] for number in expected]
    capsys.readouterr()
    assert "indices exclude n and sample" in refusal(
        capsys, "evaluate", file, "--indices", "1", "--n", "2", "--out", str(whole.directory.parent / "x")
    )


def test_the_same_from_flags(folder, whole, capsys):
    line = ["evaluate", *FLAGS, "--metric", "l2", "--metric", "l1", "--out", "flags"]
    assert main(line) == 0
    run = runs.load("flags")
    assert [task.name for task in run.tasks] == ["make--min-radius-l2--radius", "make--min-radius-l1--radius"]
    for task in run.tasks:
        assert run.rows(task)["distance"].to_pylist() == whole.rows(task.name)["distance"].to_pylist()
    pairs = ["--metric", "linf", "--metric", "l2", "--radius", "8/255", "--radius", "0.5", "--loss", "ce"]
    assert main(["evaluate", *FLAGS, *pairs, "--n", "2", "--sample", "random", "--out", "pairs"]) == 0
    questions = [(task.metric, task.radius, task.loss) for task in runs.load("pairs").tasks]
    assert questions == [("linf", 8 / 255, "ce"), ("l2", 0.5, "ce")]
    assert main(["evaluate", *FLAGS, "--metric", "l2", "--radius", "1", "--radius", "2", "--n", "2", "--out", "b"]) == 0
    assert [task.radius for task in runs.load("b").tasks] == [1, 2]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ([], "Give a plan, or --metric"),
        (["--metric", "l2", "--weights", "a", "--weights", "b"], "There are 1 models and 2 weights"),
        (["--metric", "l2", "--metric", "l1", "--radius", "1"], "There are 2 metrics and 1 radii"),
        (["--metric", "l2", "--method", "atuo"], "did you mean 'auto'?"),
        (["--metric", "l2", "--shard", "3/2"], "write i/N"),
        (["--metric", "l2", "--engine", "dask"], "There is no engine 'dask'"),
        (["--metric", "l2", "--n", "21"], "choose n between 1 and 20"),
        (["--metric", "l2", "--out", "net.py"], "net.py is a file"),
        (["plan.yaml"], "A plan and --model were given"),
        (["net.py:make"], "A model stands in the place of the plan; write --model net.py:make"),
        (["--metric", "l2", "--radius", "-1"], "is not a distance"),
    ],
)
def test_wrong_input_is_one_sentence(folder, capsys, more, said):
    before = {*folder.iterdir(), folder / "__pycache__"}
    assert said in refusal(capsys, "evaluate", "--out", "new", *FLAGS, *more)
    assert {*folder.iterdir(), folder / "__pycache__"} == before


def test_shards_are_merged(file, whole, capsys):
    for k in (1, 2):
        assert main(["evaluate", file, "--shard", f"{k}/2", "--out", f"shard-{k}"]) == 0
    assert "The shard 2/2 is missing" in refusal_after(capsys, "merge", "shard-1", "--out", "all")
    assert main(["merge", "shard-1", "shard-2", "--out", "all"]) == 0
    assert "answers from 2 shards" in capsys.readouterr().out
    assert_same(whole, runs.load("all"))
    assert "is not a run" in refusal_after(capsys, "merge", "nowhere", "--out", "new")


def refusal_after(capsys, *line):
    capsys.readouterr()
    return refusal(capsys, *line)


def test_an_audit_says_that_a_run_is_unfinished(folder, capsys):
    assert main(["audit", "whole", "--trust"]) == 0
    assert "unfinished" not in capsys.readouterr().out
    (folder / "whole" / "summary.json").unlink()
    assert main(["audit", "whole", "--trust"]) == 0
    assert "The run is unfinished, so images, methods" in capsys.readouterr().out


def test_export_writes_tables(folder, capsys):
    assert main(["export", "whole"]) == 0
    assert capsys.readouterr().out.strip() == "whole/samples.csv, whole/summary.csv, whole/table.tex"
    assert "is not a run" in refusal(capsys, "export", "nowhere")


def test_plan_writes_one_to_start_from(folder, capsys):
    assert main(["plan"]) == 0
    assert main(["plan", "new.yaml"]) == 0
    assert (folder / "new.yaml").read_text() in capsys.readouterr().out
    assert "is there already" in refusal(capsys, "plan", "new.yaml")
    assert "cannot be written" in refusal(capsys, "plan", "no/where.yaml")


def test_an_interruption_says_how_to_go_on(file, capsys, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluation, "_steps", interrupt)
    assert main(["evaluate", file, "--out", "run"]) == 1
    said = "plica: interrupted; what is finished is in run, and the same command goes on."
    assert capsys.readouterr().err.strip() == said


def test_a_fault_of_the_program_is_not_called_wrong_input(file, monkeypatch):
    monkeypatch.setattr(evaluation, "_steps", lambda *_: plica.Lp(-1))  # refused by code of plica
    with pytest.raises(ValueError, match=r"Lp\(p\) needs p >= 0"):
        main(["evaluate", file, "--out", "run"])


def ticking(monkeypatch, seconds):
    """A clock that goes on by so many seconds whenever it is looked at."""
    clock = iter(range(0, 10**6, seconds))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(clock)))


def events(plan, report):
    (chain,) = chains(read_plan(plan | {"questions": {"ask": "min-radius", "metric": "l2"}}))
    report.start([chain], 3)
    for chunk in range(3):
        for job in chain.jobs:
            report.event(Event(job, 6, fresh=chunk > 0))


def test_plain_lines_tell_what_is_done_and_what_is_left(plan, capsys, monkeypatch):
    ticking(monkeypatch, 10)
    with progress.EvaluationProgress() as report:
        events(plan, report)
    lines = capsys.readouterr().err.splitlines()
    assert lines[1] == "radius 1/3 chunks; pwcf 1/3 chunks; 0:00 left"  # that was there already: nothing is known
    assert lines[2] == "radius 2/3 chunks; pwcf 1/3 chunks; 0:30 left"
    assert len(lines) == 5


def test_bars_on_a_terminal(plan, monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(progress, "Console", lambda **_: Console(file=screen, force_terminal=True, width=100))
    with progress.EvaluationProgress() as report:
        events(plan, report)
        report.bars.refresh()
    assert "radius" in screen.getvalue()
    assert "3/3 chunks" in screen.getvalue()


def test_the_message_of_an_interruption_stands_below_the_bars(file, capsys, monkeypatch):
    """It stood above them, and the bars were drawn once more."""

    def interrupt(*_):
        raise KeyboardInterrupt

    screen = io.StringIO()
    monkeypatch.setattr(progress, "Console", lambda **_: Console(file=screen, force_terminal=True, width=100))
    monkeypatch.setattr(evaluation, "_steps", interrupt)
    assert main(["evaluate", file, "--out", "run"]) == 1
    assert capsys.readouterr().err.strip().endswith("and the same command goes on.")
    assert "interrupted" not in screen.getvalue()  # which is where it goes while the bars are there


@pytest.mark.parametrize("command", ["evaluate", "plan", "merge", "export"])
def test_help_teaches(capsys, command):
    assert main([command, "--help"]) == 0
    assert f"plica {command}" in capsys.readouterr().out
