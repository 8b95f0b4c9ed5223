"""The word `autoattack` is pyautoattack's standard version: its settings, its answers, its cost."""

import numpy as np
import pytest
import torch

import plica
from counting import Counted
from plica.evaluation.method_sets import AUTOATTACK, AUTOATTACK_L1
from plica.models import load_model

package = pytest.importorskip("pyautoattack.autoattack", reason="pyautoattack is not installed")

NAMES = {"linf": "Linf", "l2": "L2", "l1": "L1"}
# about half of the images withstand so much
RADII = {"linf": 0.015, "l2": 0.15, "l1": 1.0}
NET = """
import torch
from torch import nn

def make():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 32), nn.ReLU(), nn.Linear(32, 12))
"""


@pytest.fixture
def case(tmp_path, monkeypatch):
    """A network of twelve classes, ten colour images that it gets right, and the plan of one question about them."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(NET)
    x = np.random.default_rng(0).integers(40, 216, (10, 3, 8, 8)).astype(np.uint8)
    model = load_model("net.py:make")
    y = model(torch.from_numpy(x).float() / 255).argmax(1)
    np.savez("d.npz", x=x, y=y.numpy())

    def plan(metric):
        asked = {"ask": "max-loss", "metric": metric, "radius": RADII[metric]}
        return {"models": "net.py:make", "data": "d.npz", "questions": asked, "methods": "autoattack"}

    return model, torch.from_numpy(x).float() / 255, y, plan


def standard(model, metric):
    return package.AutoAttack(model, norm=NAMES[metric], eps=RADII[metric], seed=0, version="standard")


def settings(attack):
    """What the package's attacks are made with, the radius and the seed excepted."""
    used = {"n_iter_orig", "n_restarts", "use_largereps", "thr_decr", "eot_iter", "n_target_classes"}
    used |= {"n_iter", "alpha_max", "eta", "beta", "targeted", "p_init", "rescale_schedule", "loss"}
    return {key: value for key, value in vars(attack).items() if key in used}


@pytest.mark.parametrize("metric", NAMES)
def test_the_settings_are_those_of_the_standard_version(case, metric, monkeypatch):
    model, x, y, _ = case
    made = {}
    for kind in (package.APGDAttack, package.APGDAttack_targeted, package.FABAttack_PT, package.SquareAttack):
        monkeypatch.setattr(
            kind, "perturb", lambda self, x, *_, **__: made.setdefault(type(self).__name__, settings(self))
        )
    for method, gradients in (AUTOATTACK_L1 if metric == "l1" else AUTOATTACK).items():
        question = plica.MaxLoss(plica.Lp(metric.removeprefix("l")), RADII[metric])
        plica.attack(model, x, y, question, method=method, gradients=gradients)
    theirs = standard(model, metric)
    theirs.apgd.loss, theirs.fab.targeted = "ce", True  # as they are set when they run
    expected = {"APGDAttack": theirs.apgd, "APGDAttack_targeted": theirs.apgd_targeted, "FABAttack_PT": theirs.fab}
    expected = {name: settings(attack) for name, attack in (expected | {"SquareAttack": theirs.square}).items()}
    assert made == expected
    assert theirs.square.n_queries <= 3 * AUTOATTACK["square"] <= theirs.square.n_queries + 1


@pytest.mark.slow
@pytest.mark.parametrize("metric", NAMES)
def test_the_same_images_withstand_it_at_the_same_cost(case, metric):
    model, x, y, plan = case
    counted = Counted(model)
    x_adv, _ = standard(counted, metric).run_standard_evaluation(x, y)
    run = plica.evaluate(plan(metric), "out")
    broken = {row["id"] for row in run.samples.to_pylist() if row["success"]}
    standing = model(x_adv).argmax(1) == y
    assert 0 < standing.sum() < len(y)
    assert [number not in broken for number in range(len(y))] == standing.tolist()
    (question,) = run.summary["questions"]
    assert question["union"]["robust_accuracy"]["value"] == float(standing.double().mean())
    assert sum(run.samples["gradients"].to_pylist()) == counted.ledger.gradients
