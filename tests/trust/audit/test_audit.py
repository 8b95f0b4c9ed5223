"""An audit confirms an honest run, names every kind of tampering, and shares no code with the judge."""

import ast
import json
from dataclasses import replace
from pathlib import Path

import defects
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

import plica
from plica import runs, trust
from plica.cli import main
from plica.trust.audit import SHARED, reference
from plica.trust.audit.quantization import eight_bits, round8


def audited(directory, model=None):
    (task,) = trust.audit(runs.load(directory), {"defects:Sound": model or defects.Sound().eval()})
    return task


@pytest.mark.parametrize(("metric", "radius"), [("l2", None), ("l1.5", None), ("linf", 0.0555), ("l1", 4.15)])
def test_an_honest_run_is_confirmed(tmp_path, metric, radius):
    task = audited(defects.saved_run(tmp_path, metric, radius))
    assert task.differences == {}
    assert task.float64
    assert task.answers == 12
    assert task.confirmed == task.successes == (12 if radius is None else task.perturbed + 1)
    assert 3 < task.perturbed < 10 + 2 * (radius is None)


def rewrite(directory, row, **values):
    """Change cells of samples.parquet."""
    table = pq.read_table(directory / "samples.parquet")
    for name, value in values.items():
        column = table[name].to_pylist()
        column[row] = value
        table = table.set_column(table.column_names.index(name), name, [column])
    pq.write_table(table, directory / "samples.parquet")


def move(directory, row, change):
    """Change a stored point."""
    x_adv = load_file(directory / "x_adv.safetensors")["x_adv"].clone()
    x_adv[row] = change(x_adv[row])
    save_file({"x_adv": x_adv}, directory / "x_adv.safetensors")


@pytest.mark.parametrize(
    ("tamper", "kind"),
    [
        (lambda d: rewrite(d, 5, distance=1e-3), "distance"),
        (lambda d: rewrite(d, 5, label=4), "label"),
        (lambda d: rewrite(d, 5, margin=9.0), "margin in float64"),
        (lambda d: move(d, 5, lambda p: p + 1.5), "bounds"),
        (lambda d: move(d, 5, lambda p: torch.full_like(p, torch.nan)), "bounds"),
        (lambda d: move(d, 5, lambda p: defects.images()[0][5]), "class in batches of 1"),
        (lambda d: rewrite(d, 5, success=False), "moved"),
        (lambda d: rewrite(d, 0, success=False), "missed in float64"),
        (lambda d: rewrite(d, 5, id=77), "no point"),
    ],
)
def test_what_was_tampered_with_is_named(tmp_path, tamper, kind):
    directory = defects.saved_run(tmp_path)
    tamper(directory)
    task = audited(directory)
    assert kind in task.differences
    assert not task.agrees
    assert task.confirmed == (12 if kind == "margin in float64" else 11)


def test_a_point_outside_the_radius(tmp_path):
    directory = defects.saved_run(tmp_path, "linf", 0.0555)
    row = next(
        i for i, d in enumerate(pq.read_table(directory / "samples.parquet")["distance"].to_pylist()) if 0 < d < 1
    )
    move(directory, row, lambda p: defects.images()[0][row] + 1.2 * (p - defects.images()[0][row]))
    assert {"distance", "radius"} <= set(audited(directory).differences)


def test_another_model_is_noticed(tmp_path):
    other = defects.Changed(after=lambda z: 2 * z)
    assert set(audited(defects.saved_run(tmp_path), other).differences) >= {
        "margin in float64",
        "margin in batches of 50",
    }


def test_a_model_that_float64_contradicts(tmp_path):
    """Right in float64, and wrong in float32 alone: no success of it is confirmed."""

    class Rounding(defects.Sound):
        def forward(self, x):
            z = super().forward(x)
            return z if x.dtype == torch.float32 else torch.nn.functional.one_hot(labels[: len(z)], 6).double()

    directory = defects.saved_run(tmp_path)
    labels = load_file(directory / "inputs.safetensors")["y"]
    task = audited(directory, Rounding())
    assert len(task.differences["class in float64"]) == task.successes
    assert task.confirmed == 0


