"""plica.attack: wrong arguments are refused before any work, bad images do not hurt others, nothing is left behind."""

import inspect
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import plica
from counting import Counted
from linear import linear
from plica import Held, Lp, MaxLoss, MinRadius, Status, Unsupported
from plica.api import entry
from plica.core import validation
from plica.core.domain.read_bounds import read_bounds
from plica.metrics import WeightedLp

ASK = inspect.unwrap(plica.attack)  # wrong types are the point here: past the type checker of the tests
L2 = MinRadius(Lp(2))
X, Y = torch.full((3, 2, 4), 0.5), torch.tensor([0, 1, 0])


def never(x):
    raise AssertionError("the model was run")


def refused(kind, match, model=never, x=X, y=Y, question=L2, **more):
    with pytest.raises(kind, match=match) as caught:
        ASK(model, x, y, question, **more)
    assert "the model was run" not in str(caught.value)


def spoilt(value):
    x = X.clone()
    x[1, 0, 2] = value
    return x


@pytest.mark.parametrize("value", [1.01, -0.01])
def test_pixels_outside_the_bounds(value):
    refused(ValueError, r"x must lie in bounds \[0, 1\]", x=spoilt(value))


@pytest.mark.parametrize("value", [1.0000001, -1e-4])
def test_a_pixel_that_rounding_left_outside(value):
    refused(ValueError, r"outside, as rounding leaves it; write x\.clamp\(0, 1\)", x=spoilt(value))


def test_pixels_outside_other_bounds():
    refused(ValueError, "pixels range from 0.5 to 0.5", bounds=(0.6, 1))


def test_pixels_in_0_1_within_bounds_of_8_bits_are_warned_of():
    """Radii of another box came without a word."""
    with pytest.warns(UserWarning, match=r"lie in \[0, 1\], and the bounds are \[0, 255\].*give the bounds 0 and 1"):
        plica.attack(last_class, X, Y, L2, bounds=(0, 255), gradients=5)
    for x, bounds in ((X.round(), (0, 255)), (3 * X, (0, 255)), (X, (0, math.inf))):  # dark images; no 8 bits
        plica.attack(last_class, x, Y, L2, bounds=bounds, gradients=5)


@pytest.mark.parametrize("bounds", [(1, 0), (0.5, 0.5), (0, math.nan), (-1e308, 1e308)])
def test_bounds_that_are_no_interval(bounds):
    refused(ValueError, "bounds", bounds=bounds)


@pytest.mark.parametrize(("size", "said"), [(1e20, "pixels of size 5e.19"), (1e-19, "bounds that are 1e-19 apart")])
def test_pixels_whose_squares_overflow_or_vanish(size, said):
    """Searches found nothing, and nothing was said."""
    refused(ValueError, f"x has {said}, and torch.float32 cannot hold the squares", x=size * X, bounds=(0.0, size))


@pytest.mark.parametrize("bounds", [(0,), 1, ("low", "high"), "01", (0, 10**400), None])
def test_bounds_that_are_not_two_numbers(bounds):
    refused(TypeError, "bounds must be two numbers", bounds=bounds)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool])
def test_integer_images(dtype):
    refused(TypeError, "floating-point", x=X.to(dtype))


@pytest.mark.parametrize("x", [X.numpy(), X.tolist(), None])
def test_images_that_are_no_tensor(x):
    refused(TypeError, "x must be a torch tensor", x=x)


@pytest.mark.parametrize("shape", [(3,), (0, 2, 4), (3, 0)])
def test_images_without_pixels_or_none_at_all(shape):
    refused(ValueError, "shape", x=torch.zeros(shape), y=torch.zeros(shape[0], dtype=torch.long))


@pytest.mark.parametrize("y", [Y[:2], Y[None], Y[0], torch.tensor([0, 1, 0, 1])])
def test_labels_of_wrong_length(y):
    refused(ValueError, r"y must have shape \(3,\)", y=y)


def test_a_single_image_is_told_of_the_missing_axis():
    refused(ValueError, r"write x\[None\] and y\[None\]", x=X[0], y=Y[0])


@pytest.mark.parametrize("y", [Y.int(), Y.float(), [0, 1, 0], Y.numpy()])
def test_labels_of_another_type(y):
    refused(TypeError, "y must be an int64 tensor", y=y)


