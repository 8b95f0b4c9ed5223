"""Searches by forward runs alone, and what `auto` does where a model has no gradient."""

import sys

import pytest
import torch

import plica
from linear import linear
from plica import Status
from plica.attacks.external.common import MissingPackageError
from plica.core.model.gradient import NoGradientError

L2 = plica.Lp(2)
FOOLBOX, AUTOATTACK = map(pytest.mark.needs, ("foolbox", "pyautoattack"))
BOTH = [pytest.param("square", marks=AUTOATTACK), pytest.param("hopskipjump", marks=FOOLBOX)]


def image_case():
    return linear(classes=4, shape=(3, 8, 8))


@pytest.mark.filterwarnings("ignore:The radius")  # which excludes nothing, so that the first point counts
@AUTOATTACK
@pytest.mark.parametrize("shape", [(3, 24, 45), (1, 24, 24), (3, 9, 8), (2, 29, 11)])
@pytest.mark.parametrize("p", [1, 2, float("inf")])
def test_square_takes_images_that_its_first_point_does_not_tile(p, shape):
    case = linear(classes=4, shape=shape, b=2)
    question = plica.MaxLoss(plica.Lp(p), 1e3 * case.radius(p))
    result = plica.attack(case.model, case.x, case.y, question, method="square", gradients=5)
    assert result.x_adv.shape == case.x.shape
    assert result.success.any()


@pytest.mark.parametrize("method", BOTH)
@pytest.mark.parametrize("p", [2, float("inf")])
def test_radii_by_forward_runs_alone(method, p):
    case = image_case()
    few, many = (
        plica.attack(case.model, case.x, case.y, plica.MinRadius(plica.Lp(p)), method=method, gradients=gradients)
        for gradients in (10, 30)
    )
    assert many.success.all()
    assert (many.distance >= case.radius(p) * (1 - 1e-6)).all()  # float32 margins
    assert many.distance.median() < few.distance.median()
    assert many.distance.median() < 10 * case.radius(p).median()  # random weights: every direction is as good
    assert (many.gradients == 0).all()
    assert (many.forwards <= 3 * 30 + 4).all()  # three in place of each gradient, the image itself, and the judge


@pytest.mark.parametrize("method", BOTH)
def test_an_answer_by_forward_runs_depends_on_the_image_alone(method):
    case = image_case()
    question = plica.MinRadius(L2)
    together = plica.attack(case.model, case.x, case.y, question, method=method, gradients=10)
    alone = plica.attack(case.model, case.x[3:4], case.y[3:4], question, method=method, gradients=10)
    assert together.distance[3] == pytest.approx(float(alone.distance[0]), rel=1e-5)  # calls have other sizes


@FOOLBOX
def test_hopskipjump_treats_any_distance_flat_features_balls_and_targets():
    case = linear(classes=2, shape=(20,))
    spend = dict(method="hopskipjump", gradients=30)
    through = plica.attack(case.model, case.x, case.y, plica.MinRadius(plica.Lp(1.5)), **spend)
    assert through.success.all()
    assert (through.distance >= case.radius(1.5) * (1 - 1e-6)).all()
    ball = plica.MaxLoss(plica.Lp(1.5), 2 * through.distance)
    assert plica.attack(case.model, case.x, case.y, ball, **spend).success.all()
    aimed = plica.attack(case.model, case.x, case.y, plica.MinRadius(L2), targets=1 - case.y, **spend)
    assert torch.equal(aimed.prediction, 1 - case.y)


@FOOLBOX
def test_hopskipjump_ends_where_no_point_counts():
    """foolbox halves its step until every image succeeds, which with outputs that change from call to call it never
    does."""
    x, y = torch.rand(2, 10, generator=torch.Generator().manual_seed(0)), torch.zeros(2, dtype=torch.long)
    never = plica.attack(lambda x: torch.tensor([1.0, 0.0]).expand(len(x), 2), x, y, plica.MinRadius(L2),
                         method="hopskipjump", gradients=30)  # fmt: skip
    assert not never.success.any()
    calls = iter(range(10**9))

    def fickle(x):
        lead = torch.tensor([1.0, 0.0]) if next(calls) % 3 else torch.tensor([0.0, 1.0])
        return lead.expand(len(x), 2)

    assert len(plica.attack(fickle, x, y, plica.MinRadius(L2), method="hopskipjump", gradients=30)) == 2


@pytest.mark.parametrize(
    ("case", "question", "method"),
    [
        pytest.param(image_case(), plica.MinRadius(L2), "square", marks=AUTOATTACK),
        pytest.param(image_case(), plica.MaxLoss(L2, 5.0), "square", marks=AUTOATTACK),
        pytest.param(image_case(), plica.MinRadius(plica.Lp(1.5)), "hopskipjump", marks=FOOLBOX),
        pytest.param(linear(classes=4), plica.MinRadius(L2), "hopskipjump", marks=FOOLBOX),
        (image_case(), plica.MinRadius("theta", through=plica.RotateTranslate()), "grid"),
    ],
)
def test_auto_asks_a_model_without_gradient_by_forward_runs_and_says_so(case, question, method):
    def model(x):
        return case.model(x.detach())

    auto = plica.attack(model, case.x, case.y, question, gradients=10)
    assert auto.status == [Status.BLACK_BOX] * len(case.x)
    assert "no gradient" in auto.status[0].value
    assert (auto.gradients == 0).all()
    named = plica.attack(model, case.x, case.y, question, method=method, gradients=10)
    assert torch.equal(auto.success, named.success)
    # one forward run less: that in which the model was seen to have no gradient
    assert float(auto.distance.median()) <= 1.1 * float(named.distance.median())


def test_auto_says_what_is_missing():
    case = image_case()
    with pytest.raises(NoGradientError, match="no gradient"):  # a flow has too many unknowns for a grid
        plica.attack(lambda x: case.model(x.detach()), case.x, case.y, plica.MinRadius("theta", plica.Flow()))


def test_auto_without_the_package_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "foolbox", None)
    case = linear(classes=4)
    with pytest.raises(MissingPackageError, match=r'no gradient .*"hopskipjump" needs .*plica\[peers\]'):
        plica.attack(lambda x: case.model(x.detach()), case.x, case.y, plica.MinRadius(L2))


@FOOLBOX
def test_counts_are_not_asked_by_forward_runs():
    """Every entry of a point that decisions lead to is changed."""
    case = linear(classes=4)
    with pytest.raises(plica.Unsupported, match=r"changes every entry.*use method='auto'"):
        plica.attack(case.model, case.x, case.y, plica.MinRadius(plica.Lp(0)), method="hopskipjump")
    with pytest.raises(plica.Unsupported, match="l0 is searched along gradients, and the model has none"):
        plica.attack(lambda x: case.model(x.detach()), case.x, case.y, plica.MinRadius(plica.Lp(0)))


@pytest.mark.parametrize("norm", [1, 2, "inf"])
def test_square_goes_on_where_two_logits_are_equal(norm):
    """As they often are in half precision: the package failed on images that all have the margin 0."""
    x = torch.full((2, 3, 8, 8), 0.5)

    def ties_elsewhere(z):
        lead = (z == 0.5).flatten(1).all(1).float()
        return torch.stack([lead, torch.zeros_like(lead)], 1)

    question = plica.MaxLoss(plica.Lp(norm), 0.3)
    found = plica.attack(ties_elsewhere, x, torch.tensor([0, 0]), question, method="square", gradients=20)
    assert not found.success.any()
