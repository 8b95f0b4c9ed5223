"""The page on the files of a run names every column, tensor and key that the commands write, and no other."""

import csv
import json
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors import safe_open

import plica
from plica.cli import main
from plica.runs import schema

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "directory.md").read_text()
SHAPE = (3, 8, 8)
MODEL = """
import torch


def make(seed=0):
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 3))


def other():
    return make(1)
"""
PLAN = """
models: [model.py:make, model.py:other]
data: {path: data.npz, n: 4}
questions:
  - {ask: min-radius, metric: l2, certify: {nodes: 2}}
  - {ask: max-loss, metric: linf, radius: 0.02, targets: targets.npy}
  - {ask: min-radius, metric: theta, through: hue-saturation}
methods: [auto, pwcf]
gradients: 5
chunk: 4
"""


def documented() -> dict[str, set[str]]:
    """The names in the first column of the table under each heading."""
    found = {}
    for heading, body in re.findall(r"^### (.*?)\n(.*?)(?=^#|\Z)", PAGE, flags=re.MULTILINE | re.DOTALL):
        cells = re.findall(r"^\| (`.*?) \|", body, flags=re.MULTILINE)
        found[heading] = {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}
    return found


def in_schema(files: Iterable[schema.File]) -> dict[str, set[str]]:
    """The names in each file, without those that no run here has."""
    return {file.path: set(schema.names(file.columns)) - {"merged", "classes", "targets"} for file in files}


def tensors(*files: Path) -> set[str]:
    names = set()
    for file in files:
        with safe_open(file, "pt") as tensor_file:
            names |= set(tensor_file.keys())
    return names


def keys(*records: dict) -> set[str]:
    return {key for record in records for key in record}


def read(file: Path) -> dict:
    return json.loads(file.read_text())


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A folder with runs of every command that writes, each option that adds a file or a tensor among them."""
    folder = tmp_path_factory.mktemp("runs")
    rng = np.random.default_rng(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("model.py").write_text(MODEL)
        Path("plan.yaml").write_text(PLAN)
        x = rng.random((6, *SHAPE), dtype=np.float32)
        np.savez("data.npz", x=x, y=np.zeros(6, dtype=np.int64))
        np.save("targets.npy", np.ones(6, dtype=np.int64))
        np.savez("box.npz", low=np.zeros(SHAPE), high=np.ones(SHAPE), mask=np.arange(192).reshape(SHAPE) > 9)
        given = ["--model", "model.py:make", "--data", "data.npz", "--gradients", "5"]
        for command in (
            ["radius", *given, "--metric", "l2", "--bounds", "box.npz", "--indices", "1,3", "--out", "radius"],
            ["radius", *given, "--metric", "theta", "--through", "hue-saturation", "--n", "2", "--out", "hue"],
            ["attack", *given, "--metric", "linf", "--radius", "0.02", "--n", "2", "--out", "attack"],
            ["audit", "attack", "--trust"],
            ["evaluate", "plan.yaml", "--out", "plan"],
            ["audit", "plan", "--trust"],
            ["export", "plan"],
        ):
            assert main(command) == 0, command
    return folder


def test_every_name_of_every_file_is_on_the_page(written):
    """Those of runs.schema, which the page takes from there, and those that it explains itself."""
    plan, single = written / "plan", [written / name for name in ("radius", "hue", "attack")]
    parts = sorted((plan / "parts").glob("*/0*.parquet"))
    leaves = sorted((plan / "parts").glob("*/leaves-*.parquet"))
    summary, audit, checks = read(plan / "summary.json"), read(plan / "audit.json"), read(plan / "checks.json")
    methods = [method for question in summary["questions"] for method in question["methods"]]
    with (plan / "summary.csv").open() as stream:
        head = next(csv.reader(stream))
    bounds = tensors(written / "radius" / "bounds.safetensors")
    assert in_schema(schema.EVALUATION) == {
        "manifest.json": keys(read(plan / "manifest.json")),
        "inputs/00000.safetensors": tensors(plan / "inputs" / "00000.safetensors"),
        "parts/TASK/00000.parquet": {name for part in parts for name in pq.read_schema(part).names},
        "parts/TASK/leaves-00000.parquet": {name for file in leaves for name in pq.read_schema(file).names},
        "parts/TASK/00000.safetensors": tensors(*(part.with_suffix(".safetensors") for part in parts)),
        "bounds.safetensors": bounds,
        "summary.json": keys(summary),
        "checks.json": {"MODEL"},  # stands for the models' names
        "audit.json": keys(audit),
    }
    assert in_schema(schema.SINGLE) == {
        "samples.parquet": {name for run in single for name in pq.read_schema(run / "samples.parquet").names},
        "x_adv.safetensors": tensors(*(run / "x_adv.safetensors" for run in single)),
        "inputs.safetensors": tensors(*(run / "inputs.safetensors" for run in single)),
        "bounds.safetensors": bounds,
        "perturbations.png": set(),
        "summary.json": keys(*(read(run / "summary.json") for run in single)),
        "audit.json": keys(audit),
    }
    assert documented() == {
        "Entries of questions in summary.json": keys(*summary["questions"]),
        "Entries of methods in summary.json": keys(*methods),
        "Keys of union in summary.json": keys(*(question["union"] for question in summary["questions"])),
        "Entries of models in checks.json": keys(*checks.values()),
        "Entries of tasks in audit.json": keys(*audit["tasks"]),
        "Entries of transfers in audit.json": keys(*audit["transfers"]),
        "Columns of summary.csv": set(head),
    }


def test_the_files_are_those_of_the_page(written):
    for files, run in ((schema.EVALUATION, "plan"), (schema.SINGLE, "radius")):
        listed = {file.path for file in files}
        there = {str(file.relative_to(written / run)) for file in (written / run).rglob("[!.]*") if file.is_file()}
        there = {re.sub(r"parts/[^/]+/", "parts/TASK/", name) for name in there}
        assert there - {"samples.csv", "summary.csv", "table.tex"} <= listed
        assert listed - there <= {"bounds.safetensors", "audit.json"}


def test_columns_mean_the_same_in_a_loaded_run(written):
    loaded = set(plica.runs.load(written / "plan").samples.column_names)
    assert loaded == in_schema(schema.EVALUATION)["parts/TASK/00000.parquet"] | {schema.TASK.name}