@pytest.mark.parametrize(
    ("kind", "targets", "match"),
    [
        (TypeError, 1, r"targets must be an int64 tensor.* got int; for all images write torch.full\(\(3,\), 1\)"),
        (TypeError, [1, 2, 0], r"got list; write torch.as_tensor\(targets\).long\(\)"),
        (ValueError, torch.tensor([1]), r"targets must have shape \(3,\)"),
        (ValueError, torch.tensor([1, 0, 0]), r"targets must differ from y, but targets\[2\]"),
    ],
)
def test_targets(kind, targets, match):
    refused(kind, match, targets=targets)


@pytest.mark.parametrize("radius", [-0.1, math.nan, torch.tensor([0.1, -0.1, 0.1])])
def test_a_negative_radius(radius):
    refused(ValueError, "radius", question=MaxLoss(Lp(2), radius))


def test_radii_of_another_shape():
    for radius in (torch.ones(2), torch.ones(1), torch.ones(3, 1)):
        question = MaxLoss(Lp(2), 1.0)
        object.__setattr__(question, "radius", radius)  # past the type checker
        refused(ValueError, r"shape \(3,\)", question=question)


def test_a_radius_is_not_rounded_to_float32():
    assert validation.radii(MaxLoss(Lp(2), 8 / 255), torch.zeros(2, 3)).tolist() == [8 / 255] * 2


@pytest.mark.parametrize(
    ("metric", "bounds", "largest"),
    [
        (Lp(math.inf), (0.0, 1.0), 1),
        (Lp(2), (-1.0, 1.0), 2 * math.sqrt(8)),
        (Held(Lp(1), torch.arange(8).view(2, 4) < 5), (torch.zeros(2, 4), torch.full((2, 4), 2.0)), 6),
    ],
)
def test_a_radius_beyond_the_width_of_the_bounds_is_warned_of(metric, bounds, largest):
    """8 was taken for a radius in pixels between 0 and 1, where 8/255 was meant."""
    plica.attack(last_class, X, Y, MaxLoss(metric, largest), bounds=bounds)  # a warning would be an error
    with pytest.warns(UserWarning, match=rf"radius {1.01 * largest:g} is .* at most {largest:.4g}, and"):
        plica.attack(last_class, X, Y, MaxLoss(metric, 1.01 * largest), bounds=bounds)


def last_class(x):
    """Logits that do not depend on x but for their gradient."""
    return 0 * x.flatten(1)[:, :3] + torch.tensor([0.0, 0.0, 1.0])


@pytest.mark.filterwarnings("ignore:The radius")
@pytest.mark.parametrize("p", [0.5, 1, 1.5, 2, math.inf])
@pytest.mark.parametrize("method", ["auto", "pwcf", "curved", "pgd", "apgd-ce"])
def test_a_radius_without_end_breaks_what_a_large_one_breaks(method, p):
    """auto broke nothing within inf that radius 10 broke, and its status was SUCCEEDED; apgd-ce nothing within 1e30."""
    case = linear()
    radii = (math.inf, 1e30, float(validation.reach(Lp(p), case.x, read_bounds((0, 1))).max()))
    try:
        *endless, large = (
            plica.attack(case.model, case.x, case.y, MaxLoss(Lp(p), r), method=method, gradients=10) for r in radii
        )
    except Unsupported:
        pytest.skip("the method has no such distance")
    for unbounded in endless:
        assert unbounded.success.tolist() == large.success.tolist()
        assert unbounded.success.sum() >= (0 if p < 1 else len(case.x) - 1)
        assert [s is Status.SUCCEEDED for s in unbounded.status] == unbounded.success.tolist()


