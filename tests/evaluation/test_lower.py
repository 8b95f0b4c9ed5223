"""Lower bounds in an evaluation: after the last method, resumed, sharded and merged; refused before any work."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

from certify.zoo import images, network
from plica import runs
from plica.cli import main
from plica.evaluation import PlanError, evaluate
from plica.evaluation.export import export
from plica.evaluation.merge import merge
from plica.report.build import render
from plica.trust.run_checks import conclude

MODEL = "from certify.zoo import network\ndef make():\n    return network('relu')\n"
BIG = """import torch
from certify.zoo import network


class Big(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.net = network("relu")

    def forward(self, x):  # the first pixel above 0.9 makes all logits infinite, in float64 too
        z = torch.relu(x[:, 0, 0, :1] - 0.9)
        for _ in range(9):
            z = z * 1e38
        return self.net(x) + z

def make():
    return Big()
"""
PLANE = """import torch

def make():
    net = torch.nn.Linear(6, 2)
    net.weight.data = torch.stack([torch.zeros(6), torch.ones(6)])
    net.bias.data = torch.tensor([3.0, 0.0])
    return net
"""


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plan")
    (folder / "net.py").write_text(MODEL)
    x = images(3)
    y = network("relu")(x).argmax(1)
    np.savez(folder / "data.npz", x=x.numpy(), y=y.numpy())
    return dict(
        models=f"{folder / 'net.py'}:make", data=str(folder / "data.npz"), gradients=10, chunk=2,
        questions=[dict(ask="min-radius", metric="linf"), dict(ask="max-loss", metric="l2", radius=0.3)],
        methods=["auto", "pwcf"], certify=dict(nodes=2),
    )  # fmt: skip


def test_lower_bounds_are_resumed_and_merged(plan, tmp_path):
    whole = evaluate(plan, tmp_path / "whole")
    auto, pwcf, inside, last = whole.tasks
    assert "lower" not in whole.rows(auto).column_names
    assert "lower" not in whole.rows(inside).column_names
    distance = [np.array(whole.rows(task)["distance"]) for task in (auto, pwcf)]
    lower = np.array(whole.rows(pwcf)["lower"])
    assert (lower > 0).all()
    assert (lower <= np.minimum(*distance)).all()
    assert list(whole.rows(pwcf)["closed"].to_pylist()) == [
        bool(gap <= 1e-3) for gap in np.minimum(*distance) / lower - 1
    ]
    assert set(np.array(whole.rows(last)["lower"])) <= {0.0, 0.3}
    for number in range(2):
        (tmp_path / "whole" / "parts" / pwcf.name / f"0000{number}.parquet").unlink()
    again = evaluate(plan, tmp_path / "whole")
    assert np.array_equal(np.array(again.rows(pwcf)["lower"]), lower)
    shards = [evaluate(plan, tmp_path / str(k), shard=f"{k}/2").directory for k in (1, 2)]
    joined = merge(shards, tmp_path / "joined")
    assert np.array_equal(np.array(joined.rows(pwcf)["lower"]), lower)
    assert sum(len(table) for table in joined.leaves(pwcf)) == sum(len(table) for table in whole.leaves(pwcf))
    assert next(iter(runs.load(tmp_path / "joined").leaves(auto))).num_rows == 0


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (dict(questions=dict(ask="min-radius", metric="l1.5")), "linf, l2 and l1"),
        (dict(questions=dict(ask="min-radius", metric="theta", through="flow")), "x' = x \\+ delta"),
    ],
)  # fmt: skip
def test_what_has_no_lower_bounds_is_refused_before_any_work(plan, tmp_path, change, why):
    with pytest.raises(PlanError, match=why):
        evaluate(plan | change, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_failure_of_the_search_leaves_the_attacks_answers(plan, tmp_path, monkeypatch):
    from plica.evaluation import worker

    def fails(*_, **__):
        raise ArithmeticError("no luck")

    monkeypatch.setattr(worker, "certified", fails)
    run = evaluate(plan | dict(questions=plan["questions"][:1], methods="auto"), tmp_path)
    assert run.samples["lower"].to_pylist() == [0, 0, 0]
    assert run.samples["lower_status"].to_pylist() == ["FAILED"] * 3
    assert any(run.samples["success"].to_pylist())
    assert run.notes[0].endswith("auto, images 0, 1: no lower bounds (ArithmeticError: no luck)")
    assert run.notes[1].endswith("auto, image 2: no lower bounds (ArithmeticError: no luck)")


def test_one_image_without_bounds_does_not_take_those_of_its_chunk(plan, tmp_path, monkeypatch):
    from plica.evaluation import worker

    plan = plan | dict(chunk=3, questions=plan["questions"][:1], methods="auto")
    whole, real = evaluate(plan, tmp_path / "whole"), worker.certified

    def fails(model, x, *given, **more):
        if bool((x == images(3)[1]).flatten(1).all(1).any()):
            raise MemoryError("all of it")
        return real(model, x, *given, **more)

    monkeypatch.setattr(worker, "certified", fails)
    run = evaluate(plan, tmp_path / "run")
    was, now = (one.rows(one.tasks[0]).to_pylist() for one in (whole, run))
    assert [row["lower"] for row in now] == pytest.approx(
        [was[0]["lower"], 0, was[2]["lower"]],
        rel=1e-5,  # float32 sums of batches of other sizes
    )
    assert [row["lower_status"] for row in now] == [was[0]["lower_status"], "FAILED", was[2]["lower_status"]]
    assert run.notes == [f"{run.tasks[0].name}, image 1: no lower bounds (MemoryError: all of it)"]
    assert next(run.leaves(run.tasks[0]))["id"].unique().to_pylist() == [0, 2]


def test_every_row_says_why_its_search_ended(plan, tmp_path):
    (tmp_path / "big.py").write_text(BIG)
    x = images(3)
    x[:, 0, 0, 0] = torch.tensor([0.5, 0.99, 0.5])
    y = network("relu")(x).argmax(1) + torch.tensor([0, 0, 1])
    np.savez(tmp_path / "data.npz", x=x.numpy(), y=y % 3)
    changed = dict(models=f"{tmp_path / 'big.py'}:make", data=str(tmp_path / "data.npz"), methods="auto", chunk=3)
    changed["questions"] = plan["questions"][:1]
    run = evaluate(plan | changed, tmp_path / "run")
    first, not_finite, wrong = run.rows(run.tasks[0])["lower_status"].to_pylist()
    assert first in ("EFFORT", "CLOSED")
    assert (not_finite, wrong) == ("NOT_FINITE", "MISCLASSIFIED")
    assert main(["audit", str(tmp_path / "run"), "--trust"]) == 0  # without a warning of the output that is not finite


def test_lower_bounds_are_in_the_table_for_other_programs(plan, tmp_path):
    """They were in summary.json alone."""
    run = evaluate(plan | dict(methods="auto"), tmp_path / "run")
    export(run.directory)
    with (run.directory / "summary.csv").open() as stream:
        _, nearest, _, inside = csv.DictReader(stream)
    near, within = (question["certified"] for question in run.summary["questions"])
    assert near["lower"]["0.5"] > 0
    assert [float(nearest[f"lower_{q}"]) for q in (25, 50, 75)] == [near["lower"][q] for q in ("0.25", "0.5", "0.75")]
    assert (int(nearest["proved"]), int(nearest["closed"])) == (near["proved"], near["closed"])
    assert nearest["certified_accuracy"] == inside["closed"] == ""
    assert float(inside["certified_accuracy"]) == within["certified_accuracy"]["value"]


def test_a_misclassified_image_is_not_certified_within_the_radius_0(plan, tmp_path):
    """A bound of 0 reaches that radius, too."""
    x = images(3)
    np.savez(tmp_path / "data.npz", x=x.numpy(), y=(network("relu")(x).argmax(1) + torch.tensor([1, 0, 0])) % 3)
    question = dict(ask="max-loss", metric="linf", radius=0)
    run = evaluate(plan | dict(data=str(tmp_path / "data.npz"), questions=question, methods="auto"), tmp_path / "run")
    (answers,) = run.summary["questions"]
    assert answers["certified"]["certified_accuracy"]["value"] == answers["accuracy"]["value"] == 2 / 3


def test_what_is_proved_within_a_radius_is_said_wherever_a_run_is_shown(plan, tmp_path, capsys):
    """It stood in the table of `plica evaluate` alone; elsewhere images that were not broken were called robust."""
    question = dict(ask="max-loss", metric="linf", radius=1e-4)
    run = evaluate(plan | dict(questions=question, methods="auto"), tmp_path / "run")
    assert main(["show", str(run.directory)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "3 of 3 are not broken within linf distance 0.0001, 3 of them proved." in said
    assert "All methods together leave 100.0 % of all images not broken; 100.0 % are proved." in said
    page = render([run])
    assert '<dt>proved within linf 0.0001</dt><dd>100.0\u2009%</dd><dd class="range">43.9\u2009% to' in page
    assert "proved within linf distance 0.0001</td><td>100.0\u2009%" in run._repr_html_()
    assert "robust within" not in page + said


def test_more_gradients_are_not_advised_where_all_is_proved(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    (tmp_path / "plane.py").write_text(PLANE)
    x = np.random.default_rng(0).random((3, 6), dtype=np.float32)
    np.savez(tmp_path / "data.npz", x=x, y=(x.sum(1) > 3).astype(int))
    plan = dict(models=f"{tmp_path / 'plane.py'}:make", data=str(tmp_path / "data.npz"), gradients=10, methods="auto")
    plan["questions"] = [dict(ask="min-radius", metric="linf"), dict(ask="max-loss", metric="linf", radius=1e-4)]
    limits = []
    for name, more in ("alone", {}), ("proved", dict(certify=dict(nodes=8))):
        run = evaluate(plan | more, tmp_path / name)
        limits.append(sum(finding.check == "budget" for finding in conclude(run).findings))
    assert limits == [1, 0]


def test_the_command_bracket_and_what_is_made_of_its_runs(plan, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    options = ["--data", plan["data"], "--metric", "linf", "--nodes", "4", "--gradients", "20"]
    model = plan["models"].replace("net.py", "two.py")
    Path(model.removesuffix(":make")).write_text(MODEL.replace("relu", "leaky"))
    for out, spec in (("a", plan["models"]), ("b", model), ("b", model)):  # the second time nothing is left to do
        assert main(["bracket", "--model", spec, *options, "--out", str(tmp_path / out)]) == 0
    printed = capsys.readouterr().out
    assert "\ncertified  " in printed
    assert "radii are exact to a thousandth; widest gaps: image" in " ".join(printed.split())
    (question,) = runs.load(tmp_path / "a").summary["questions"]
    assert question["certified"]["proved"] == 3
    assert question["certified"]["lower"]["1"] <= question["union"]["radius"]["1"]
    assert main(["show", str(tmp_path / "a")]) == 0
    printed = capsys.readouterr().out
    assert "\nmake, certified |" in printed
    assert "make: 0 of 3 linf radii are exact to a thousandth; widest gaps: image " in printed
    assert main(["audit", str(tmp_path / "a")]) == 0
    assert "proofs of lower bounds: 3 of 3 are right" in capsys.readouterr().out
    json = tmp_path / "pairs.json"
    both = [str(tmp_path / "a"), str(tmp_path / "b")]
    monkeypatch.chdir(tmp_path)
    assert main(["compare", *both, "--by", "model", "--json", str(json)]) == 0
    assert "is certainly more robust on" in capsys.readouterr().out
    assert '"surely_larger":' in json.read_text()
    page = tmp_path / "page.html"
    assert main(["report", *both, "-o", str(page)]) == 0
    assert 'class="band' in page.read_text()
    assert "radii are exact to a thousandth" in page.read_text()
    assert "certified</title>" in page.read_text()
    assert "What is certified or proved holds for all inputs" in page.read_text()
    assert main(["bracket", "--model", model, *options[:2], "--metric", "l1.5", "--out", str(tmp_path / "c")]) == 2
    assert "linf, l2 and l1" in capsys.readouterr().err
    assert main(["bracket", "--model", model, *options, "--arithmetic", "exact", "--out", str(tmp_path / "c")]) == 2
    assert capsys.readouterr().err.startswith("plica: --arithmetic: ")
