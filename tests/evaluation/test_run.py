"""A run is the same whatever happens on the way: interruptions, other batch sizes, shards; what differs is refused."""

import itertools
import json
import re

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import plica
from evaluation.compare import assert_same
from plica import runs
from plica.cli import main
from plica.evaluation import PlanError, worker
from plica.evaluation.merge import merge
from plica.models import load_model
from plica.report import render
from plica.runs.write import Store
from plica.trust import audit


def test_the_answers_are_those_of_plica_attack(plan, whole):
    x, y = (torch.from_numpy(np.load("d.npz")[name]) for name in "xy")
    x, model = x.float() / 255, load_model("net.py:make")
    for method, p in itertools.product(("radius", "pwcf"), (2, 1)):
        found = plica.attack(model, x, y, plica.MinRadius(plica.Lp(p)), method=method, gradients=4)
        task = whole.task(f"make--min-radius-l{p}--{method}")
        assert whole.rows(task)["distance"].to_pylist() == found.distance.tolist()
        assert torch.equal(torch.cat([x_adv for _, x_adv in whole.points(task)]), found.x_adv)
    held = list(whole.inputs())
    assert torch.equal(torch.cat([x for _, x, _ in held]), x)
    assert torch.equal(torch.cat([y for _, _, y in held]), y)
    assert len(held) == 4


def test_only_points_that_are_not_the_images_are_stored(whole):
    images = {int(number): x for ids, xs, _ in whole.inputs() for number, x in zip(ids, xs, strict=True)}
    for task in whole.tasks:
        rows = whole.rows(task).to_pylist()
        found = [row["id"] for row in rows if row["success"] and row["distance"] > 0]
        kept = [load_file(file)["id"].tolist() for file in whole.files[task.name]]
        assert [number for ids in kept for number in ids] == found
        points = {int(number): x for ids, xs in whole.points(task) for number, x in zip(ids, xs, strict=True)}
        assert list(points) == [row["id"] for row in rows]
        assert [n for n, x in points.items() if not torch.equal(x, images[n])] == found
    still = [row["success"] and row["distance"] > 0 for row in whole.samples.to_pylist()].count(False)
    assert 0 < still < len(whole.samples)


def test_a_success_whose_point_is_gone_is_not_taken_for_the_image(whole):
    task, file = whole.tasks[0], whole.files[whole.tasks[0].name][0]
    model = {"make": load_model("net.py:make")}
    honest = next(audited for audited in audit(whole, model) if audited.task == task)
    held = load_file(file)
    save_file({name: tensor[1:].clone() for name, tensor in held.items()}, file)
    broken = next(audited for audited in audit(whole, model) if audited.task == task)
    assert honest.differences == {}
    assert list(broken.differences) == ["no point"]
    assert broken.answers == honest.answers - 1


def test_later_methods_see_what_is_still_standing(plan, whole):
    inside = [task for task in whole.tasks if task.kind == "max-loss"]
    first, second = (whole.rows(task) for task in inside)
    broken = {i for i, success in zip(first["id"].to_pylist(), first["success"].to_pylist(), strict=True) if success}
    assert {3, 17} < broken < set(range(20))
    assert set(second["id"].to_pylist()) == set(range(20)) - broken
    every = plica.evaluate(plan | {"individual": True}, "every")
    assert [len(every.rows(task)) for task in inside] == [20, 20]


def test_chunks_of_which_nothing_is_left_for_the_second_method(plan, whole):
    asked = plan["questions"][1]
    run = plica.evaluate(plan | {"questions": asked, "chunk": 1}, "run")
    assert run.rows(run.tasks[1])["id"].to_pylist() == whole.rows(run.tasks[1])["id"].to_pylist()
    assert len(list(run.points(run.tasks[1]))) == 20