def test_no_point_of_the_box_is_out_of_reach():
    x, bounds = torch.rand(20, 12, generator=torch.Generator().manual_seed(0)), read_bounds((0, 1))
    points = torch.cat([torch.rand(20, 12), torch.rand(20, 12).round()])
    weights = torch.rand(12) + 0.1
    weights[3] = math.inf
    for metric in (Lp(1), Lp(2), Lp(0.5), 0.5 * Lp(math.inf), WeightedLp(2, weights), Held(Lp(3), weights.isinf())):
        far = validation.reach(metric, x, bounds)
        for point in points:
            other = torch.where(weights.isinf(), x, point) if metric.fixed_pixels() is not None else point.expand_as(x)
            assert bool((metric(x, other) <= far).all())
        corner = torch.where(x > 0.5, torch.zeros(()), torch.ones(()))
        corner = torch.where(weights.isinf(), x, corner) if metric.fixed_pixels() is not None else corner
        assert torch.allclose(metric(x, corner).double(), far, rtol=2e-6)
    assert validation.reach(lambda x, z: x.new_zeros(len(x)), x, bounds).tolist() == [validation.LARGEST] * 20


def test_a_point_that_the_judge_rejects_is_no_success_in_the_status():
    case = linear()
    result = plica.attack(case.model, case.x, case.y, MaxLoss(Lp(2), 3.0), gradients=20)
    assert set(entry._confirmed(result)) == {Status.SUCCEEDED}
    refused = replace(result, success=result.success & False)
    assert set(entry._confirmed(refused)) == {Status.REJECTED}


@pytest.mark.parametrize("radius", [1 + 1j, torch.tensor([1 + 1j, 1, 1]), True, "0.5", None])
def test_a_radius_that_is_no_real_number(radius):
    question = MaxLoss(Lp(2), 1.0)
    object.__setattr__(question, "radius", radius)  # past the type checker
    refused(TypeError, "radius=.* must be a real number", question=question)


@pytest.mark.parametrize("p", [1e-320, 1e39, 10**400])
def test_a_power_that_floats_do_not_have(p):
    with pytest.raises(ValueError, match=r"Lp\(p\)"):
        Lp(p)


def test_a_batch_size_of_any_length():
    model, x, y = nn.Sequential(nn.Flatten(), nn.Linear(8, 2)), X, Y
    found = [ASK(model, x, y, L2, gradients=3, batch_size=size) for size in (3, 10**30)]
    assert torch.equal(found[0].x_adv, found[1].x_adv)


def test_questions_that_are_none():
    for question in (Lp(2), None, MinRadius, "l2"):
        refused(TypeError, "MinRadius", question=question)
    with pytest.raises(ValueError, match="margin, ce, dlr"):
        MaxLoss(Lp(2), 1.0, loss="cross")
    with pytest.raises(TypeError, match="metric"):
        MinRadius("l2")


@pytest.mark.parametrize("name", ["gradients", "seed", "batch_size", "draws"])
def test_numbers(name):
    bools = (True, np.bool_(True), torch.tensor(True), np.array(True))
    for value in (1.5, 2.0, np.float32(2), torch.tensor(2.0), "10", np.arange(2), torch.arange(2), *bools):
        refused(TypeError, f"{name} must be a whole number", **{name: value})
    refused(ValueError, f"{name} must be at least", **{name: -1})
    if name != "seed":
        refused(ValueError, f"{name} must be at least 1, got 0", **{name: 0})


@pytest.mark.parametrize("kind", [np.int64, np.uint8, np.array, torch.tensor], ids=lambda kind: kind.__name__)
def test_whole_numbers_of_numpy_and_torch_are_taken(kind):
    """They were refused: "must be a whole number, got np.int64(7)"."""
    model, plain = nn.Sequential(nn.Flatten(), nn.Linear(8, 2)), dict(gradients=7, seed=3, batch_size=2, levels=200)
    found = ASK(model, X, Y, L2, **plain)
    other = ASK(model, X, Y, L2, **{name: kind(value) for name, value in plain.items()}, draws=kind(2))
    assert torch.equal(found.x_adv, other.x_adv)


def test_what_is_called_with_the_progress_is_checked_before_any_work():
    refused(TypeError, "on_progress must be a function of a plica.Progress, got 3", on_progress=3)


def test_the_error_for_an_unknown_method_names_a_similar_one():
    refused(ValueError, "did you mean 'pwcf'", method="pcwf")
    refused(ValueError, "auto, pwcf", method="no such thing")


def bad_metric(x, z):
    return (z - x).abs()


def similarity(x, z):
    return 1 - (z - x).flatten(1).norm(dim=1)


def broken(x, z):
    raise KeyError("features")


