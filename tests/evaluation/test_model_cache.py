"""Each model of a plan is loaded once, whatever is done with it."""

import torch
from torch import nn

import plica
from plica.evaluation import model_cache
from plica.evaluation.model_cache import ModelCache
from plica.evaluation.plan import Model

COUNTED = """
from pathlib import Path
from net import make, other

def counted():
    with Path("calls").open("a") as stream:
        stream.write("counted ")
    return make()

def second():
    with Path("calls").open("a") as stream:
        stream.write("second ")
    return other()
"""


def test_an_evaluation_loads_each_model_once(folder):
    (folder / "counted.py").write_text(COUNTED)
    plan = {"data": "d.npz", "questions": {"ask": "min-radius", "metric": "l2"}, "gradients": 4, "methods": "radius"}
    run = plica.evaluate(plan | {"models": ["counted.py:counted", "counted.py:second"]}, "run", n=4)
    assert set(run.summary["verdict"]["checks"]) >= {"zero gradient"}  # the models were examined as well
    assert (folder / "calls").read_text() == "counted second "


def test_models_that_do_not_fit_into_memory_together_are_loaded_again(folder, monkeypatch):
    first, second = (Model.model_validate({"model": f"net.py:{name}"}) for name in ("make", "other"))
    cache = ModelCache()
    kept = cache.load(first, "cpu")
    assert cache.load(second, "cpu") is not kept
    assert cache.load(first, "cpu") is kept
    monkeypatch.setattr(model_cache, "memory", lambda: 1)
    cache.load(second, "cpu")
    again = cache.load(first, "cpu")
    assert again is not kept
    x = torch.rand(2, 1, 12, 12)
    assert torch.equal(again(x), kept(x))


def test_one_model_at_a_time_stands_on_an_accelerator(monkeypatch):
    class Net(nn.Module):
        where = "gpu"

        def to(self, device):
            self.where = device
            return self

    monkeypatch.setattr(model_cache, "load_model", lambda *spec: Net())
    cache, specs = ModelCache(), [Model(model=f"net.py:{name}", name=name) for name in "ab"]
    first, second = (cache.load(spec, "gpu") for spec in specs)
    assert (first.where, second.where) == ("cpu", "gpu")
    assert cache.load(specs[0], "gpu") is first
    assert (first.where, second.where) == ("gpu", "cpu")