def test_a_run_with_a_chunk_of_which_nothing_was_left_is_audited_and_reported(plan, folder):
    asked = {"ask": "max-loss", "metric": "l2", "radius": 8.0}
    run = plica.evaluate(plan | {"questions": asked}, "done")
    assert any(len(ids) == 0 for task in run.tasks for ids, _ in run.points(task))
    assert main(["audit", "done", "--trust"]) == 0
    assert main(["report", "done", "-o", "done.html"]) == 0


def test_each_batch_size_gives_the_same(plan, whole):
    for size in (4, 1000):
        assert_same(whole, plica.evaluate(plan | {"batch_size": size}, f"batch-{size}"))


@pytest.mark.slow
def test_batches_of_7_64_and_1000_give_the_same(plan, folder):
    x = torch.randint(0, 256, (130, 1, 12, 12), generator=torch.Generator().manual_seed(5)).to(torch.uint8)
    np.savez("many.npz", x=x.numpy(), y=load_model("net.py:make")(x.float() / 255).argmax(1).numpy())
    made = [
        plica.evaluate(plan | {"data": "many.npz", "chunk": 130, "gradients": 30, "batch_size": size}, f"many-{size}")
        for size in (7, 64, 1000)
    ]
    assert made[0].summary["questions"][0]["images"] == 130
    for other in made[1:]:
        assert_same(made[0], other)


def test_public_attacks_too_do_not_depend_on_batch_sizes_or_shards(plan):
    pytest.importorskip("pyautoattack", reason="the extra peers is not installed")
    asked = plan | {"questions": plan["questions"][1], "methods": ["apgd-ce", "fab-t", "pgd"]}
    whole = plica.evaluate(asked, "public")
    assert_same(whole, plica.evaluate(asked | {"batch_size": 2}, "public-2"))
    for k in (1, 2):
        plica.evaluate(asked | {"batch_size": 5}, f"part-{k}", shard=f"{k}/2")
    assert_same(whole, merge(["part-1", "part-2"], "parts"))


def test_three_shards_merged_are_the_whole(plan, whole):
    for k in (1, 2, 3):
        part = plica.evaluate(plan, f"shard-{k}", shard=f"{k}/3")
        assert part.summary["complete"]
        assert len(part.rows(part.tasks[0])) == (8 if k == 1 else 6)  # chunks of 6, 6, 6 and 2
    assert_same(whole, merge(["shard-3", "shard-1", "shard-2"], "merged"))
    assert_same(whole, runs.load("merged"))


def test_what_cannot_be_merged(plan, whole):
    for k in (1, 2):
        plica.evaluate(plan, f"shard-{k}", shard=f"{k}/3")
    plica.evaluate(plan | {"seed": 1}, "seed", shard="3/3")
    plica.evaluate(plan, "half", shard="3/3")
    next(runs.load("half").directory.glob("parts/*/00002.parquet")).unlink()
    for parts, said in (
        (["shard-1", "shard-2"], "The shard 3/3 is missing"),
        (["shard-1", "shard-1", "shard-2"], "not parts of one division"),
        (["shard-1", "whole"], "not parts of one division"),
        (["shard-1", "shard-2", "seed"], "another plan: seed is 1 there and 0 here"),
        (["shard-1", "shard-2", "half"], "half is unfinished"),
    ):
        with pytest.raises(PlanError, match=said):
            merge(parts, "merged")
    with pytest.raises(PlanError, match="whole is not empty"):
        merge(["whole"], "whole")


def test_a_finished_run_is_not_done_again(plan, whole, monkeypatch):
    before = {path: path.stat().st_mtime_ns for path in whole.directory.glob("parts/*/*")}
    monkeypatch.setattr(worker.Worker, "answer", None)
    assert_same(whole, plica.evaluate(plan, "whole"))
    assert before == {path: path.stat().st_mtime_ns for path in whole.directory.glob("parts/*/*")}


class Stop(BaseException):
    """As an interruption is."""