@pytest.mark.parametrize(
    ("metric", "match"),
    [
        (bad_metric, r"one distance for each image, shape \(2,\), got \(2, 2, 4\)"),
        (lambda x, z: (z - x).norm(), r"got \(\)"),
        (lambda x, z: 0.0, "got float"),
        (similarity, "0 from an image to itself"),
        (lambda x, z: (z - x).flatten(1).norm(dim=1) * math.nan, "0 from an image to itself"),
        (broken, "raised KeyError"),
    ],
)
def test_metrics_that_are_none(metric, match):
    refused(ValueError, match, question=MinRadius(metric))


def test_a_method_that_cannot_treat_the_metric_says_which_can():
    case = linear()
    with pytest.raises(Unsupported, match="pwcf"):
        ASK(case.model, case.x, case.y, MinRadius(lambda x, z: (z - x).flatten(1).norm(dim=1)), method="radius")


def constant(*row):
    return lambda x: torch.tensor(row, dtype=x.dtype).expand(len(x), -1) + 0 * x.flatten(1)[:, :1]


@pytest.mark.parametrize("label", [-1, 2, 100])
@pytest.mark.parametrize("which", ["y", "targets"])
def test_labels_outside_the_classes(label, which):
    labels = torch.tensor([1, label, 1])
    more = {"y": labels} if which == "y" else {"targets": labels, "y": torch.zeros_like(labels)}
    refused(ValueError, f"{which} must hold classes from 0 to 1", model=constant(1.0, 0), **more)


def test_a_single_logit_has_two_classes():
    refused(ValueError, "so y must hold 0 and 1", model=constant(1.0), y=torch.full((3,), 2))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_model_that_is_nowhere_finite(value):
    refused(ValueError, "nan or inf for every image", model=constant(value, 0.0))


