"""A run directory is read as it was written."""

import json
import math
import re
from dataclasses import asdict, fields, replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import plica
from plica import runs
from plica.runs import schema
from plica.runs.encode import pack, unpack
from plica.runs.single import save_run
from plica.runs.write import Store
from plica.utils.files import write_json

NEAREST = runs.Task("m--min-radius-l2--auto", "m", "min-radius l2", "min-radius", "l2", None, None, "auto")
INSIDE = runs.Task("m--max-loss-linf--pwcf", "m", "max-loss linf 0.1", "max-loss", "linf", 0.1, "margin", "pwcf")
GENERATOR = torch.Generator().manual_seed(0)


def part(task, ids, distance):
    columns = {"id": ids, "success": [math.isfinite(d) for d in distance], "distance": distance}
    return pa.table(columns | task.constant_columns(len(ids)))


@pytest.fixture
def directory(tmp_path):
    """Two tasks on the images 2, 4, 5, 7 in chunks of two; of the second task the second chunk is missing."""
    store = Store(tmp_path / "run")
    records = [asdict(task) for task in (NEAREST, INSIDE)]
    write_json(tmp_path / "run" / "manifest.json", {"format": 1, "tasks": records, "data": {"classes": ["a", "b"]}})
    for chunk, ids in ((1, [5, 7]), (0, [2, 4])):
        x = torch.full((2, 3), ids[0] / 255)
        store.write_inputs(chunk, torch.tensor(ids), x, torch.tensor(ids) % 2)
        store.write(NEAREST.name, chunk, part(NEAREST, ids, [0.5, math.inf]), torch.tensor(ids), x + 0.1)
    store.write(INSIDE.name, 0, part(INSIDE, [4], [0.1]), torch.tensor([4]), x[:1])
    return tmp_path / "run"


def test_what_was_written_is_read(directory):
    run = runs.load(directory)
    assert run.tasks == [NEAREST, INSIDE]
    assert run.samples["id"].to_pylist() == [2, 4, 5, 7, 4]
    assert run.samples["task"].to_pylist() == [NEAREST.name] * 4 + [INSIDE.name]
    assert run.samples["radius"].to_pylist() == [None] * 4 + [0.1]
    assert run.rows(INSIDE)["distance"].to_pylist() == [0.1]
    assert run.classes == ["a", "b"]
    assert run.summary == {}
    assert [ids.tolist() for ids, _ in run.points(NEAREST.name)] == [[2, 4], [5, 7]]
    for (ids, x, y), (_, x_adv) in zip(run.inputs(), run.points(NEAREST), strict=True):
        assert torch.equal(x, torch.full((2, 3), int(ids[0]) / 255))
        assert torch.equal(y, ids % 2)
        assert torch.equal(x_adv, x + 0.1)
    with pytest.raises(ValueError, match="has no task 'other'"):
        run.rows("other")


def test_points_without_their_samples_are_no_part(directory):
    (directory / "parts" / NEAREST.name / "00001.parquet").unlink()
    run = runs.load(directory)
    assert run.rows(NEAREST)["id"].to_pylist() == [2, 4]
    assert [ids.tolist() for ids, _ in run.points(NEAREST)] == [[2, 4]]


def test_a_task_that_has_not_begun_has_no_rows(directory):
    (directory / "parts" / INSIDE.name / "00000.parquet").unlink()
    run = runs.load(directory)
    assert run.rows(INSIDE).num_rows == 0
    assert run.rows(INSIDE, ["id", "status"]).column_names == ["id", "status"]
    assert list(run.points(INSIDE)) == []
    assert len(run.samples) == 4


def test_tasks_are_known_from_the_parts_where_the_manifest_does_not_name_them(directory):
    (directory / "manifest.json").write_text('{"format": 1}')
    assert set(runs.load(directory).tasks) == {NEAREST, INSIDE}


def test_a_single_run_is_a_run_with_one_task(tmp_path):
    net = torch.nn.Linear(4, 3)
    x = torch.rand(6, 4, generator=GENERATOR)
    y = net(x).argmax(1)
    for name, question, more in (
        ("near", plica.MinRadius(plica.Lp(2)), {}),
        ("inside", plica.MaxLoss(plica.Lp(2), 8 / 255), {"radius": "8/255", "loss": "margin"}),
    ):
        result = plica.attack(net, x, y, question, gradients=20)
        save_run(tmp_path / name, x, y, result, {"model": "n.py:f", "metric": "l2", "method": "auto", **more}, 1.0)
        run = runs.load(tmp_path / name / "summary.json")
        (task,) = run.tasks
        assert (task.metric, task.method, task.model) == ("l2", "auto", "n.py:f")
        assert task.radius == (8 / 255 if more else None)
        assert run.rows(task)["distance"].to_pylist() == result.distance.tolist()
        assert run.rows(task)["kind"].to_pylist() == ["max-loss" if more else "min-radius"] * 6
        ((ids, x_adv),) = run.points(task)
        ((same, kept, labels),) = run.inputs()
        assert torch.equal(ids, torch.arange(6))
        assert torch.equal(same, ids)
        assert torch.equal(x_adv, result.x_adv)
        assert torch.equal(kept, x)
        assert torch.equal(labels, y)
    (tmp_path / "near" / "inputs.safetensors").unlink()
    assert list(runs.load(tmp_path / "near").inputs()) == []