@pytest.mark.parametrize("parts", [0, 1, 11, 23])
def test_an_interrupted_run_goes_on_where_it_ended(plan, whole, monkeypatch, parts):
    real, count = Store.write, itertools.count()

    def write(self, *given):
        if next(count) == parts:
            raise Stop
        real(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "write", write)
        with pytest.raises(Stop):
            plica.evaluate(plan, "run")
    assert len(list(runs.load("run").directory.glob("parts/*/*.parquet"))) == parts
    asked, answer = [], worker.Worker.answer
    monkeypatch.setattr(worker.Worker, "answer", lambda self, work: asked.append(work) or answer(self, work))
    assert_same(whole, plica.evaluate(plan, "run"))
    assert len(asked) <= 24 - parts  # four chunks, three questions, two methods: nothing twice


def test_another_plan_model_or_data_is_refused(plan, whole, folder):
    for change, said in (
        ({"gradients": 13}, "another plan: gradients is 4 there and 13 here"),
        ({"methods": ["radius", "auto"]}, r'another plan: methods\[1\].name is "pwcf" there and "auto" here'),
        ({"data": {"path": "d.npz", "n": 5}}, "another plan: data.n is null there and 5 here"),
        ({"models": {"model": "net.py:other", "name": "make"}}, r"another model make \(hash \w{8} there, \w{8} here\)"),
    ):
        with pytest.raises(PlanError, match=f"whole holds a run with {said}; give another --out"):
            plica.evaluate(plan | change, "whole")
    with pytest.raises(PlanError, match=r"another shard \(all there, 1/2 here\)"):
        plica.evaluate(plan, "whole", shard="1/2")
    x, y = (np.load("d.npz")[name] for name in "xy")
    np.savez("e.npz", x=x, y=y[::-1])
    with pytest.raises(PlanError, match="other data"):
        plica.evaluate(plan | {"data": "e.npz"}, "whole")
    (folder / "moved").mkdir()
    (folder / "d.npz").rename(folder / "moved" / "d.npz")  # the same data elsewhere are the same data
    assert_same(whole, plica.evaluate(plan | {"data": "moved/d.npz"}, "whole"))


def test_a_directory_that_holds_something_else(plan, folder):
    (folder / "mine").mkdir()
    (folder / "mine" / "thesis.tex").touch()
    (folder / "broken").mkdir()
    (folder / "broken" / "manifest.json").write_text("{")
    for name, said in (
        ("mine", "not a run of `plica evaluate`"),
        ("broken", "broken manifest"),
        ("net.py", "is a file"),
    ):
        with pytest.raises(PlanError, match=said):
            plica.evaluate(plan, name)


def test_other_versions_raise_a_warning(plan, whole):
    file = whole.directory / "manifest.json"
    file.write_text(json.dumps(whole.manifest | {"versions": whole.manifest["versions"] | {"torch": "1.0"}}))
    with pytest.warns(UserWarning, match=r"started with torch 1\.0 and is resumed with"):
        plica.evaluate(plan, "whole")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"models": "net.py:none"}, "has no 'none'"),
        ({"data": "none.npz"}, "There is no file none.npz"),
        ({"data": {"path": "d.npz", "n": 21}}, "the data set has 20"),
        ({"data": {"path": "d.npz", "indices": [3, 20]}}, "name image 20, but there are 20"),
        ({"data": {"path": "d.npz", "indices": [3, 4, 3]}}, "name image 3 twice"),
        ({"device": "gpu7"}, "gpu7"),
        ({"methods": "apgd-ce"}, "make, min-radius l2: apgd-ce searches a ball"),
        (
            {"questions": {"ask": "min-radius", "metric": "nowhere:far"}},
            "The metric's module nowhere cannot be imported",
        ),
        ({"questions": {"ask": "min-radius", "metric": "net:make"}}, "net:make"),
    ],
)
def test_what_cannot_be_had_is_said_before_any_work(plan, folder, change, said, monkeypatch):
    monkeypatch.syspath_prepend(folder)
    with pytest.raises((ValueError, OSError)) as refused:
        plica.evaluate(plan | change, "out")
    assert said in str(refused.value)
    assert not (folder / "out").exists()