class Modes(nn.Module):
    """Submodules in modes of their own, and two that behave otherwise while training."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.body = nn.Sequential(
                nn.Flatten(), nn.Linear(8, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 3)
            )
        self.body.train()
        self.body[2].eval()
        self.training = False

    def forward(self, x):
        return self.body(x)


def modes(net):
    return [m.training for m in net.modules()]


def test_the_model_is_run_in_eval_mode_and_left_as_it_was():
    net = Modes()
    before, state = modes(net), {k: v.clone() for k, v in net.state_dict().items()}
    x = torch.rand(6, 2, 4, generator=torch.Generator().manual_seed(1))
    y = Modes().eval()(x).argmax(1)
    found = plica.attack(net, x, y, L2)
    assert modes(net) == before
    assert set(before) == {True, False}
    assert all(torch.equal(state[k], v) for k, v in net.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in net.parameters())
    again = plica.attack(net.eval(), x, y, L2)
    assert torch.equal(found.x_adv, again.x_adv)


def test_the_modes_are_restored_when_the_model_raises():
    class Raising(Modes):
        def forward(self, x):
            raise RuntimeError("out of memory")

    net = Raising()
    before = modes(net)
    with pytest.raises(RuntimeError, match="out of memory"):
        plica.attack(net, X, Y, L2)
    assert modes(net) == before


METHODS = pytest.mark.parametrize("method", ["pwcf", "auto"])


def same(found, rows, other):
    """Rows of `found` are the answers of `other`."""
    for name in ("x_adv", "distance", "success", "gradients", "forwards", "margin", "prediction"):
        assert torch.equal(getattr(found, name)[rows], getattr(other, name)), name
    assert [found.status[i] for i in rows] == other.status


@METHODS
@pytest.mark.parametrize("question", [L2, MaxLoss(Lp(2), 0.2)], ids=str)
def test_images_that_are_not_finite_end_and_the_others_arrive(method, question):
    """Image 1 is not finite where it is; image 4 is not finite wherever else one looks."""
    case = linear(b=6, shape=(48,), classes=3)
    case.model.w[0] = 0  # the first pixel marks the two images, and nothing moves it by much
    x = case.x.clone()
    x[1, 0], x[4, 0] = 0.95, 0.9
    y = case.model(x).argmax(1)

    def model(z):
        first = z[:, :1]
        return torch.where((first > 0.7) & (z != x[4]).any(1, keepdim=True), math.nan, case.model(z))

    found = plica.attack(model, x, y, question, method=method)
    assert found.status[1] == Status.NOT_FINITE
    assert found.status[4] != Status.MISCLASSIFIED
    bad, good = [1, 4], [0, 2, 3, 5]
    for i in bad:  # what is far from image 4, without its mark, may be found
        assert not found.success[i] or (i == 4 and found.x_adv[i, 0] <= 0.7)
        assert found.success[i] or (found.distance[i].isinf() and torch.equal(found.x_adv[i], x[i]))
    assert found.success[good].any()
    same(found, good, plica.attack(model, x[good], y[good], question, method=method))


@METHODS
def test_a_plain_function(method):
    case = linear()
    found = plica.attack(lambda x: case.model(x), case.x, case.y, L2, method=method)
    torch.testing.assert_close(found.distance, case.radius(2), rtol=1e-3, atol=0)  # 64 roundings of the margin


@METHODS
def test_float64(method):
    case = linear(dtype=torch.float64)
    found = plica.attack(case.model, case.x, case.y, L2, method=method)
    assert found.x_adv.dtype == torch.float64
    torch.testing.assert_close(found.distance, case.radius(2), rtol=1e-3, atol=0)
    assert (found.distance >= case.radius(2)).all()


def test_images_of_one_axis():
    case = linear(shape=(30,))
    assert plica.attack(case.model, case.x, case.y, L2).success.all()


@METHODS
@pytest.mark.parametrize("batch_size", [None, 1])
def test_progress_only_goes_forward(method, batch_size):
    case, seen = linear(), []
    y = case.y.clone()
    y[0] = 1 - y[0]  # done from the start
    found = plica.attack(case.model, case.x, y, L2, method=method, batch_size=batch_size, on_progress=seen.append)
    assert len(seen) > 0
    assert {p.total for p in seen} == {6}
    for name in ("done", "gradients"):
        values = [getattr(p, name) for p in seen]
        assert values == sorted(values), name
    assert seen[0].done >= 1
    assert seen[-1].done <= 6
    assert seen[-1].gradients <= int(found.gradients.sum())
    assert seen[-1].radius == pytest.approx(float(case.radius(2)[1:].median()), rel=1e-3)


def curved():
    with torch.random.fork_rng():
        torch.manual_seed(3)
        net = nn.Sequential(nn.Flatten(), nn.Linear(48, 32), nn.ReLU(), nn.Linear(32, 5))
    x = torch.rand(5, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    return net.eval(), x, net(x).argmax(1)


@METHODS
def test_the_seed(method):
    first, again, other = (plica.attack(*curved(), MinRadius(Lp(1)), method=method, seed=seed) for seed in (7, 7, 8))
    same(first, list(range(5)), again)
    assert not torch.equal(first.x_adv, other.x_adv)
    torch.testing.assert_close(first.distance, other.distance, rtol=0.2, atol=0)  # other points, not other radii


def test_the_random_numbers_of_the_caller_are_left_alone():
    state = torch.random.get_rng_state()
    plica.attack(*curved(), L2)
    assert torch.equal(state, torch.random.get_rng_state())


def test_what_an_answer_holds():
    net, x, y = curved()
    before = x.clone()
    radius = plica.attack(net, x, y, L2, method="pwcf").distance.median().item()
    for question in (L2, MaxLoss(Lp(2), radius)):
        found = plica.attack(net, x, y, question, method="pwcf")
        assert len(found) == 5
        assert found.success.any()
        assert torch.equal(x, before)
        assert found.x_adv.data_ptr() != x.data_ptr()
        assert not found.x_adv.requires_grad
        assert torch.equal(found.prediction, net(found.x_adv).argmax(1))
        assert torch.equal(found.success, found.prediction != y)
        assert torch.equal(found.success, found.distance.isfinite())
        assert torch.equal(found.success, found.violation == 0)
        for name in ("distance", "violation", "stationarity"):
            assert getattr(found, name).dtype == torch.float64
        expected = torch.where(found.success, Lp(2)(x.double(), found.x_adv.double()), math.inf)
        assert torch.equal(found.distance, expected)
        assert all(isinstance(status, Status) for status in found.status)
        assert (found.seconds > 0).all()


def test_gradients_may_be_switched_off_by_the_caller():
    net, x, y = curved()
    with torch.no_grad():
        inside = plica.attack(net, x, y, L2)
    assert torch.equal(inside.x_adv, plica.attack(net, x, y, L2).x_adv)


def test_images_that_require_gradients():
    net, x, y = curved()
    found = plica.attack(net, x.clone().requires_grad_(), y, L2)
    assert torch.equal(found.x_adv, plica.attack(net, x, y, L2).x_adv)
    assert not found.x_adv.requires_grad


@pytest.mark.parametrize(
    "model",
    [
        lambda x: x,
        lambda x: (x.flatten(1)[:, :2], None),
        lambda x: x.flatten(1)[:1, :2],
        lambda x: x.flatten(1)[:, :2].repeat(2, 1),
        lambda x: x.flatten(1)[:, :2].long(),
        lambda x: x.flatten(1)[:, :2].numpy(),
        lambda x: None,
    ],
    ids=["3-d", "tuple", "one row", "too many rows", "integers", "array", "none"],
)
def test_a_model_whose_output_is_no_logits(model):
    refused((ValueError, TypeError), r"model.*\(b, classes\)", model=model)


def test_losses_that_need_more_classes():
    two, three = constant(1.0, 0), constant(2.0, 1, 0)
    zeros = torch.zeros_like(Y)
    refused(ValueError, "dlr.*3 classes", model=two, y=zeros, question=MaxLoss(Lp(2), 0.1, loss="dlr"))
    refused(
        ValueError, "dlr.*4 classes", model=three, y=zeros, targets=zeros + 1, question=MaxLoss(Lp(2), 0.1, loss="dlr")
    )


@pytest.mark.parametrize("targeted", [False, True])
def test_all_images_answered_at_once(targeted):
    """A generous radius and one other class to try: nothing is left to do after the first step."""
    case = linear(classes=3 if targeted else 2)
    found = plica.attack(case.model, case.x, case.y, MaxLoss(Lp(2), 0.5), targets=1 - case.y if targeted else None)
    assert found.success.all()


class Even(nn.Module):
    """Logits (4, 4 + lead, 0) at x = 1/2, and class 1 more and more likely as the first pixel grows."""

    def __init__(self, lead):
        super().__init__()
        self.lead = nn.Parameter(torch.tensor([0.0, lead, -4.0]), requires_grad=False)

    def forward(self, x):
        rise = x.flatten(1)[:, :1] - 0.5
        return 4 + self.lead + torch.cat([0 * rise, 10 * rise, 0 * rise], 1)


@pytest.mark.parametrize("method", ["auto", "pwcf"])
def test_a_margin_made_of_rounding_is_no_radius_of_zero(method):
    """A lead of four units of rounding: another order of summation may undo it."""
    question, x, y = MinRadius(Lp(2)), X[:1], torch.tensor([0])
    found = plica.attack(Even(2e-6), x, y, question, method=method, gradients=30)
    assert found.status[0] != Status.MISCLASSIFIED
    assert found.success.all()
    assert 0 < float(found.distance) < 1e-2
    assert plica.attack(Even(1e-3), x, y, question, method=method).distance.item() == 0


class OnlyBetween(nn.Module):
    """Class 1 from x_0 = 0.6 on, but in float64 never: no point is an answer."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.0, 10.0]), requires_grad=False)

    def forward(self, x):
        rise = x.flatten(1)[:, :1] - 0.6
        return rise * self.weight if x.dtype == torch.float32 else -(rise**2) * self.weight


