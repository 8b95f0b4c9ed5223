"""The numbers of a summary, from made-up parts whose answer is plain; intervals against published ones."""

import csv
import math
from dataclasses import asdict, replace

import pyarrow as pa
import torch

from plica import runs
from plica.analysis.contenders import groups
from plica.cli import main
from plica.cli.table import print_summary
from plica.evaluation.export import export, latex
from plica.evaluation.summary import share, summarise
from plica.report.methods import methods
from plica.runs.single import quantiles
from plica.runs.write import Store
from plica.utils.files import write_json

IDS = [1, 2, 4, 8]
INSIDE = runs.Task("m--in--a", "m", "max-loss l2 0.5", "max-loss", "l2", 0.5, "margin", "a")
NEAREST = runs.Task("m--near--a", "m", "min-radius l2", "min-radius", "l2", None, None, "a")
inf = math.inf


def other(task, method):
    return replace(task, name=task.name[:-1] + method, method=method)


def make(folder, *answers):
    """A run of one chunk: for each task the ids asked and the distances found."""
    store = Store(folder)
    for task, ids, d in answers:
        n = len(ids)
        columns = {"id": ids, "distance": pa.array(d, pa.float64()), "success": [math.isfinite(v) for v in d]}
        columns |= {"label": [0] * n, "prediction": [1] * n}
        columns |= {"gradients": [10] * n, "forwards": [2] * n, "seconds": [0.5] * n, "status": ["BUDGET"] * n}
        columns = pa.table(columns | task.constant_columns(n))
        store.write(task.name, 0, columns, torch.tensor(ids), torch.zeros(n, 2))
    tasks = [asdict(task) for task, _, _ in answers]
    write_json(folder / "manifest.json", {"format": 1, "tasks": tasks, "notes": [], "data": {"n": 4}})
    return runs.load(folder)


def values(shares):
    return [None if each is None else each["value"] for each in shares]


def test_who_broke_what_when_all_were_asked_for_all(tmp_path):
    run = make(
        tmp_path,
        (INSIDE, IDS, [0.0, 0.2, inf, inf]),
        (other(INSIDE, "b"), IDS, [0.0, inf, 0.4, inf]),
        (other(INSIDE, "c"), IDS, [0.0, 0.3, 0.5, inf]),
    )
    (question,) = summarise(run)["questions"]
    assert question["accuracy"]["value"] == 0.75
    assert question["wrong"] == 1
    assert [row["broken"] for row in question["methods"]] == [1, 1, 2]
    assert [row["missed"] for row in question["methods"]] == [1, 1, 0]
    assert [row["alone"] for row in question["methods"]] == [0, 0, 0]
    assert values(row["robust_accuracy"] for row in question["methods"]) == [0.5, 0.5, 0.25]
    assert values(row["standing"] for row in question["methods"]) == [0.5, 0.25, 0.25]
    assert question["union"]["broken"] == 2
    assert question["union"]["robust_accuracy"] == share(1, 4)
    assert question["hard"] == [8]
    assert question["methods"][0]["gradients"] == 40
    two = make(tmp_path / "two", (INSIDE, IDS, [0.0, 0.2, inf, inf]), (other(INSIDE, "b"), IDS, [0.0, inf, inf, inf]))
    assert [row["alone"] for row in summarise(two)["questions"][0]["methods"]] == [1, 0]


def test_methods_that_saw_only_what_was_standing(tmp_path):
    run = make(tmp_path, (INSIDE, IDS, [0.0, 0.2, inf, inf]), (other(INSIDE, "b"), [4, 8], [inf, 0.1]))
    (question,) = summarise(run)["questions"]
    assert [row["attacked"] for row in question["methods"]] == [4, 2]
    assert [row["alone"] for row in question["methods"]] == [None, None]  # the others had no chance
    assert values(row["robust_accuracy"] for row in question["methods"]) == [0.5, None]
    assert values(row["standing"] for row in question["methods"]) == [0.5, 0.25]
    assert question["union"]["robust_accuracy"]["value"] == 0.25


def test_images_that_are_of_the_target_class_are_not_called_misclassified(tmp_path, capsys):
    run = make(tmp_path, (replace(INSIDE, target="3"), IDS, [0.0, 0.2, inf, inf]))
    print_summary(summarise(run))
    assert "gives the target class to 1 of 4 images without a" in capsys.readouterr().out.replace("\n", " ")
    assert main(["show", str(tmp_path)]) == 0
    assert "4 images, 1 of them classified as the target" in capsys.readouterr().out.replace("\n", " ")