@pytest.mark.parametrize("shard", ["0/3", "4/3", "1", "a/b"])
def test_a_shard_that_is_none(plan, shard):
    with pytest.raises(PlanError, match="write i/N"):
        plica.evaluate(plan, "out", shard=shard)


def test_a_sample_is_balanced_and_the_same_each_time(plan):
    run = plica.evaluate(plan | {"data": {"path": "d.npz", "n": 7, "sample": "balanced"}, "methods": "radius"}, "a")
    ids, y = (torch.cat(columns) for columns in list(zip(*run.inputs(), strict=True))[::2])
    labels = np.load("d.npz")["y"]
    assert y.tolist() == labels[ids].tolist()
    assert ids.tolist() == sorted(set(ids.tolist()))
    few = min(np.bincount(labels, minlength=4).min(), 7 // 4)
    assert np.bincount(y, minlength=4).min() >= few
    assert run.summary["questions"][0]["images"] == 7


def test_the_seed_of_a_plan_is_that_of_its_attacks(plan, folder):
    """A method with random starts, so that seeds can be told apart."""
    question = {"ask": "min-radius", "metric": "l1"}
    asked = plan | {"questions": question, "methods": "pwcf", "data": {"path": "d.npz", "n": 6}}
    first, other = (plica.evaluate(asked | {"seed": seed}, f"seed{seed}") for seed in (0, 5))
    _, x, y = next(other.inputs())
    model = load_model("net.py:make")
    points = []
    for run, seed in ((first, 0), (other, 5)):
        found = plica.attack(model, x, y, plica.MinRadius(plica.Lp(1)), method="pwcf", gradients=4, seed=seed)
        assert run.samples["distance"].to_pylist() == found.distance.tolist()
        points.append(found.x_adv)
    assert not torch.equal(*points)
    (mixed,) = plica.evaluate(asked | {"methods": {"name": "pwcf", "seed": 5}}, "mixed").tasks
    assert runs.load("mixed").rows(mixed)["distance"].to_pylist() == other.samples["distance"].to_pylist()


def test_distances_of_a_model_in_half_precision_are_those_from_the_images_that_it_takes(plan, folder):
    (folder / "half.py").write_text("import net\n\ndef make():\n    return net.make().bfloat16()\n")
    asked = {"models": "half.py:make", "questions": {"ask": "min-radius", "metric": "l2"}, "methods": "radius"}
    run = plica.evaluate(plan | asked | {"gradients": 30}, "half")
    rows, (task,) = run.rows(run.tasks[0]), run.tasks
    x, x_adv = (torch.cat([part[1] for part in parts]) for parts in (run.inputs(), run.points(task)))
    attacked = x.to(x_adv.dtype)  # as docs/reference/directory.md has it
    distance = torch.tensor(rows["distance"].to_pylist(), dtype=torch.float64)
    assert x.dtype == torch.float32
    assert x_adv.dtype == torch.bfloat16
    expected = (x_adv.double() - attacked.double()).flatten(1).norm(dim=1)
    torch.testing.assert_close(distance, expected, rtol=1e-6, atol=0)  # summed in float32
    assert not torch.allclose(distance, (x_adv.double() - x.double()).flatten(1).norm(dim=1), rtol=1e-4)
    assert "arithmetic/make</dt><dd><code>bfloat16</code>" in render([run])
    assert [question["dtype"] for question in run.summary["questions"]] == ["bfloat16"]


def test_the_report_says_in_which_arithmetic_a_model_was_searched_and_judged(plan):
    asked = {"questions": {"ask": "min-radius", "metric": "l2"}, "methods": "radius", "precision": "bf16"}
    (origin,) = re.findall(r"arithmetic/make</dt><dd><code>([^<]*)", render([plica.evaluate(plan | asked, "autocast")]))
    assert origin == "float32, searched in bf16 (autocast)"