def test_distances_in_a_second_hand():
    x, z = torch.rand(5, 3, 4, 4, dtype=torch.float64), torch.rand(5, 3, 4, 4, dtype=torch.float64)
    for p in (0.5, 1, 1.5, 2, 8, float("inf")):
        expected = (z - x).abs().flatten(1).pow(p).sum(1).pow(1 / p) if p < 100 else (z - x).abs().flatten(1).amax(1)
        assert reference.norms(p, x, z) == pytest.approx(expected.numpy(), rel=1e-12)
    assert [reference.norm_of(text) for text in ("l2", "l1.5", "linf", "lpips", "net:far")] == [
        2,
        1.5,
        float("inf"),
        None,
        None,
    ]


def test_repair_finds_the_first_rounded_point_that_counts():
    """One pixel, threshold t: the point just past t rounds back to 100 / 255, and 101 / 255 is the cheapest repair."""
    x, t = torch.full((1, 1, 1, 1), 90 / 255), 100.2 / 255
    x_adv = torch.full((1, 1, 1, 1), 100.25 / 255)
    held = eight_bits(
        lambda z, rows: (z > t).flatten(1).any(1).numpy(),
        lambda z, rows: (z - x[rows]).abs().flatten(1).amax(1).double().numpy(),
        x, x_adv, 0.05, (0.0, 1.0),
    )  # fmt: skip
    assert held.survives.tolist() == [False]
    assert held.price == pytest.approx([11 / 10.25], rel=1e-5)
    grid = round8(torch.rand(1000) * 2 - 1, (-1.0, 1.0))
    assert len(grid.unique()) <= 256
    assert grid.min() >= -1


def file_of(module):
    """The source of a module of plica; None for a name inside one."""
    path = Path(plica.__file__).parents[1].joinpath(*module.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


def imports(module):
    """The modules of plica that a module names, at its top or inside a function."""
    for node in ast.walk(ast.parse(file_of(module).read_text())):
        if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] == "plica":
            names = (f"{node.module}.{alias.name}" for alias in node.names)
            yield from (name if file_of(name) else node.module for name in names)
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "plica")


def within(module, packages):
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def test_the_audit_uses_only_the_code_that_it_says_it_shares():
    """Also by way of others: whatever its imports import is in SHARED, and SHARED has nothing that is not used."""
    own = {f"plica.trust.audit.{file.stem}" for file in Path(reference.__file__).parent.glob("*.py")} - {
        "plica.trust.audit.__init__"
    }
    reached, left = set(), set(own)
    while left:
        module = left.pop()
        reached.add(module)
        left |= set(imports(module)) - reached
    assert {"plica.trust.audit.audit", "plica.runs.read", "plica.models.load"} <= reached
    assert {module for module in reached - own if not within(module, SHARED)} == set()
    assert all(any(within(module, [package]) for module in reached) for package in SHARED)


def test_what_measures_is_written_without_the_code_that_is_measured():
    for name in ("reference", "remeasure", "quantization"):
        found = set(imports(f"plica.trust.audit.{name}"))
        assert found <= {"plica.trust.audit.reference", "plica.trust.probe"}, name


def test_the_command(tmp_path, capsys, monkeypatch):
    directory = defects.saved_run(tmp_path)
    assert main(["audit", str(directory)]) == 2
    assert "is Python code: give --trust" in capsys.readouterr().err
    assert main(["audit", str(directory), "--trust"]) == 0
    said = capsys.readouterr().out
    assert "12 of 12 successes confirmed in float64" in said
    assert "of 11 perturbed answers survive; repaired, the median distance is 1." in said
    assert said.endswith("12 answers, no disagreement\n")
    assert json.loads((directory / "audit.json").read_text())["agrees"]
    rewrite(directory, 5, distance=1e-3)
    assert main(["audit", str(directory), "--model", "defects:Sound"]) == 1
    assert "DIFFERS, distance (1): image 5: distance 0.001 stored" in capsys.readouterr().out
    assert main(["audit", str(tmp_path / "none")]) == 2
    assert "is not a run" in capsys.readouterr().err


