"""An audit confirms an honest run, names every kind of tampering, and shares no code with the judge."""

import ast
import json
from copy import deepcopy
from dataclasses import asdict, replace
from pathlib import Path

import defects
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load, load_file, save_file

import plica
from plica import runs, trust
from plica.cli import main
from plica.runs.single import save_run
from plica.trust.audit import SHARED, reference
from plica.trust.audit.quantization import eight_bits, round8


def audited(directory, model=None, **more):
    (task,) = trust.audit(runs.load(directory), {"defects:Sound": model or defects.Sound().eval()}, **more)
    return task


@pytest.mark.parametrize(
    ("metric", "radius"), [("l2", None), ("l1.5", None), ("linf", 0.0555), ("l1", 4.15), ("l0", None)]
)
def test_an_honest_run_is_confirmed(tmp_path, metric, radius):
    seen = []
    task = audited(defects.saved_run(tmp_path, metric, radius), on_progress=lambda *at: seen.append(at))
    assert task.differences == {}
    assert seen == [(task.task.name, 12)]
    assert task.float64
    assert task.answers == 12
    assert task.confirmed == task.successes == (12 if radius is None else task.perturbed + 1)
    assert 3 < task.perturbed < 10 + 2 * (radius is None)


def test_a_model_is_asked_for_single_images_too(tmp_path):
    sizes, model = set(), defects.Sound().eval()
    model.register_forward_hook(lambda module, args, output: sizes.add((args[0].dtype, len(args[0]))))
    audited(defects.saved_run(tmp_path, "l2", None), model)
    assert {(torch.float32, 1), (torch.float32, 12)} <= sizes


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


def test_one_moved_pixel_of_an_answer_without_a_point_is_named(tmp_path):
    directory = defects.saved_run(tmp_path)

    def one_pixel(point):
        image = defects.images()[0][5].clone()
        image[0, 0, 0] = 1 - image[0, 0, 0]
        return image

    move(directory, 5, one_pixel)
    rewrite(directory, 5, success=False)
    assert "moved" in audited(directory).differences


def in_double():
    """The sound model in float64; a copy, as its weights are shared."""
    return deepcopy(defects.Sound()).double()


def cell(directory, row, name):
    """A value of samples.parquet."""
    return pq.read_table(directory / "samples.parquet")[name][row].as_py()


@pytest.mark.parametrize(("wall", "outward"), [(1.0, 2.0), (0.0, -1.0)])
def test_a_pixel_a_rounding_outside_is_named(tmp_path, wall, outward):
    directory = defects.saved_run(tmp_path)

    def put(value):
        def change(point):
            point[0, 0, 0] = value
            return point

        return change

    move(directory, 5, put(wall))
    assert "bounds" not in audited(directory).differences
    move(directory, 5, put(torch.nextafter(torch.tensor(wall), torch.tensor(outward))))
    assert audited(directory).differences["bounds"][0].startswith("image 5: pixels from ")


@pytest.mark.parametrize("metric", ["l2", "l1.5"])
def test_a_distance_that_is_off_in_its_seventh_digit_is_named(tmp_path, metric):
    directory = defects.saved_run(tmp_path, metric)
    d = cell(directory, 5, "distance")
    rewrite(directory, 5, distance=d * (1 + 3e-8))  # honest sums in another order
    assert audited(directory).agrees
    for factor in (1 + 1.5e-7, 1 - 1.5e-7):
        rewrite(directory, 5, distance=d * factor)
        assert set(audited(directory).differences) == {"distance"}


def test_a_radius_that_a_point_exceeds_in_its_tenth_digit_is_named(tmp_path):
    directory = defects.saved_run(tmp_path, "l1", 4.15)
    distances = pq.read_table(directory / "samples.parquet")["distance"].to_pylist()
    row = max((i for i, d in enumerate(distances) if 0 < d < 4.2), key=distances.__getitem__)
    file = directory / "summary.json"
    for factor, kinds in ((1.0, set()), (1 - 1e-10, {"radius"})):
        text = repr(distances[row] * factor)
        summary = json.loads(file.read_text())
        summary["arguments"]["radius"] = text
        file.write_text(json.dumps(summary))
        task = audited(directory)
        assert set(task.differences) == kinds
        assert len(task.differences.get("radius", [])) == len(kinds)
        assert task.confirmed == task.successes - len(kinds)


