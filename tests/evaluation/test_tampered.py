"""Runs that were cut off or changed: every command that reads one says so in a sentence that names the file."""

import itertools
import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

from plica import runs
from plica.cli import main
from plica.runs.check.common import BrokenRunError
from plica.runs.check.json_files import read_object
from plica.runs.check.tables import read_samples
from plica.trust.run_checks import conclude

PART = "parts/make--min-radius-l2--radius/00001.parquet"
POINTS = PART.replace(".parquet", ".safetensors")
READERS = itertools.cycle(
    [["show", "whole"], ["audit", "whole", "--trust"], ["compare", "whole", "--by", "method"], ["export", "whole"],
     ["merge", "whole", "--out", "all"], ["evaluate", "plan.yaml", "--out", "whole"]]
)  # fmt: skip


def change_table(file, change):
    pq.write_table(change(pq.read_table(file)), file)


def as_text(table, name="distance"):
    column = pa.array([str(value) for value in table[name].to_pylist()])
    return table.set_column(table.column_names.index(name), name, column)


def without_a_value(table, name="label"):
    column = pa.array([None, *table[name].to_pylist()[1:]], table.schema.field(name).type)
    return table.set_column(table.column_names.index(name), name, column)


TABLES = {
    "distances that are texts": (as_text, "The column distance of {} is string, not double"),
    "a column that is missing": (lambda t: t.drop_columns(["success"]), "{} has no column success"),
    "a value that is missing": (without_a_value, "The column label of {} has no value in 1 rows"),
    "a status of nobody": (
        lambda t: t.set_column(t.column_names.index("status"), "status", pa.array(["\x1b[31m"] * len(t))),
        "{} has the status '\\x1b[31m', which is not one of plica's",
    ),
}


@pytest.mark.parametrize("name", TABLES)
def test_samples_that_were_changed(whole, folder, plan, capsys, name):
    change, said = TABLES[name]
    change_table(folder / "whole" / PART, change)
    with pytest.raises(BrokenRunError) as caught:
        read_samples(folder / "whole" / PART, ["id", "label", "success", "distance", "status"])
    assert said.format(folder / "whole" / PART) in str(caught.value)
    (folder / "plan.yaml").write_text(json.dumps(plan))
    line = next(READERS)
    assert main(line) == 2
    err = capsys.readouterr().err.splitlines()
    assert [text for text in err if PART in text] == err[-1:]
    assert "\x1b" not in err[-1]


def doubled_row(table):
    return pa.concat_tables([table, table.slice(0, 1)])


@pytest.mark.parametrize(
    ("task", "change", "said"),
    [
        ("min-radius-l2--radius", doubled_row, "DIFFERS, twice (1): 21 rows are of 20 images"),
        ("min-radius-l2--radius", lambda t: t.slice(1), "DIFFERS, left out (1): image 6 has no row (1 such images)"),
        ("max-loss-linf-0.0314--pwcf", lambda t: t.slice(0, 0), "DIFFERS, left out (1): image "),
    ],
)
def test_rows_that_were_left_out_or_doubled(whole, folder, capsys, task, change, said):
    file = folder / "whole" / "parts" / f"make--{task}" / "00001.parquet"
    points = file.with_suffix(".safetensors")
    change_table(file, change)
    kept = torch.isin(load_file(points)["id"], torch.tensor(pq.read_table(file)["id"].to_pylist(), dtype=torch.long))
    save_file({name: tensor[kept] for name, tensor in load_file(points).items()}, points)
    assert main(["audit", "whole", "--trust"]) == 1
    assert said in capsys.readouterr().out


def test_a_number_of_the_summary_that_was_changed(whole, folder, capsys):
    file = folder / "whole" / "summary.json"
    summary = json.loads(file.read_text())
    summary["questions"][2]["union"]["robust_accuracy"]["value"] = 0.99
    file.write_text(json.dumps(summary))
    assert main(["audit", "whole", "--trust"]) == 1
    out = capsys.readouterr().out
    assert "DIFFERS, summary (1): union.robust_accuracy.value in summary.json is not what the answers say" in out
    assert out.count("DIFFERS") == 1
    assert json.loads((folder / "whole" / "summary.json").read_text())["verdict"]["verdict"] == "not to be believed"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")