def test_what_was_broken_and_missed_is_one_number_in_every_table(tmp_path, capsys):
    """Evaluate counted images as broken that were wrong from the start, show counted images as missed that a method was
    never asked about."""
    run = make(tmp_path, (INSIDE, IDS, [0.0, 0.0, 0.3, inf]), (other(INSIDE, "b"), [8], [0.4]))
    summary = summarise(run)
    (question,) = summary["questions"]
    (table,) = methods(groups([run], "method"))
    assert (question["wrong"], table["wrong"]) == (2, 2)
    for row, shown in zip(question["methods"], table["rows"], strict=True):
        assert [row[name] for name in ("attacked", "broken", "missed")] == [
            shown[name] for name in ("attacked", "broken", "missed")
        ]
        assert (row["alone"], shown["alone"]) == (None, "\u2013")
    assert [row["broken"] for row in question["methods"]] == [1, 1]
    assert [row["missed"] for row in question["methods"]] == [1, 0]
    assert question["union"]["broken"] == 2
    print_summary(summary)
    assert "misclassifies 2 of 4 images without a perturbation" in capsys.readouterr().out.replace("\n", " ")
    print_summary(summary | {"questions": [question | {"wrong": 0}]})
    assert "misclassifies" not in capsys.readouterr().out
    print_summary(summary)
    assert main(["show", str(tmp_path)]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    printed = [line[:5] for line in lines if line[:1] in (["a"], ["b"])]
    assert printed[:2] == [["a", "4", "1", "-", "1"], ["b", "1", "1", "-", "0"]]
    assert printed[2:] == [["a", "4", "1", "\u2013", "1"], ["b", "1", "1", "\u2013", "0"]]


def test_the_radius_of_an_image_is_the_least_of_all_methods(tmp_path):
    run = make(tmp_path, (NEAREST, IDS, [0.0, 0.2, 0.9, inf]), (other(NEAREST, "b"), IDS, [0.0, 0.2, 0.5, 0.8]))
    (question,) = summarise(run)["questions"]
    assert question["accuracy"]["value"] == 0.75
    assert [row["found"] for row in question["methods"]] == [3, 4]
    assert [row["best"] for row in question["methods"]] == [1, 3]
    assert [row["broken"] for row in question["methods"]] == [2, 3]
    assert [row["alone"] for row in question["methods"]] == [0, 1]
    assert question["methods"][0]["radius"]["1"] is None
    union = question["union"]
    assert (union["radius"]["0.25"], union["radius"]["0.5"], union["radius"]["1"]) == (0.0, 0.2, 0.8)
    curve = dict(zip(union["curve"]["radius"], union["curve"]["accuracy"], strict=True))
    assert curve[0.0] == 0.75
    assert curve[0.8] == 0
    assert min(curve[r] for r in curve if 0.2 <= r < 0.5) == max(curve[r] for r in curve if 0.2 < r < 0.5) == 0.5
    assert question["hard"] == [8, 4, 2, 1]


def test_nothing_at_all():
    assert share(0, 0)["value"] is None
    assert quantiles(torch.zeros(0).numpy())["0.5"] is None


def test_a_run_without_any_part(tmp_path):
    write_json(tmp_path / "manifest.json", {"format": 1})
    assert summarise(runs.load(tmp_path))["questions"] == []


def test_tables_for_other_programs(tmp_path):
    run = make(
        tmp_path,
        (INSIDE, IDS, [0.0, 0.2, inf, inf]),
        (other(INSIDE, "b"), [4, 8], [inf, 0.1]),
        (NEAREST, IDS, [0.0, 0.2, 0.9, inf]),
    )
    written = {file.name: file.read_text() for file in export(tmp_path, tmp_path / "tables")}
    assert len(written["samples.csv"].splitlines()) == 1 + len(run.samples)
    head, *lines = csv.reader(written["summary.csv"].splitlines())
    rows = [dict(zip(head, line, strict=True)) for line in lines]
    assert [row["method"] for row in rows] == ["a", "b", "all", "a", "all"]
    assert [row["standing"] for row in rows] == ["0.5", "0.25", "", "", ""]
    assert rows[2]["robust_accuracy"] == "0.25"
    assert rows[4]["radius_50"] == "0.2"
    inside = r"m & $\ell_{2}$ $\leq$ 0.5, accuracy under attack & 75.0 & 50.0 & 25.0 & 25.0 (4.6--69.9) \\"
    assert inside in written["table.tex"]
    belief = "with reservations (budget, few images, not examined)"
    assert [row["verdict"] for row in rows] == [belief] * 5
    note = written["table.tex"].splitlines()[-2]
    assert note == rf"\multicolumn{{6}}{{l}}{{\footnotesize These numbers: {belief}.}} \\"
    assert r"m & $\ell_{2}$, median radius & 75.0 & 0.2 & -- & 0.2 \\" in written["table.tex"]


def test_a_run_without_questions_has_a_table_of_a_head_alone():
    assert latex({"questions": []}).count(r"\\") == 1
