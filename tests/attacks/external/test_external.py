"""Public attacks behind plica.attack: linear models' exact radii, honest counts, and what is refused."""

import importlib.util
import math
import sys

import pytest
import torch
from torch import nn

import plica
from counting import Counted
from linear import linear
from plica.attacks.base import AttackInput
from plica.attacks.external import PEERS, advlib
from plica.attacks.external.common import MissingPackageError, Watched
from plica.core.goals import Goal
from plica.core.judging.best import BestPoints
from plica.core.model.counted import CountedModel

INF = math.inf


FOOLBOX, AUTOATTACK, ADV_LIB = map(pytest.mark.needs, ("foolbox", "pyautoattack", "adv_lib"))
# What is left of the radius, in shares: what its authors' step sizes leave after 100 gradients of a linear model.
RADII = [
    *[pytest.param("fmn", p, 0.005, marks=FOOLBOX) for p in (1, INF)],
    pytest.param("ddn", 2, 0.02, marks=FOOLBOX),
    *[pytest.param("deepfool", p, 0.06, marks=FOOLBOX) for p in (2, INF)],  # overshoots by 2 % and 1e-4
    pytest.param("cw", 2, 0.1, marks=FOOLBOX),
    pytest.param("ead", 1, 0.6, marks=FOOLBOX),
    pytest.param("lbfgs", 2, 0.1, marks=pytest.mark.needs("scipy")),
    *[pytest.param(name, p, 0.01, marks=AUTOATTACK) for name in ("fab", "fab-t") for p in (1, 2, INF)],
    pytest.param("alma", 2, 0.3, marks=ADV_LIB),
    pytest.param("sdf", 2, 0.01, marks=ADV_LIB),
    *[pytest.param("fmn-adv", p, 0.01, marks=ADV_LIB) for p in (1, INF)],
    pytest.param("ddn-adv", 2, 0.02, marks=ADV_LIB),
]
BALLS = [pytest.param(name, marks=AUTOATTACK) for name in ("apgd-ce", "apgd-margin", "apgd-t", "fab-t")]


@pytest.mark.parametrize(("method", "p", "gap"), RADII)
def test_radii_of_linear_models(method, p, gap):
    case = linear(classes=4)
    result = plica.attack(case.model, case.x, case.y, plica.MinRadius(plica.Lp(p)), method=method)
    exact = case.radius(p)
    assert result.success.all()
    assert (result.distance >= exact * (1 - 1e-6)).all()  # float32 margins
    assert (result.distance <= exact * (1 + gap)).all()


@pytest.mark.parametrize(
    "method", [pytest.param("fmn-projected", marks=FOOLBOX), pytest.param("fmn-adv", marks=ADV_LIB)]
)
def test_fmn_for_l2(method):
    """Its first estimate is a linear model's boundary itself, on which images may stay: rounding decides their class
    there, and the judge is given a perturbation that is a little larger."""
    case = linear(classes=4)
    result = plica.attack(case.model, case.x, case.y, plica.MinRadius(plica.Lp(2)), method=method)
    assert result.success.all()
    assert (result.distance <= 1.005 * case.radius(2)).all()