def test_what_is_no_run_or_a_broken_one(tmp_path, directory):
    (tmp_path / "net.py").touch()
    for given in (tmp_path, tmp_path / "net.py", tmp_path / "nowhere"):
        with pytest.raises(FileNotFoundError, match=f"^{re.escape(str(given))} is not a run"):
            runs.load(given)
    assert runs.load(directory / "manifest.json").tasks == [NEAREST, INSIDE]
    file = directory / "parts" / NEAREST.name / "00000.safetensors"
    file.write_bytes(file.read_bytes()[:20])
    with pytest.raises(ValueError, match="cannot be read"):
        list(runs.load(directory).points(NEAREST))
    file.with_suffix(".parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"00000\.parquet cannot be read \(.*\); restore the file or run it again\.$"):
        runs.load(directory)
    (directory / "manifest.json").write_text("[]")
    with pytest.raises(ValueError, match=r"manifest\.json contains a list, not an object; restore the file or run it"):
        runs.load(directory)


def test_eight_bits_are_kept_in_eight_bits_and_come_back_to_the_bit():
    every = torch.arange(256, dtype=torch.uint8).view(4, 64)
    x = torch.from_numpy(every.numpy().astype("float32") / 255)
    assert pack(x).dtype == torch.uint8
    assert torch.equal(unpack(pack(x)), x)
    for other in (x + 1e-7, torch.rand(3, 5, generator=GENERATOR), x.double(), x - 1, x * torch.nan):
        assert torch.equal(pack(other).isnan(), other.isnan())
        assert torch.equal(unpack(pack(other)).nan_to_num(), other.nan_to_num())


def as_plica_0_1_wrote_it(directory):
    """Turn a run's task INSIDE into one of an older version, which kept the perturbation inside the metric."""
    manifest = json.loads((directory / "manifest.json").read_text())
    for record in manifest["tasks"]:
        record["metric"] = "theta through flow" if record["name"] == INSIDE.name else record["metric"]
        del record["through"]
    (directory / "manifest.json").write_text(json.dumps(manifest))
    for file in (directory / "parts").glob("*/*.parquet"):
        table = pq.read_table(file).drop_columns("through")
        if file.parent.name == INSIDE.name:
            texts = pa.array(["theta through flow"] * len(table))
            table = table.set_column(table.column_names.index("metric"), "metric", texts)
        pq.write_table(table, file)


@pytest.mark.parametrize("named_in_manifest", [True, False])
def test_an_older_run_is_read_as_a_new_one(directory, named_in_manifest):
    as_plica_0_1_wrote_it(directory)
    if not named_in_manifest:
        (directory / "manifest.json").write_text('{"format": 1}')
    run = runs.load(directory)
    assert set(run.tasks) == {NEAREST, replace(INSIDE, metric="theta", through="flow")}
    assert run.task(INSIDE.name).distance == "theta through flow"
    rows = run.rows(INSIDE.name)
    assert (rows["metric"].to_pylist(), rows["through"].to_pylist()) == (["theta"], ["flow"])
    assert run.samples["through"].to_pylist().count(None) == 4


def test_chunks_of_an_older_and_of_this_version_are_one_table(directory):
    """As when a run that an older version began goes on."""
    store, ids = Store(directory), torch.tensor([5])
    as_plica_0_1_wrote_it(directory)
    task = runs.load(directory).task(INSIDE.name)
    store.write(task.name, 1, part(task, [5], [0.2]), ids, torch.zeros(1, 3))
    rows = runs.load(directory).rows(task)
    assert rows.select(["id", "distance", "metric", "through"]).to_pylist() == [
        {"id": image, "distance": d, "metric": "theta", "through": "flow"} for image, d in ((4, 0.1), (5, 0.2))
    ]


def test_files_have_the_columns_that_the_schema_names(tmp_path):
    """What is written is what runs.schema, and so the reference, says: in name, type and order."""
    net, x = torch.nn.Linear(4, 3), torch.rand(6, 4, generator=GENERATOR)
    result = plica.attack(net, x, net(x).argmax(1), plica.MinRadius(plica.Lp(2)), gradients=20)
    save_run(tmp_path, x, net(x).argmax(1), result, {"metric": "l2"}, 1.0)
    assert pq.read_schema(tmp_path / "samples.parquet").equals(schema.arrow_schema(schema.MEASURED))
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert set(summary) <= set(schema.names(schema.SINGLE_KEYS))
    assert [field.name for field in fields(runs.Task)] == ["name", *schema.names(schema.CONSTANT)]
    columns = {*schema.names(schema.MEASURED), *schema.names(schema.CONSTANT), schema.TASK.name}
    assert set(runs.load(tmp_path).samples.column_names) == columns
    for file in (*schema.EVALUATION, *schema.SINGLE):
        assert len(set(schema.names(file.columns))) == len(file.columns)
