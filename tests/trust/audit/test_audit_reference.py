"""The audit's own code against plica's: margins of goals, norms, and the record of a task."""

import math

import numpy as np
import pytest
import torch

from plica import goals
from plica.metrics import Lp
from plica.runs import Task
from plica.trust.audit import reference
from plica.trust.audit.audit import Audited
from plica.trust.audit.reference import goal_of, margins, norm_of, norms

GENERATOR = torch.Generator().manual_seed(0)
B = 6


def drawn(*shape):
    return torch.randn(B, *shape, generator=GENERATOR, dtype=torch.float64)


TAGS = (drawn(5) > 0).long()
PIXELS = torch.randint(0, 3, (B, 4, 5), generator=GENERATOR)
CASES = {
    "deviates=0.3": (drawn(2, 3), drawn(2, 3)),
    "any-label": (drawn(5), TAGS),
    "pixels=0.3": (drawn(3, 4, 5), PIXELS),
    "pixels=0.05": (drawn(3, 4, 5), PIXELS),
    "pixels=1.0": (drawn(3, 4, 5), PIXELS),
    "pixels=0.4": (drawn(4, 5), (PIXELS > 0).long()),
}


@pytest.mark.parametrize("text", CASES)
def test_goals_are_those_of_plica(text):
    output, y = CASES[text]
    own = goal_of(text)
    assert own is not None
    np.testing.assert_allclose(own(output.numpy(), y.numpy()), goals.parse_goal(text)(output, y).numpy(), rtol=1e-12)


def test_the_largest_deviation_counts_whatever_the_axes():
    own = goal_of("deviates=0.5")
    for shape in ((), (1,), (3,), (2, 3)):
        output = np.zeros((2, *shape))
        output.reshape(2, -1)[1, -1] = -2.0
        assert own(output, np.zeros_like(output)).tolist() == [-0.5, 1.5]


@pytest.mark.parametrize("shape", [(4,), (1,), ()])
def test_margins_of_classes_are_those_of_plica(shape):
    output = drawn(*shape)
    y = torch.arange(B) % (shape[0] if shape and shape[0] > 1 else 2)
    expected = goals.Misclassified()(output, y)
    np.testing.assert_allclose(margins(output.numpy(), y.numpy()), expected.numpy(), rtol=1e-12)


@pytest.mark.parametrize("p", [0.5, 1.0, 1.5, 2.0, math.inf])
@pytest.mark.parametrize("size", [1.0, 1e-200])
def test_norms_are_those_of_plica(p, size):
    x, x_adv = drawn(2, 3), drawn(2, 3)
    x_adv[0] = x[0]
    own = norms(p, size * x, size * x_adv)
    np.testing.assert_allclose(own, size * Lp(p)(x, x_adv).numpy(), rtol=1e-9)
    assert own[0] == 0


@pytest.mark.parametrize("group", [None, "pixel"])
def test_counts_are_those_of_plica(group):
    x = drawn(3, 2, 2)
    x_adv = torch.where(drawn(3, 2, 2) > 0.5, drawn(3, 2, 2), x)
    metric = Lp(0, group)
    p = norm_of(str(metric))
    assert p is not None
    own = norms(p, x, x_adv)
    assert own.tolist() == metric(x, x_adv).tolist()
    assert len(set(own)) > 1


def test_names_of_norms():
    assert [norm_of(text) for text in ("l2", "l1.5", "linf", "l0", "lpips", "xl2", "l2x")] == [
        2, 1.5, math.inf, 0, None, None, None,
    ]  # fmt: skip


def test_the_record_counts_what_was_repaired():
    """Prices are of all points with 8-bit neighbours that count, those that survive rounding among them."""
    task = Task("t", "m", "min-radius l2", "min-radius", "l2", None, None, "auto")
    audited = Audited(task, perturbed=5, survive=2, prices=[1.0, 1.0, 1.25, math.nan, 1.5])
    record = audited.record()
    assert (record["survive"], record["repaired"], record["price"]) == (2, 2, 1.125)
    assert "certified" not in record
    assert Audited(task).record()["repaired"] == 0
    assert Audited(task, certified=3, proved=2).record()["proved"] == 2


def test_the_record_shows_the_first_of_many_differences():
    audited = Audited(Task("t", "m", "q", "min-radius", "l2", None, None, "auto"))
    assert audited.agrees
    for number in range(30):
        audited.differ("class", f"image {number}")
    differences = audited.record()["differences"]["class"]
    assert differences["count"] == 30
    assert differences["first"][0] == "image 0"
    assert len(differences["first"]) < 30
    assert not audited.agrees


def test_a_metric_that_float64_does_not_fit_is_measured_in_float32():
    def metric(x, z):
        return ((z - x) @ torch.ones(2)).abs()

    value, tolerance = reference.distances(metric, torch.zeros(1, 2), torch.tensor([[0.25, 0.5]]))
    assert (value.tolist(), tolerance) == ([0.75], 1e-4)
    value, tolerance = reference.distances(lambda x, z: (z - x).sum(1), torch.zeros(1, 2), torch.ones(1, 2))
    assert (value.tolist(), tolerance) == ([2.0], 1e-6)


def test_a_distance_that_rounding_makes_negative_is_measured_as_0():
    for off, measured in ((-5e-5, 0.0), (-2e-4, -2e-4), (1e-9, 1e-9)):
        value, _ = reference.distances(lambda x, z, off=off: (z - x).sum(1) + off, torch.zeros(1, 2), torch.zeros(1, 2))
        assert value.tolist() == [measured]


@pytest.mark.parametrize(("shape", "classes"), [((1,), 2), ((1, 1), 2), ((1, 3), 3)])
def test_a_class_that_the_model_has_not_is_named(shape, classes):
    reference.margins(np.ones(shape), np.array([classes - 1]))
    for label in (-1, classes):
        with pytest.raises(ValueError, match=f"class {label}, and the model's classes are 0 to {classes - 1}"):
            reference.margins(np.ones(shape), np.array([label]))