@FOOLBOX
@pytest.mark.needs("numba")
@pytest.mark.slow
@pytest.mark.parametrize("p", [2, INF])
def test_brendel_bethge(p):
    """Its optimiser is compiled first, which takes a minute. On linear models it stands on the boundary, never past."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Flatten(), nn.Linear(192, 32), nn.Tanh(), nn.Linear(32, 4)).eval()
        x = torch.rand(3, 3, 8, 8)
    y, question = net(x).argmax(1), plica.MinRadius(plica.Lp(p))
    best, result = (plica.attack(net, x, y, question, method=name) for name in ("auto", "brendel-bethge"))
    assert result.success.all()
    assert (result.distance <= 1.1 * best.distance).all()
    assert result.gradients.max() <= 100


@ADV_LIB
def test_pdpgd_nears_the_boundary_with_the_steps_it_was_made_for():
    case = linear(classes=4)
    far, near = (
        plica.attack(case.model, case.x, case.y, plica.MinRadius(plica.Lp(2)), method="pdpgd", gradients=g).distance
        for g in (100, 500)
    )
    assert (near <= far).all()
    assert (near <= 2 * case.radius(2)).all()


@pytest.mark.slow
@pytest.mark.parametrize("method", BALLS)
@pytest.mark.parametrize("p", [1, 2, INF])
def test_balls_of_linear_models(method, p):
    """Each image has its own radius: broken just outside the exact one, never inside."""
    case = linear(classes=4)
    factor = torch.tensor([1.1, 0.9] * 3, dtype=torch.float64)
    question = plica.MaxLoss(plica.Lp(p), factor * case.radius(p))
    result = plica.attack(case.model, case.x, case.y, question, method=method)
    assert result.success.tolist() == [True, False] * 3
    assert (result.distance <= factor * case.radius(p))[result.success].all()


@AUTOATTACK
@pytest.mark.parametrize("p", [1, 2, INF])
def test_square_runs_forward_only(p):
    case = linear(classes=4, shape=(3, 8, 8))
    question = plica.MaxLoss(plica.Lp(p), 8 * case.radius(p))
    result = plica.attack(case.model, case.x, case.y, question, method="square", gradients=100)
    assert result.success.all()
    assert (result.gradients == 0).all()
    assert (result.forwards <= 3 * 100 + 6).all()


METHODS = [
    *[pytest.param(name, marks=FOOLBOX) for name in ("fmn", "ddn", "deepfool")],
    pytest.param("lbfgs", marks=pytest.mark.needs("scipy")),
    *[pytest.param(name, marks=AUTOATTACK) for name in ("apgd-ce", "apgd-margin", "apgd-t", "fab-t")],
    *[pytest.param(name, marks=ADV_LIB) for name in ("alma", "pdpgd", "sdf", "fmn-adv", "ddn-adv")],
]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("budget", [5, 10])  # too small for the judge's float64 copy, whose runs the model would count
def test_what_is_reported_was_spent(method, budget):
    case = linear(classes=4, b=1)
    model = Counted(case.model)
    question = plica.MaxLoss(plica.Lp(2), 0.5 * case.radius(2))  # out of reach, so that nothing ends the search early
    result = plica.attack(model, case.x, case.y, question, method=method, gradients=budget)
    assert result.gradients.sum() == model.ledger.gradients
    # with one image, each call that no gradient came back to is a forward run of that image
    assert result.forwards.sum() >= model.ledger.forwards
    assert result.forwards.sum() + result.gradients.sum() >= model.ledger.calls
    assert result.forwards.sum() < model.ledger.calls
    assert result.gradients.max() <= budget + 1
    assert result.gradients.min() >= 3


@pytest.mark.slow
@pytest.mark.extra
@pytest.mark.parametrize("method", METHODS)
def test_double_precision(method):
    """Packages that know float32 alone are given it; points and distances are the asker's."""
    case = linear(classes=4, dtype=torch.float64)
    radius = 2 * case.radius(2)
    result = plica.attack(case.model, case.x, case.y, plica.MaxLoss(plica.Lp(2), radius), method=method, gradients=30)
    assert result.x_adv.dtype == torch.float64
    assert (result.distance <= radius)[result.success].all()
    assert result.success[case.y == 1].any() or method in ("pdpgd", "fmn", "ddn", "ddn-adv")  # those need more steps


@FOOLBOX
def test_bounds_are_the_askers():
    plain, wide = linear(classes=4), linear(classes=4, bounds=(-1.0, 3.0))
    one, four = (
        plica.attack(c.model, c.x, c.y, plica.MinRadius(plica.Lp(2)), method="ddn", bounds=bounds).distance
        for c, bounds in ((plain, (0, 1)), (wide, (-1.0, 3.0)))
    )
    assert torch.allclose(4 * one, four, rtol=1e-2)


@FOOLBOX
def test_targets():
    case = linear(classes=4)
    target = torch.full_like(case.y, 2)
    question = plica.MinRadius(plica.Lp(2))
    away = plica.attack(case.model, case.x, case.y, question, method="ddn", targets=1 - case.y)
    assert torch.equal(case.model(away.x_adv).argmax(1), 1 - case.y)
    never = plica.attack(case.model, case.x, case.y, question, method="ddn", targets=target, gradients=10)
    assert not never.success.any()  # that class's logit is constant and never the largest
    with pytest.raises(plica.Unsupported, match="cannot aim"):
        plica.attack(case.model, case.x, case.y, question, method="deepfool", targets=target)


def task(case) -> AttackInput:
    question = plica.MinRadius(plica.Lp(2))
    archive = BestPoints(question.metric, case.x, Goal(case.y), None)
    queries, bounds, logits = CountedModel(case.model, len(case.x)), (0.0, 1.0), case.model(case.x)
    return AttackInput(
        queries, archive, case.x, Goal(case.y), logits, question, None, 10, 0, bounds, 64, lambda done: None
    )


def test_calls_on_some_images_are_counted_on_theirs():
    asked = task(linear())
    watched = Watched(asked, torch.arange(6))
    some = torch.tensor([1, 4])
    watched(asked.x[some] + 0.001)
    z = asked.x[some[1:]].clone().requires_grad_(True)
    logits = watched(z)
    for column in range(2):  # one run, two gradients
        torch.autograd.grad(logits[:, column].sum(), z, retain_graph=True)
    assert asked.model.forwards.tolist() == [0, 1, 0, 0, 1, 0]
    assert asked.model.gradients.tolist() == [0, 0, 0, 0, 2, 0]