def test_a_margin_is_off_from_a_thousand_units_of_rounding_on(tmp_path):
    """Where the margin itself is no larger: at a point just past the boundary, as those of min-radius are."""
    directory, model = defects.saved_run(tmp_path), in_double()
    image = load_file(directory / "inputs.safetensors")
    x, y = image["x"][5].float() / 255, image["y"].numpy()[5:6]
    step = load_file(directory / "x_adv.safetensors")["x_adv"][5] - x
    low, high = 0.0, 1.0
    for _ in range(18):
        middle = (low + high) / 2
        logits = reference.outputs(model, (x + middle * step)[None].double(), 1)
        low, high = (low, middle) if reference.margins(logits, y)[0] > 0 else (middle, high)
    move(directory, 5, lambda p: x + high * step)
    logits = reference.outputs(model, (x + high * step)[None].double(), 1)
    unit = 1000 * torch.finfo(torch.float32).eps * abs(logits).max()
    (m,) = reference.margins(logits, y)
    assert 0 < m < unit / 4
    for share, differs in ((0.7, False), (-0.7, False), (1.3, True), (-1.3, True)):
        rewrite(directory, 5, margin=m + share * unit)
        kinds = set(audited(directory).differences)
        assert {"margin in float64", "margin in batches of 1", "margin in batches of 50"} & kinds == (
            {"margin in float64", "margin in batches of 1", "margin in batches of 50"} if differs else set()
        )


def test_a_margin_that_differs_by_four_tenths_is_reported(tmp_path):
    directory = defects.saved_run(tmp_path, "l1", 4.15)
    margins = pq.read_table(directory / "samples.parquet")["margin"].to_pylist()
    success = pq.read_table(directory / "samples.parquet")["success"].to_pylist()
    row = max((i for i in range(12) if success[i]), key=margins.__getitem__)
    assert margins[row] > 0.01
    for factor, differs in ((0.75, False), (0.68, True), (1.6, False), (1.75, True)):  # |m - stored| > 0.4 stored
        rewrite(directory, row, margin=margins[row] * factor)
        assert ("margin in float64" in audited(directory).differences) == differs


def test_points_without_a_row_and_images_answered_twice_are_named(tmp_path):
    directory = parts(tmp_path)
    (file,) = sorted((directory / "parts" / "one").glob("*1.safetensors"))
    tensors = load(file.read_bytes())
    tensors["id"] = tensors["id"].clone()
    tensors["id"][0] = 3  # of the first chunk
    save_file(tensors, file)
    one = trust.audit(runs.load(directory), {"m": defects.Sound()})[0]
    assert one.differences["twice"] == ["image 3 is answered twice (1 such images in one chunk)"]
    assert one.differences["no point"] == ["image 7 has a row and no point (1 such images)"]
    tensors["id"][0] = 99
    save_file(tensors, file)
    one = trust.audit(runs.load(directory), {"m": defects.Sound()})[0]
    assert one.differences["no row"] == ["image 99 has a point and no row (1 such images)"]
    assert "twice" not in one.differences
    assert (one.answers, one.successes, one.confirmed) == (13, 13, 13)


def test_margins_are_those_of_the_largest_other_logit_whatever_its_sign():
    logits = np.array([[-3.0, -1.0, -2.0], [-1.0, -5.0, -4.0], [2.0, -1.0, -7.0], [0.0, 0.0, -1.0]])
    assert reference.margins(logits, np.array([0, 0, 0, 1])).tolist() == [2, -3, -3, 0]
    assert logits[0].tolist() == [-3, -1, -2]


