"""Plans that nobody wrote by hand: deep, endless, or with values that Python takes and nobody means."""

import os
import time

import pytest

from plica.evaluation import PlanError, read_plan
from plica.evaluation.tasks import LONGEST, chains

SMALL = {"models": "net.py:make", "data": "d.npz", "questions": {"ask": "min-radius", "metric": "l2"}}


def refusal(tmp_path, text):
    (tmp_path / "plan.yaml").write_text(text)
    start = time.monotonic()
    with pytest.raises(PlanError) as caught:
        read_plan(tmp_path / "plan.yaml")
    assert time.monotonic() - start < 10
    assert len(str(caught.value)) < 1000
    return str(caught.value)


@pytest.mark.parametrize("text", ["models: " + "[" * 900 + "]" * 900, "{a: " * 900 + "}" * 900])
def test_a_plan_nested_900_deep(tmp_path, text):
    assert "nested too deep" in refusal(tmp_path, text)


@pytest.mark.parametrize("key", ["models", "data", "questions", "methods", "gradients", "seed", "bounds", "radius"])
def test_a_plan_that_names_itself_exponentially_often(tmp_path, key):
    bomb = "".join(f"  - &b{i} [{', '.join([f'*b{i - 1}'] * 9 if i else 'x')}]\n" for i in range(25))
    lines = {"models": "net.py:make", "data": "d.npz", "questions": "{ask: min-radius, metric: l2}", key: f"\n{bomb}"}
    if key == "radius":
        lines["questions"] = f"\n  ask: max-loss\n  metric: l2\n  radius:\n{bomb}"
        del lines["radius"]
    assert key in refusal(tmp_path, "".join(f"{name}: {value}\n" for name, value in lines.items()))


@pytest.mark.parametrize("value", ["1" * 5000, "2020-13-45", "!!python/object:os.system x", "{? [a] : b}"])
def test_values_that_yaml_itself_cannot_make(tmp_path, value):
    assert "cannot be read as YAML" in refusal(tmp_path, f"seed: {value}\n")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")
def test_a_plan_from_a_pipe_or_a_device(tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    for path in (tmp_path / "pipe.yaml", "/dev/zero"):
        with pytest.raises(PlanError, match="not a regular file"):
            read_plan(path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"gradients": True}, "gradients: a number is needed, got True"),
        ({"gradients": 10**30}, "gradients: input should be less than or equal to 1000000000"),
        ({"seed": 2**63}, "seed: input should be less than or equal to 1000000000000"),
        ({"threads": 10**30}, "threads: input should be less than or equal to 4096"),
        ({"questions": {"ask": "max-loss", "metric": "l2", "radius": "8/"}}, "The radius '8/' is not a distance"),
        ({"questions": {"ask": "max-loss", "metric": "l2", "radius": "1_0"}}, "The radius '1_0' is not a distance"),
        ({"questions": {"ask": "min-radius", "metric": "l1e400"}}, "There is no metric 'l1e400'"),
        ({"models": "net.py:make@1,2/0"}, "is not a valid normalisation"),
    ],
)
def test_nonsense_that_was_accepted(change, said):
    with pytest.raises(PlanError) as caught:
        read_plan(SMALL | change)
    assert said in str(caught.value)


def test_the_numbers_of_a_normalisation_are_no_name():
    names = {
        "net.py:make@0.49,0.48,0.45/0.2471,0.2435,0.2616": "make",
        "nets/net.onnx@0.5/0.25": "net.onnx",
        "net.py:make@cifar10": "make@cifar10",
        "hf:someone/vit@main": "vit@main",
    }
    for spec, name in names.items():
        assert read_plan(SMALL | {"models": spec}).models[0].name == name


def test_a_name_that_no_file_system_takes_is_cut():
    long = [{"model": "net.py:make", "name": "m" * 300 + end} for end in "ab"]
    names = [job.task.name for chain in chains(read_plan(SMALL | {"models": long})) for job in chain.jobs]
    assert len(set(names)) == 2
    assert all(len(name.encode()) <= LONGEST for name in names)