def test_a_point_on_which_rounding_decides_is_enlarged_until_it_counts():
    """An attack that ends on the boundary has found it: it is not reported as without a point."""
    case = linear()
    asked = task(case)
    exact = case.radius(2)
    step = torch.where(asked.y == 0, 1.0, -1.0).view(-1, 1, 1, 1) * asked.model.model.w.view(1, 3, 4, 4)
    watched = Watched(asked, torch.arange(6))
    with torch.no_grad():
        watched(asked.x + (exact / step.flatten(1).norm(dim=1)).view(-1, 1, 1, 1).float() * step)
    before = asked.best.distance.isfinite()
    assert not before.all()
    watched.enlarge()
    assert asked.best.distance.isfinite().all()
    assert (asked.best.distance <= 1.001 * exact).all()


def test_points_outside_the_box_are_not_kept():
    asked = task(linear())
    step = torch.where(asked.y == 0, 1.0, -1.0).view(-1, 1, 1, 1) * asked.model.model.w.view(1, 3, 4, 4)
    with torch.no_grad():
        assert (Watched(asked, torch.arange(6))(asked.x + 10 * step).argmax(1) != asked.y).all()
    assert asked.best.distance.isinf().all()


@FOOLBOX
def test_parameters_keep_no_gradients():
    case = linear(classes=4)
    case.model.w.requires_grad_(True)
    plica.attack(case.model, case.x, case.y, plica.MinRadius(plica.Lp(2)), method="ddn", gradients=5)
    assert case.model.w.requires_grad
    assert case.model.w.grad is None


@pytest.mark.parametrize("method", [name for name in PEERS if not PEERS[name].any_metric])
def test_other_metrics_are_refused(method):
    case = linear(classes=4)
    with pytest.raises(plica.Unsupported, match=rf'{method} treats .*; l1\.5 it does not\. Use method="auto"'):
        plica.attack(case.model, case.x, case.y, plica.MaxLoss(plica.Lp(1.5), 0.1), method=method)


@pytest.mark.parametrize("method", ["apgd-ce", "apgd-margin", "apgd-t"])
def test_balls_only(method):
    case = linear(classes=4)
    with pytest.raises(plica.Unsupported, match="answers MaxLoss"):
        plica.attack(case.model, case.x, case.y, plica.MinRadius(plica.Lp(2)), method=method)


@AUTOATTACK
def test_too_few_classes_and_flat_images():
    case = linear(classes=3)
    question = plica.MaxLoss(plica.Lp(2), 0.1)
    with pytest.raises(plica.Unsupported, match="four classes"):
        plica.attack(case.model, case.x, case.y, question, method="apgd-t")
    flat = linear(shape=(48,))
    with pytest.raises(plica.Unsupported, match="height"):
        plica.attack(flat.model, flat.x, flat.y, question, method="square")


@pytest.mark.parametrize(("method", "words"), [("fmn", r"plica\[peers\]"), ("square", r"plica\[peers\]"),
                                               ("alma", "--no-deps adv-lib")])  # fmt: skip
def test_a_missing_package_is_named_with_its_cure(method, words, monkeypatch):
    for package in ("foolbox", "pyautoattack", "adv_lib", "adv_lib.attacks"):
        monkeypatch.setitem(sys.modules, package, None)
    case = linear(classes=4, shape=(3, 8, 8))
    with pytest.raises(MissingPackageError, match=words):
        plica.attack(case.model, case.x, case.y, plica.MaxLoss(plica.Lp(2), 0.1), method=method)


@ADV_LIB
def test_visdom_is_not_left_behind():
    if importlib.util.find_spec("visdom") is not None:
        pytest.skip("visdom is installed, so nothing stands in for it")
    case = linear(classes=4)
    plica.attack(case.model, case.x, case.y, plica.MinRadius(plica.Lp(2)), method="ddn-adv", gradients=2)
    assert "visdom" not in sys.modules
    assert advlib.PACKAGE in sys.modules


def tripled(x, x_adv):
    return 3 * plica.Lp(2)(x, x_adv)


@pytest.mark.parametrize("metric", [plica.Lp(1.5), plica.Lp(8), tripled], ids=["l1.5", "l8", "tripled"])
@ADV_LIB
def test_alma_takes_any_distance(metric):
    case = linear(classes=4)
    found = plica.attack(case.model, case.x, case.y, plica.MinRadius(metric), method="alma", gradients=300)
    assert found.success.all()
    assert torch.allclose(found.distance, metric(case.x.double(), found.x_adv.double()))
    truth = case.radius(metric.p) if isinstance(metric, plica.Lp) else 3 * case.radius(2)
    assert (found.distance >= truth * (1 - 1e-5)).all()
    assert (found.distance <= truth * 1.2).all()