@pytest.mark.parametrize(("metric", "p", "radius"), [("l2", 2, 1.0), ("linf", float("inf"), 0.0575)])
def test_what_survives_in_8_bits_is_counted_by_its_class(tmp_path, metric, p, radius):
    """Beside the rounded points run through the model here: how many stay misclassified, how many of them within. Of
    14.66 grey levels, 14.5 and more round to 15, outside."""
    directory = defects.saved_run(tmp_path, metric, radius, 24)
    x, x_adv = (load_file(directory / f"{name}.safetensors") for name in ("inputs", "x_adv"))
    rows = pq.read_table(directory / "samples.parquet")
    found = torch.tensor(
        [s and d > 0 for s, d in zip(rows["success"].to_pylist(), rows["distance"].to_pylist(), strict=True)]
    )
    points = ((x_adv["x_adv"] * 255).round() / 255)[found]
    wrong = in_double()(points.double()).argmax(1) != x["y"][found]
    near = (points.double() - x["x"][found].double() / 255).flatten(1).norm(p, dim=1) <= radius * (1 + 1e-5)
    task = audited(directory)
    assert task.perturbed == int(found.sum())
    assert task.survive == int(wrong.sum())
    assert task.within == int((wrong & near).sum())
    assert 0 < task.within <= task.survive - (metric == "linf")
    record = task.record()
    assert (record["survive"], record["within"], record["perturbed"]) == (task.survive, task.within, task.perturbed)


@pytest.mark.parametrize(("metric", "radius"), [("l0", None), ("l0-pixel", 3.0)])
def test_pixels_that_did_not_move_are_no_change_in_8_bits(tmp_path, metric, radius):
    """Of images off the grid, of which rounding moves every pixel."""
    x, y = (t[:8] for t in defects.images())
    x = 0.9 * x + 0.0507
    count = plica.Lp(0, group="pixel" if "pixel" in metric else None)
    question = plica.MinRadius(count) if radius is None else plica.MaxLoss(count, radius)
    result = plica.attack(defects.Sound().eval(), x, y, question, gradients=20)
    words = dict(model="defects:Sound", method="auto", metric=metric, radius=radius and str(radius))
    save_run(tmp_path / "run", x, y, result, words, 1.0)
    task = audited(tmp_path / "run")
    assert task.perturbed == task.confirmed > 3
    assert task.survive > 3
    assert task.within == task.survive  # walls are on the grid: what survives has changed as many
    assert sum(price == 1 for price in task.prices) >= task.survive


def test_where_pixels_are_held_nothing_is_rounded(tmp_path):
    """Rounding would move what must not move."""
    directory = defects.saved_run(tmp_path)
    mask = torch.ones(3, 8, 8, dtype=torch.bool)
    (task,) = trust.audit(runs.load(directory), {"defects:Sound": defects.Sound()}, mask=mask)
    assert task.agrees
    assert task.confirmed == 12
    assert (task.perturbed, task.survive, task.within, task.prices) == (0, 0, 0, [])


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


def squares(threshold):
    """Four images of one pixel of 90 grey levels; class 1 above a threshold of each, distances in grey levels."""
    x, t = torch.full((4, 1, 1, 1), 90 / 255), torch.tensor(threshold).view(4, 1, 1, 1) / 255
    return (
        x,
        lambda z, rows: (z > t[rows]).flatten(1).any(1).numpy(),
        lambda z, rows: 255 * (z - x[rows]).abs().flatten(1).amax(1).double().numpy(),
    )


def test_a_rounded_point_is_within_where_its_own_distance_is():
    """Points at 9.6 levels, rounded to 10: the radius holds for what is rounded. The last one is no longer wrong."""
    x, fooled, measure = squares([99.5, 99.5, 99.5, 100.2])
    x_adv = x + torch.tensor([9.6, 9.4, 9.6, 10.3]).view(4, 1, 1, 1) / 255
    for radius, within in (
        (9.7, [False, False, False, False]),
        (10.0, [True, False, True, False]),
        (None, [True, False, True, False]),
    ):
        rounded = eight_bits(fooled, measure, x, x_adv, radius, (0.0, 1.0))
        assert rounded.survives.tolist() == [True, False, True, False]
        assert rounded.within.tolist() == within


