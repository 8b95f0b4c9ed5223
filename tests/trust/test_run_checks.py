"""What a finished run says about its own numbers, from samples made for it."""

import json
import math
from dataclasses import replace

import defects
import numpy as np
import pyarrow as pa
import pytest

import plica
from plica import runs, trust
from plica.cli import main
from plica.metrics import parse_metric
from plica.runs.schema import part_file
from plica.runs.single import save_run
from plica.trust import Severity, check_model
from plica.utils.files import write_json

N = 120


QUESTIONS = (("max-loss", "a"), ("min-radius", "a"), ("max-loss", "b"))


def task(method="auto", kind="max-loss", model="m"):
    radius = 0.1 if kind == "max-loss" else None
    return runs.Task(f"{model}-{kind}-{method}", model, f"{kind} linf", kind, "linf", radius, "margin", method)


def samples(asked, distance, status="SUCCEEDED", prediction=None, gradients=100, ids=None, label=None):
    """Rows of a task; distance inf is no success."""
    distance = np.broadcast_to(np.asarray(distance, float), N)
    ids = np.arange(N) if ids is None else np.asarray(ids)
    label = np.arange(N) % 10 if label is None else label
    table = pa.table(
        {
            "id": ids,
            "label": label[ids],
            "prediction": ((label + 1 + np.arange(N) // 10) % 10 if prediction is None else np.full(N, prediction))[
                ids
            ],
            "success": np.isfinite(distance[ids]),
            "distance": distance[ids],
            "status": [status] * len(ids),
            "gradients": np.full(len(ids), gradients),
        }
    )
    for key, column in asked.constant_columns(len(ids)).items():
        table = table.append_column(key, column)
    return asked, table


def run(folder, *parts, examined=True, models="m"):
    """A run of those parts; `examined`: with nothing found on its models."""
    write_json(folder / "manifest.json", {"format": 1})
    for asked, table in parts:
        file = part_file(folder, asked.name, 0)
        file.parent.mkdir(parents=True)
        pa.parquet.write_table(table, file)
    if examined:
        write_json(folder / "checks.json", {m: {"findings": [], "checks": ["zero gradient"]} for m in models})
    return runs.load(folder)


def found(verdict):
    return {(finding.check, finding.weight) for finding in verdict.findings}


def half(value=0.05):
    return np.where(np.arange(N) % 2, value, math.inf)


def test_a_run_that_deserves_belief(tmp_path):
    verdict = trust.conclude(run(tmp_path, samples(task(), half(), "STALLED")))
    assert found(verdict) == set()
    assert str(verdict) == "trustworthy"
    assert {"budget", "zero gradient"} <= set(verdict.checks)
    assert trust.verdict(runs.load(tmp_path)) == verdict.record()


def test_a_run_of_a_plan_that_was_interrupted(tmp_path):
    """Only a run of `plica evaluate` that is over has a summary."""
    run(tmp_path, samples(task(), half(), "STALLED"))
    write_json(tmp_path / "manifest.json", {"format": 1, "plan": {"chunk": 60}, "data": {"n": N}})
    verdict = trust.believed(runs.load(tmp_path))
    assert found(verdict) == {("unfinished", Severity.RESERVATION)}
    assert str(verdict).startswith("with reservations")
    write_json(tmp_path / "summary.json", {"format": 1, "verdict": trust.verdict(runs.load(tmp_path))})
    assert str(trust.believed(runs.load(tmp_path))) == "trustworthy"


def test_a_model_nobody_looked_at(tmp_path):
    verdict = trust.conclude(run(tmp_path, samples(task(), half(), "STALLED"), examined=False))
    assert found(verdict) == {("not examined", Severity.RESERVATION)}


@pytest.mark.parametrize(("gradients", "weight"), [(20, Severity.RESERVATION), (100, Severity.NOTE)])
@pytest.mark.parametrize("kind", ["max-loss", "min-radius"])
def test_searches_that_stopped_at_the_limit(tmp_path, gradients, weight, kind):
    distance = half() if kind == "max-loss" else 0.05
    verdict = trust.conclude(run(tmp_path, samples(task(kind=kind), distance, "BUDGET", gradients=gradients)))
    assert found(verdict) == {("budget", weight)}
    (finding,) = verdict.findings
    assert finding.share == (0.5 if kind == "max-loss" else 1)
    assert (f"at most {gradients} gradients" if gradients < 50 else "upper bounds") in finding.sentence


def test_the_budgets_of_methods_are_not_added_up(tmp_path):
    """Twice 30 gradients are two searches that have hardly begun."""
    first = samples(task("apgd-ce"), half(), "BUDGET", gradients=30)
    second = samples(task("fab-t"), np.full(N, math.inf), "BUDGET", gradients=30, ids=np.arange(0, N, 2))
    (finding,) = trust.conclude(run(tmp_path, first, second)).findings
    assert (finding.check, finding.weight) == ("budget", Severity.RESERVATION)
    assert "a method took at most 30 gradients per image" in finding.sentence


def test_a_small_budget_is_said_once(tmp_path):
    """It was said for every model and question."""
    parts = [samples(task(kind=kind, model=model), half(), "BUDGET", gradients=20) for kind, model in QUESTIONS]
    (finding,) = trust.conclude(
        run(tmp_path, *parts, samples(task(model="c"), half(), "STALLED"), models="mabc")
    ).findings
    assert "at most 20 gradients per image (in 3 of 4 questions)" in finding.sentence


@pytest.mark.parametrize(
    ("images", "weight"), [(1, Severity.RESERVATION), (3, Severity.RESERVATION), (60, Severity.NOTE)]
)
def test_few_images_are_not_called_trustworthy(tmp_path, images, weight):
    part = samples(task(), half(), "STALLED", ids=np.arange(images))
    verdict = trust.conclude(run(tmp_path, part))
    assert found(verdict) == {("few images", weight)}
    assert str(verdict) == ("trustworthy" if images == 60 else "with reservations (few images)")
    interval = {1: "1 image is few", 3: "3 images are few: where half of them are broken, 13% to 87%", 60: "38% to 62%"}
    assert interval[images] in verdict.findings[0].sentence


def test_one_class_swallows_all(tmp_path):
    verdict = trust.conclude(run(tmp_path, samples(task(), half(), "STALLED", prediction=3)))
    assert found(verdict) == {("one class", Severity.RESERVATION)}
    assert "predicted as class 3" in verdict.findings[0].sentence


def test_a_target_class_swallows_all_that_is_aimed_at_it(tmp_path):
    """A run with a target was with reservations, as all points were of one class."""
    aimed = replace(task(), target="3")
    assert found(trust.conclude(run(tmp_path, samples(aimed, half(), "STALLED", prediction=3)))) == set()


@pytest.mark.parametrize(("beaten", "weight"), [(6, Severity.RESERVATION), (40, Severity.FATAL)])
def test_a_black_box_that_beats_the_gradient(tmp_path, beaten, weight):
    blind = np.where(np.arange(N) < 2 * beaten, 0.05, math.inf)
    parts = samples(task("apgd-ce"), half(), "STALLED"), samples(task("square"), blind, "STALLED")
    assert found(trust.conclude(run(tmp_path, *parts))) == {("black box", weight)}


def test_a_black_box_that_finds_nearer_points(tmp_path):
    parts = (
        samples(task("auto", "min-radius"), 0.05, "STALLED"),
        samples(task("boundary", "min-radius"), half(0.04), "STALLED"),
    )
    assert found(trust.conclude(run(tmp_path, *parts))) == {("black box", Severity.FATAL)}


def test_values_that_are_not_finite_and_accuracy_at_chance(tmp_path):
    verdict = trust.conclude(run(tmp_path / "a", samples(task(), np.full(N, math.inf), "NOT_FINITE")))
    assert found(verdict) == {("not finite", Severity.FATAL)}
    wrong = np.where(np.arange(N) % 10 > 0, 0, 0.05)
    verdict = trust.conclude(run(tmp_path / "b", samples(task(), wrong, "STALLED")))
    assert ("accuracy", Severity.FATAL) in found(verdict)


def test_what_checks_and_audit_found_counts(tmp_path):
    held = run(tmp_path, samples(task(), half(), "STALLED"))
    finding = {"check": "zero gradient", "weight": "RESERVATION", "sentence": "Zero on 9%.", "share": 0.09}
    write_json(tmp_path / "checks.json", {"m": {"findings": [finding], "checks": ["zero gradient"]}})
    write_json(tmp_path / "audit.json", {"agrees": False, "tasks": [{"differences": {"distance": {"count": 1}}}]})
    verdict = trust.conclude(held)
    assert found(verdict) == {("zero gradient", Severity.RESERVATION), ("audit", Severity.FATAL)}
    assert str(verdict) == "not to be believed (audit, zero gradient)"
    assert verdict.findings[1].sentence == "m: Zero on 9%."
    (tmp_path / "audit.json").write_text("{")
    with pytest.raises(ValueError, match="is broken"):
        trust.conclude(held)


def test_the_command(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    x, y = defects.images()
    np.savez("d.npz", x=x.numpy(), y=y.numpy())
    assert main(["doctor", "--model", "defects:Sound", "--data", "d.npz"]) == 0
    assert capsys.readouterr().out == "18 checks: trustworthy\n"
    np.savez("d.npz", x=x.numpy(), y=(y.numpy() + 1) % 6)
    assert main(["doctor", "--model", "defects:Sound", "--data", "d.npz"]) == 1
    assert "fatal, accuracy: The model is right on 0% of" in capsys.readouterr().out
    assert main(["doctor", "--model", "defects:Sound"]) == 2
    assert "Give a run, or --model and --data" in capsys.readouterr().err
    np.savez("d.npz", x=x.numpy(), y=np.stack([y.numpy()] * 2, 1))
    assert main(["doctor", "--model", "defects:Sound", "--data", "d.npz"]) == 2
    assert "goal" not in capsys.readouterr().err  # there is no option for one


def test_the_command_on_a_run(tmp_path, capsys):
    directory = defects.saved_run(tmp_path)
    assert main(["doctor", str(directory)]) == 2
    assert "--trust" in capsys.readouterr().err
    assert main(["doctor", str(directory), "--trust"]) == 0
    said = capsys.readouterr().out
    few = "12 images are few: where half of them are broken, 25% to 75% of all may be; use more."
    assert f"reservation, few images: {few}" in said
    assert json.loads((directory / "checks.json").read_text())["defects:Sound"]["verdict"] == "trustworthy"


@pytest.mark.parametrize("model", [defects.Sound().eval(), lambda x: defects.Sound().eval()(x)[:, :1]])
@pytest.mark.parametrize(("metric", "enlarged", "said"), [("l2", 1.5, 1), ("l2", 1.05, 0), ("l0", 1.5, 0)])
def test_points_beyond_the_boundary(tmp_path, model, metric, enlarged, said):
    """A run whose only method ends far beyond the boundary, as foolbox's FMN under l2, was trustworthy."""
    x, y = defects.images()
    y = y if model(x[:1]).shape[1] > 1 else (model(x)[:, 0] > 0).long()
    result = plica.attack(model, x[:12], y[:12], plica.MinRadius(parse_metric(metric)), gradients=50)
    x_adv = x[:12] + enlarged * (result.x_adv - x[:12])
    result = replace(result, x_adv=x_adv, distance=enlarged * result.distance)
    save_run(tmp_path / "run", x[:12], y[:12], result, dict(model="m", method="auto", metric=metric), 1.0)
    findings = check_model(runs.load(tmp_path / "run"), "m", model).findings
    sentences = [finding.sentence for finding in findings if finding.check == "beyond the boundary"]
    assert len(sentences) == said
    assert all("min-radius l2: on 100% of 12 images the point found keeps its class" in text for text in sentences)


def test_the_summary_gets_the_verdict_of_now(tmp_path):
    run(tmp_path, samples(task(), half(), "STALLED"))
    write_json(tmp_path / "summary.json", {"questions": [1]})
    trust.refresh(runs.load(tmp_path))
    held = json.loads((tmp_path / "summary.json").read_text())
    assert held["questions"] == [1]
    assert held["verdict"]["verdict"] == "trustworthy"