def test_images_that_were_not_kept_can_be_given(tmp_path, capsys):
    directory = defects.saved_run(tmp_path)
    held = load_file(directory / "inputs.safetensors")
    (directory / "inputs.safetensors").unlink()
    with pytest.raises(ValueError, match="contains no images; give them with --data"):
        audited(directory)
    x = held["x"].float() / 255
    (task,) = trust.audit(runs.load(directory), {"defects:Sound": defects.Sound()}, data=(x, held["y"]))
    assert task.agrees
    with pytest.raises(ValueError, match="the data have 5"):
        trust.audit(runs.load(directory), {"defects:Sound": defects.Sound()}, data=(x[:5], held["y"][:5]))


def test_parts_of_several_tasks(tmp_path):
    """Two questions in chunks of seven, one of them broken off."""
    from plica.runs.write import Store
    from plica.utils.files import write_json

    single = runs.load(defects.saved_run(tmp_path, images=14))
    (ids, x, y), (_, x_adv) = next(single.inputs()), next(single.points(single.tasks[0]))
    store, table = Store(tmp_path / "parts"), pq.read_table(single.directory / "samples.parquet")
    tasks = [replace(single.tasks[0], name=name, model="m", question=name) for name in ("one", "two")]
    write_json(tmp_path / "parts" / "manifest.json", {"format": 1})
    for chunk, rows in enumerate((slice(0, 7), slice(7, 14))):
        store.write_inputs(chunk, ids[rows], x[rows], y[rows])
        for task in tasks[: 2 - chunk]:
            part = table.slice(rows.start, 7)
            for key, column in task.constant_columns(7).items():
                part = part.append_column(key, column)
            store.write(task.name, chunk, part, ids[rows], x_adv[rows])
    one, two = trust.audit(runs.load(tmp_path / "parts"), {"m": defects.Sound()})
    assert (one.agrees, one.answers, one.confirmed) == (True, 14, 14)
    assert (two.agrees, two.answers, two.confirmed) == (True, 7, 7)


def test_text_that_a_terminal_or_a_table_would_obey(tmp_path, capsys):
    """Names come from whoever made the run."""
    directory = defects.saved_run(tmp_path)
    summary = json.loads((directory / "summary.json").read_text())
    summary["arguments"]["model"] = "\x1b[2J[red]net[/nothing]\x07"
    (directory / "summary.json").write_text(json.dumps(summary))
    assert main(["audit", str(directory), "--model", "defects:Sound"]) == 0
    said = capsys.readouterr()
    assert "\x1b[2J" not in said.out + said.err
    assert "?[2J[red]net[/nothing]?" in said.out


def test_points_that_beat_those_of_another_model(tmp_path):
    """A model asked with one gradient, beside the same one asked properly: its images fall to the other's points."""
    from plica.evaluation import evaluate
    from plica.trust.audit.transfer import Transfer, transfers

    x, y = (t[:24] for t in defects.images())
    save_file({"x": x, "y": y}, tmp_path / "d.safetensors")
    models = [{"model": "defects:Sound", "name": "asked"}, {"model": "defects:Sound", "name": "hardly"}]
    plan = {"models": models, "data": str(tmp_path / "d.safetensors"), "gradients": 40}
    plan["questions"] = [{"ask": "max-loss", "metric": "linf", "radius": 0.06}]
    run = evaluate(plan, tmp_path / "run")
    nets = {"asked": defects.Sound(), "hardly": defects.Sound()}
    assert [pair.beaten for pair in transfers(run, nets, (0.0, 1.0))] == [0, 0]
    (part,) = (tmp_path / "run" / "parts").glob("hardly*")
    file = next(part.glob("*.parquet"))
    table = pq.read_table(file)
    fallen = sum(table["success"].to_pylist())
    lost = table.set_column(table.column_names.index("success"), "success", [[False] * len(table)])
    pq.write_table(lost, file)
    there, back = transfers(runs.load(tmp_path / "run"), nets, (0.0, 1.0))
    assert {there, back} == {
        Transfer("max-loss linf 0.06", "hardly", "asked", 24, 0),
        Transfer("max-loss linf 0.06", "asked", "hardly", 24, fallen),
    }
    assert fallen > 12
    assert main(["audit", str(tmp_path / "run"), "--trust"]) == 1  # the points that are no answers any more
    findings = trust.conclude(runs.load(tmp_path / "run")).findings
    assert {"audit", "transfer"} <= {finding.check for finding in findings}