@pytest.mark.parametrize(
    ("method", "question"), [("auto", L2), ("auto", MaxLoss(Lp(2), 0.3)), ("pwcf", MaxLoss(Lp(2), 0.3))]
)
def test_beside_an_image_whose_point_was_refused_stands_what_holds_of_the_image(method, question):
    found = plica.attack(OnlyBetween(), X[:2], torch.tensor([0, 0]), question, method=method)
    assert not found.success.any()
    assert torch.equal(found.x_adv, X[:2])
    assert found.distance.isinf().all()
    assert found.prediction.tolist() == [0, 0]
    assert found.margin.tolist() == pytest.approx([-1, -1], rel=1e-6)
    assert torch.equal(found.violation, -found.margin)


@pytest.mark.parametrize("gradients", [15, 20, 25, 30, 35, 40, 60])
@pytest.mark.parametrize("question", [L2, MaxLoss(Lp(2), 0.3)], ids=["min-radius", "max-loss"])
def test_points_refused_again_and_again_cost_no_more_than_a_fifth(question, gradients):
    counted = Counted(OnlyBetween())
    found = plica.attack(counted, X[:1], torch.tensor([0]), question, gradients=gradients)
    assert counted.ledger.forwards == int(found.forwards) <= gradients / 5


@pytest.mark.parametrize("gradients", [10, 15, 20, 25, 30, 40])
@pytest.mark.parametrize("per_feature", [False, True], ids=["two numbers", "bounds of features"])
@pytest.mark.parametrize("method", ["auto", "pwcf"])
@pytest.mark.parametrize("question", [MinRadius(Lp(2)), MaxLoss(Lp(2), 0.1)], ids=["min-radius", "max-loss"])
def test_every_run_of_the_model_is_counted(method, per_feature, gradients, question):
    """By a model that counts for itself, for one image: gradients, and forward runs in either precision."""
    case = linear(b=1)
    bounds = (torch.full((3, 4, 4), -0.25), torch.full((3, 4, 4), 1.5)) if per_feature else (0.0, 1.0)
    counted = Counted(case.model)
    found = plica.attack(counted, case.x, case.y, question, method=method, gradients=gradients, bounds=bounds)
    assert counted.ledger.gradients == int(found.gradients) <= gradients
    assert counted.ledger.forwards == int(found.forwards)
    # at the features the points are measured once more: two runs, and one on which the copy in float64 is tried
    assert int(found.forwards) <= gradients / 5 + 3 * per_feature