def test_a_part_that_is_a_pipe(whole, folder, capsys):
    (folder / "whole" / PART).unlink()
    os.mkfifo(folder / "whole" / PART)
    assert main(["show", "whole"]) == 2
    assert "not a regular file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: {"id": t["id"]}, "has no tensor x_adv"),
        (lambda t: t | {"x_adv": t["x_adv"].long()}, "The tensor x_adv of"),
        (lambda t: t | {"id": t["id"][:1].clone()}, "The tensor id of"),
        (lambda t: t | {"other": t["id"].clone()}, "has the tensor 'other'"),
    ],
)
def test_points_that_were_changed(whole, folder, capsys, change, said):
    file = folder / "whole" / POINTS
    save_file(change(load_file(file)), file)
    assert main(["audit", "whole", "--model", "net.py:make"]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("data", "classes"), 5),
        (("tasks",), [1]),
        (("tasks", 0, "kind"), "best"),
        (("tasks", 0, "name"), "../elsewhere"),
        (("versions", "threads"), 10**9),
        (("plan", "bounds"), [0, "x"]),
        (("hashes", "models"), ["x"]),
        (("shard",), 3),
    ],
)
def test_a_manifest_that_was_changed(whole, folder, capsys, path, value):
    file = folder / "whole" / "manifest.json"
    manifest = part = json.loads(file.read_text())
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    file.write_text(json.dumps(manifest))
    assert main(["show", "whole"]) == 2
    assert f"manifest.json is broken ({'.'.join(map(str, path[:3]))}" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["checks.json", "audit.json", "summary.json"])
@pytest.mark.parametrize("content", ["[]", "{", '{"make": 1, "agrees": "no", "verdict": {"findings": 5}}', "[" * 5000])
def test_records_beside_the_answers_that_were_changed(whole, folder, name, content):
    (folder / "whole" / name).write_text(content)
    with pytest.raises(ValueError, match=name):
        conclude(runs.load("whole"))


@pytest.mark.parametrize("name", ["checks.json", "audit.json", "summary.json"])
def test_an_evaluation_that_goes_on_reads_them_before_any_work(whole, folder, plan, capsys, name):
    (folder / "whole" / name).write_text('{"make": 1, "agrees": "no"')
    (folder / "plan.yaml").write_text(json.dumps(plan))
    assert main(["evaluate", "plan.yaml", "--out", "whole"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert name in err


def test_a_label_that_is_no_class_of_the_model(whole, folder, capsys):
    file = next((folder / "whole" / "inputs").glob("*.safetensors"))
    for label in (99, -1):
        images = load_file(file)
        images["y"][0] = label
        save_file(images, file)
        assert main(["audit", "whole", "--model", "net.py:make"]) == 2
        assert f"for the class {label}, and the model's classes are 0 to" in capsys.readouterr().err


def test_names_that_a_terminal_would_obey(whole, folder, capsys):
    """Of a run that came from somebody else: in the terminal, and in a table for a paper."""
    for file in ("manifest.json", "summary.json", "checks.json"):
        text = (folder / "whole" / file).read_text()
        (folder / "whole" / file).write_text(text.replace('"make"', '"\\u001b[31mmake\\u202e"'))
    assert main(["show", "whole"]) == 0
    assert main(["compare", "whole", "--by", "method"]) == 0
    assert main(["export", "whole", "--out", "tables"]) == 0
    out, err = capsys.readouterr()
    texts = [
        out,
        err,
        *((folder / "tables" / name).read_text() for name in ("table.tex", "summary.csv", "samples.csv")),
    ]
    assert all("\x1b" not in text and "\u202e" not in text for text in texts)
    assert "?[31mmake?" in out


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e999"])
def test_numbers_that_json_does_not_have(tmp_path, number):
    (tmp_path / "summary.json").write_text(f'{{"seconds": {number}}}')
    with pytest.raises(BrokenRunError, match=f"'{number}' is not a finite number"):
        read_object(tmp_path / "summary.json")


def test_a_file_nested_too_deep_is_broken(tmp_path):
    (tmp_path / "manifest.json").write_text('{"a":' * 100 + "1" + "}" * 100)
    with pytest.raises(BrokenRunError, match="nested too deep"):
        read_object(tmp_path / "manifest.json")


def test_bounds_that_are_none(whole, folder):
    save_file({"low": torch.zeros(2), "height": torch.ones(2)}, folder / "whole" / "bounds.safetensors")
    with pytest.raises(BrokenRunError, match="has no tensor high"):
        _ = runs.load("whole").bounds


def test_a_column_that_only_the_verdict_reads(whole, folder, capsys):
    (folder / "whole" / "summary.json").unlink()
    change_table(folder / "whole" / PART, lambda t: t.drop_columns(["status"]))
    assert main(["compare", "whole", "--by", "method"]) == 2
    assert "has no column status" in capsys.readouterr().err


def test_a_manifest_without_the_number_of_images(whole, folder):
    file = folder / "whole" / "manifest.json"
    manifest = json.loads(file.read_text())
    del manifest["data"]["n"]
    file.write_text(json.dumps(manifest))
    with pytest.raises(BrokenRunError, match=r"manifest\.json.*data\.n, the number of images, is missing"):
        runs.load(folder / "whole")