def test_the_price_of_a_repair_is_that_of_the_least_stretch_found():
    """Distance of the first rounded point that counts, over the stored one: one level more where that is enough; past
    130.2, for which stretches of 4.05 and more would do, the one that is found among those 0.16 apart."""
    x, fooled, measure = squares([99.5, 100.2, 130.2, 250.0])
    x_adv = x + torch.tensor([9.6, 10.25, 10.0, 10.0]).view(4, 1, 1, 1) / 255
    rounded = eight_bits(fooled, measure, x, x_adv, None, (0.0, 1.0))
    assert rounded.survives.tolist() == [True, False, False, False]
    assert rounded.price[:3] == pytest.approx([10 / 9.6, 11 / 10.25, 42 / 10], rel=1e-5)
    assert rounded.price[3] != rounded.price[3]  # six times the distance, at most: nothing was found


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
    for name in ("activations", "balls", "bounds", "certificates", "layers", "stretch"):
        assert all(module.startswith("plica.trust.audit.") for module in imports(f"plica.trust.audit.{name}")), name


def test_the_command(tmp_path, capsys, monkeypatch):
    directory = defects.saved_run(tmp_path)
    assert main(["audit", str(directory)]) == 2
    assert "is Python code: give --trust" in capsys.readouterr().err
    assert main(["audit", str(directory), "--trust"]) == 0
    said = capsys.readouterr().out
    assert "12 of 12 successes confirmed in float64" in said
    task = audited(directory)
    survivors = (
        f"8 bits: {task.survive} of 11 perturbed images stay misclassified; moved farther until they do, the median "
        f"distance is {task.price:.3f}"
    )
    assert survivors in said
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


def parts(tmp_path):
    """The directory of a run of two questions in chunks of seven, one of them broken off."""
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
    return tmp_path / "parts"


def test_parts_of_several_tasks(tmp_path):
    one, two = trust.audit(runs.load(parts(tmp_path)), {"m": defects.Sound()})
    assert (one.agrees, one.answers, one.confirmed) == (True, 14, 14)
    assert (two.agrees, two.answers, two.confirmed) == (True, 7, 7)


def test_a_task_without_answers_has_nothing_to_confirm(tmp_path, capsys):
    """A method is spared the images that others have broken; it was said that float64 could not be had."""
    directory = parts(tmp_path)
    tasks = [asdict(task) for task in runs.load(directory).tasks]
    (directory / "manifest.json").write_text(json.dumps({"format": 1, "tasks": tasks}))
    (rows,) = (directory / "parts" / "two").glob("*.parquet")
    pq.write_table(pq.read_table(rows).slice(0, 0), rows)
    points = rows.with_suffix(".safetensors")
    save_file({name: tensor[:0].clone() for name, tensor in load_file(points).items()}, points)
    assert main(["audit", str(directory), "--model", "defects:Sound"]) == 0
    said = capsys.readouterr().out
    assert "one: 14 answers, 14 of 14 successes confirmed in float64\n" in said
    assert "two: 0 answers, nothing to confirm\n" in said


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


@pytest.mark.parametrize("form", ["bfloat16", "autocast"])
def test_a_model_in_half_precision_is_audited_in_it(tmp_path, form):
    """Its copy in float64 is another model, which contradicted true answers."""
    x, y = (t[:12] for t in defects.images())
    model = deepcopy(defects.Sound()).eval()

    class Autocast(torch.nn.Module):
        def forward(self, x):
            with torch.autocast("cpu", torch.bfloat16):
                return model(x)

    if form == "bfloat16":
        net = model.bfloat16()
        x = x.bfloat16()
    else:
        net = Autocast()
    result = plica.attack(net, x, y, plica.MinRadius(plica.Lp(2)), gradients=30)
    save_run(tmp_path / "run", x, y, result, dict(model="defects:Sound", method="auto", metric="l2", radius=None), 1.0)
    task = audited(tmp_path / "run", net)
    assert task.differences == {}
    assert not task.float64
    assert task.confirmed == task.successes == 12
    rewrite(tmp_path / "run", 5, margin=9.0)
    assert {kind.split(" in ")[0] for kind in audited(tmp_path / "run", net).differences} == {"margin"}