def test_grey_images_under_a_distance_of_colours():
    def colours(x, x_adv):
        if x.shape[1] != 3:
            raise RuntimeError("three channels please")
        return (x - x_adv).flatten(1).norm(dim=1)

    grey = torch.full((2, 1, 4, 4), 0.5)
    refused(ValueError, "takes images of three channels.* a grey image is repeated by", x=grey, y=Y[:2],
            question=MinRadius(colours))  # fmt: skip


def test_a_bundled_distance_without_gradient_does_not_ask_for_other_code():
    class Bundled:
        def __call__(self, x, x_adv):
            return (x - x_adv).flatten(1).square().sum(1).sqrt() * (x.amax() - x.amin()).sqrt()

    Bundled.__module__ = "plica.metrics.bundled"
    refused(ValueError, "leave such images out, or use another distance", question=MinRadius(Bundled()))


@pytest.mark.parametrize(("gradients", "spent"), [(1, "1 gradient"), (2, "2 gradients")])
def test_a_budget_that_is_over_before_the_first_point_is_said_before_any_work(gradients, spent):
    case = linear()
    with pytest.warns(UserWarning, match=f"A budget of {spent} is over before most searches come to a point; give 20"):
        plica.attack(case.model, case.x, case.y, MinRadius(Lp(2)), gradients=gradients)
    least = plica.attack(case.model, case.x, case.y, MinRadius(Lp(2)), gradients=3)  # a warning would be an error
    assert least.success.all()


@pytest.mark.parametrize(("name", "most"), [("gradients", 10**9), ("seed", 10**12)])
def test_numbers_that_64_bits_do_not_hold(name, most):
    case = linear()
    for value in (most + 1, 10**30):
        with pytest.raises(ValueError, match=f"{name} must be at most {most:,}, got 1"):
            plica.attack(case.model, case.x, case.y, MinRadius(Lp(2)), **{name: value})
    longest = plica.attack(case.model, case.x, case.y, MaxLoss(Lp(2), 1.0), method="pwcf", seed=10**12, gradients=5)
    assert len(longest.status) == len(case.x)


@pytest.mark.parametrize(("metric", "radius", "fixed"), [(Lp(2), 0.0, True), (Lp(0), 0.5, True), (Lp(0), 1.0, False)])
def test_an_image_alone_in_its_ball_is_not_attacked(metric, radius, fixed):
    x, y = torch.tensor([[0.4, 0.5]]), torch.tensor([1])
    found = plica.attack(lambda z: z, x, y, MaxLoss(metric, radius), gradients=5)
    assert (found.status[0] is plica.Status.FIXED) == fixed
    assert found.success.tolist() == [not fixed]
    assert bool(found.gradients == 0) == fixed
