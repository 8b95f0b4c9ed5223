"""Feature vectors with bounds of their own, and features that must not move."""

import inspect
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from torch import nn

import plica
from plica.core.domain.bounds import Bounds, check_bounds
from plica.core.domain.levels import check_levels, level_grid
from plica.core.domain.units import judge_at_x, unit_question
from plica.core.goals import Goal
from plica.core.model.counted import CountedModel
from plica.core.model.second_run import in_float64

N = 12
SPAN = torch.logspace(-1, 2, N)  # from a tenth to a hundred
LOW = torch.linspace(-3, 3, N)
HIGH = LOW + SPAN


class Linear(nn.Module):
    """Class 1 where w.(x - middle) > 0."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.linspace(0.5, 1.5, N) / SPAN, requires_grad=False)
        self.middle = nn.Parameter(LOW + SPAN / 2, requires_grad=False)

    def forward(self, x):
        s = (x - self.middle) @ self.w
        return torch.stack([-s, s], 1)


def features(count=6):
    """Points of class 0, a little away from the boundary and from the walls."""
    draw = torch.Generator().manual_seed(0)
    u = 0.45 + 0.02 * torch.rand(count, N, generator=draw)
    return LOW + SPAN * u, torch.zeros(count, dtype=torch.long)


def exact(x, p, held=()):
    """|margin| / (2 ||w||_q) over the features that may move: the walls are far enough for p = 2."""
    model = Linear().double()
    keep = torch.tensor([i not in held for i in range(N)])
    s = -((x.double() - model.middle) @ model.w)
    q = {1: float("inf"), 2: 2, float("inf"): 1}[p]
    return s / torch.linalg.vector_norm(model.w[keep], ord=q)


def check(result, x, low, high):
    """What is claimed holds at x itself."""
    fine = in_float64(Linear())
    assert fine is not None
    assert result.success.all()
    assert bool((result.x_adv >= low).all())
    assert bool((result.x_adv <= high).all())
    assert bool((fine(result.x_adv.double()).argmax(1) == 1).all())
    assert bool((Linear()(result.x_adv).argmax(1) == 1).all())


@pytest.mark.parametrize("method", ["auto", "pwcf"])
def test_the_radius_of_a_linear_model_in_the_units_of_its_features(method):
    x, y = features()
    result = plica.attack(
        Linear(), x, y, plica.MinRadius(plica.Lp("inf")), bounds=(LOW, HIGH), method=method, gradients=200
    )
    check(result, x, LOW, HIGH)
    measured = (result.x_adv.double() - x.double()).abs().amax(1)
    assert torch.allclose(result.distance, measured, rtol=1e-12)
    # the narrow features meet their walls, so the radius exceeds that without walls and moves the wide ones further
    assert bool((result.distance >= exact(x, float("inf")) * (1 - 1e-6)).all())


def best_with_walls(x, held):
    """The least t with sum_i w_i min(t, room_i) = -s: bisection in float64 (l_inf, features that may move)."""
    model = Linear().double()
    room = HIGH.double() - x.double()
    room[:, list(held)] = 0
    s = -((x.double() - model.middle) @ model.w)
    low, high = torch.zeros(len(x)).double(), torch.full((len(x),), 100.0).double()
    for _ in range(60):
        t = (low + high) / 2
        enough = (torch.minimum(t[:, None], room) * model.w).sum(1) >= s
        low, high = torch.where(enough, low, t), torch.where(enough, t, high)
    return high


@pytest.mark.parametrize("held", [(), (0, 5, 11)])
@pytest.mark.parametrize("by", ["bounds", "weights"])
def test_walls_and_features_that_must_not_move(held, by):
    x, y = features()
    low, high, weights = LOW.clone(), HIGH.clone(), torch.ones(N)
    x[:, list(held)] = (LOW + 0.46 * SPAN)[list(held)]
    for i in held:
        if by == "bounds":
            low[i] = high[i] = x[0, i]
        else:
            weights[i] = torch.inf
    metric = plica.Lp("inf") if by == "bounds" or not held else plica.WeightedLp("inf", weights)
    result = plica.attack(Linear(), x, y, plica.MinRadius(metric), bounds=(low, high), gradients=100)
    check(result, x, low, high)
    assert torch.equal(result.x_adv[:, list(held)], x[:, list(held)])
    best = best_with_walls(x, held)
    assert bool((result.distance >= best * (1 - 1e-6)).all())  # roundings of float32 pixels
    assert bool((result.distance <= best * 1.02).all())  # where 100 gradients end


def test_a_radius_is_kept_to_the_last_bit():
    x, y = features()
    radius = 1.02 * best_with_walls(x, ())
    result = plica.attack(Linear(), x, y, plica.MaxLoss(plica.Lp("inf"), radius), bounds=(LOW, HIGH), gradients=100)
    check(result, x, LOW, HIGH)
    assert bool((result.distance <= radius).all())
    small = plica.attack(Linear(), x, y, plica.MaxLoss(plica.Lp("inf"), 0.9 * radius), bounds=(LOW, HIGH), gradients=50)
    assert not small.success.any()
    assert torch.equal(small.x_adv, x)


def test_any_other_distance_is_asked_at_the_features():
    x, y = features()
    result = plica.attack(
        Linear(), x, y, plica.MinRadius(lambda a, b: ((b - a) / SPAN).abs().sum(1)), bounds=(LOW, HIGH), gradients=40
    )
    check(result, x, LOW, HIGH)
    assert torch.allclose(result.distance, ((result.x_adv - x).double() / SPAN).abs().sum(1), rtol=1e-6)


def test_points_that_are_wrong_from_the_start_and_pictures():
    x, y = features()
    result = plica.attack(Linear(), x, 1 - y, plica.MinRadius(plica.Lp(2)), bounds=(LOW, HIGH), gradients=10)
    assert result.distance.tolist() == [0] * 6
    assert torch.equal(result.x_adv, x)
    model = nn.Sequential(nn.Flatten(), Linear())
    shaped = [t.view(*t.shape[:-1], 3, 2, 2) for t in (x, LOW, HIGH)]
    flat = plica.attack(Linear(), x, y, plica.MinRadius(plica.Lp(2)), bounds=(LOW, HIGH), gradients=60)
    result = plica.attack(model, shaped[0], y, plica.MinRadius(plica.Lp(2)), bounds=tuple(shaped[1:]), gradients=60)
    assert torch.allclose(result.distance, flat.distance, rtol=1e-5)


@pytest.mark.parametrize(
    ("bounds", "said"),
    [
        ((LOW[:5], HIGH[:5]), "of an image's shape"),
        ((HIGH, LOW), "low <= high"),
        ((LOW, HIGH * torch.inf), "finite"),
        ((LOW, LOW + 0.1 * SPAN), "outside its bounds in feature 0"),
    ],
)
def test_bounds_that_are_none(bounds, said):
    x, y = features()
    with pytest.raises(ValueError, match=said):
        plica.attack(Linear(), x, y, plica.MinRadius(plica.Lp(2)), bounds=bounds)


def test_bounds_that_are_arrays():
    for bounds in ((LOW.numpy(), HIGH.numpy()), (LOW.tolist(), HIGH.tolist())):
        with pytest.raises(TypeError, match=r"got \(.*; write torch\.as_tensor.* around arrays"):
            check_bounds(bounds, features()[0])


@pytest.mark.parametrize(
    ("kind", "x", "said"),
    [
        (TypeError, features()[0].numpy(), "x must be a torch tensor of images, got ndarray"),
        (TypeError, features()[0].long(), "x must hold floating-point pixels, got torch.int64"),
        (ValueError, features()[0][0], "x must have shape"),
        (ValueError, features()[0] * torch.nan, "image 0 has nan pixels"),
    ],
)
def test_bounds_of_features_do_not_spare_x_its_checks(kind, x, said):
    with pytest.raises(kind, match=said):
        inspect.unwrap(plica.attack)(Linear(), x, features()[1], plica.MinRadius(plica.Lp(2)), bounds=(LOW, HIGH))


def test_the_end_of_an_attack_is_given_in_features():
    x, y = features()
    question = plica.MaxLoss(plica.Lp("inf"), 0.05)
    result = plica.attack(Linear(), x, y, question, bounds=(LOW, HIGH), method="pwcf", gradients=20)
    assert not result.success.any()
    assert bool(((result.end - x).abs() <= 2 * 0.05).all())  # it may miss the radius a little


def test_units_and_back():
    x, _ = features()
    bounds = check_bounds((LOW, HIGH), x)
    assert torch.allclose(bounds.from_units(bounds.to_units(x)), x, rtol=1e-5, atol=1e-5)


class OffTheGrid(Linear):
    """In float64 class 1 only where feature 0 is no number of float32, and so at no point that can be returned."""

    def forward(self, x):
        logits = super().forward(x)
        if x.dtype == torch.float64:
            returnable = x[:, :1] == x[:, :1].float().double()
            logits = torch.where(returnable, logits.new_tensor([1.0, 0.0]), logits)
        return logits


def test_a_point_that_the_judge_refuses_at_the_features_is_no_answer():
    """In units of the bounds it is one, also in float64."""
    x, y = features()
    result = plica.attack(OffTheGrid(), x, y, plica.MinRadius(plica.Lp(2)), bounds=(LOW, HIGH))
    assert not result.success.any()
    assert result.distance.isinf().all()
    assert torch.equal(result.x_adv, x)
    assert torch.equal(result.prediction, y)
    assert torch.allclose(result.margin, -2 * exact(x, 2) * torch.linalg.vector_norm(Linear().w.double()), rtol=1e-4)
    assert torch.allclose(result.violation, -result.margin)


def judged(model, x, y, bounds, u):
    """What becomes of a hand-made answer u in units of the bounds, and the forward runs that this costs."""
    answer = plica.attack(model, x, y, plica.MinRadius(plica.Lp(2)), gradients=1, bounds=bounds.pair)
    sure = torch.ones(len(x), dtype=torch.bool)
    answer = replace(answer, x_adv=u, success=sure, distance=torch.ones(len(x)).double())
    result = judge_at_x(answer, CountedModel(model, len(x)), x, Goal(y), plica.Lp(2), None, bounds)
    return result, result.forwards - answer.forwards


def test_what_did_not_move_in_units_keeps_its_bits():
    """Units and back change most features by a rounding."""
    x, y = features(40)
    x = x + SPAN * 0.1 * torch.rand(40, N, generator=torch.Generator().manual_seed(1)) * (torch.arange(N) > 1)
    bounds = check_bounds((LOW, HIGH), x)
    assert (bounds.from_units(bounds.to_units(x)) != x)[:, 2:].any(0).sum() > N / 2
    model, u = Linear(), bounds.to_units(x)
    model.w[2:] = 0
    u[:, :2] += 0.2
    result, _ = judged(model, x, y, bounds, u)
    assert result.success.all()
    assert (result.x_adv[:, :2] != x[:, :2]).all()
    assert torch.equal(result.x_adv[:, 2:], x[:, 2:])


def test_a_feature_at_its_wall_is_inside_to_the_bit():
    """low + (high - low) is above high by a rounding for some bounds, and for those all are taken here."""
    draw = torch.Generator().manual_seed(0)
    low, high = (10 * torch.rand(2, 4000, generator=draw)).sort(0).values
    beyond = low + (high - low) > high
    low, high = low[beyond], high[beyond]
    assert len(low) > 20

    class Sum(nn.Module):
        def forward(self, x):
            s = ((x - low) / (high - low)).sum(1) - (len(low) - 0.01)
            return torch.stack([-s, s], 1)

    x = (low + 0.5 * (high - low))[None]
    result, _ = judged(Sum(), x, torch.tensor([0]), check_bounds((low, high), x), torch.ones_like(x))
    assert result.success.all()
    assert torch.equal(result.x_adv[0], high)


@pytest.mark.parametrize("p", [1, 2, "inf"])
def test_rounding_leads_no_point_out_of_its_radius(p):
    """Points on the sphere in units, their distances rounded to float32, are inside it at the features in float64."""
    draw = torch.Generator().manual_seed(0)
    high = torch.linspace(0.5, 2, N)
    x = high * torch.rand(500, N, generator=draw)
    bounds, metric = check_bounds((torch.zeros(N), high), x), plica.Lp(p)
    size = 0.5 + torch.rand(500, generator=draw, dtype=torch.float64)
    unit, radius = unit_question(plica.MaxLoss(metric, size), size, bounds)
    u = bounds.to_units(x)
    step = torch.randn(500, N, generator=draw)
    for _ in range(5):
        step *= (radius / unit.metric(u, u + step))[:, None]
    v = torch.where((unit.metric(u, u + step) <= radius)[:, None], u + step, u)
    there = metric(x.double(), bounds.from_units(v).double())
    assert (there > 0.99 * size).sum() > 100
    assert (there <= size).all()


@pytest.mark.parametrize("short", [0.0, 4e-4, 2e-3])
def test_a_point_refused_at_the_features_is_enlarged_once_by_a_thousandth(short):
    """It falls short of the boundary by a share of the way."""
    x, y = features()
    bounds, model = check_bounds((LOW, HIGH), x), Linear()
    share = -((x - model.middle) @ model.w) / (SPAN @ model.w)  # of their ranges, by which all features move
    step = (share * (1 + 1e-4 - short))[:, None] * SPAN
    result, runs = judged(model, x, y, bounds, bounds.to_units(x + step))
    assert result.success.all() == (short < 1e-3)
    if short < 1e-3:
        enlarged = 1.001 if short else 1.0
        assert torch.allclose(result.distance.float(), step.norm(dim=1) * enlarged, rtol=2e-5)
    else:
        assert torch.equal(result.x_adv, x)
        assert result.distance.isinf().all()
    looks = {0.0: 2, 4e-4: 4, 2e-3: 6}[short]  # in either precision: the point, enlarged, and the image
    assert runs.tolist() == [looks] * 6


@pytest.mark.parametrize("pair", [(-0.1, 1.1), (-0.3, 1.2), (-0.37, 1.91)])
@pytest.mark.parametrize("levels", [None, 37])
def test_points_at_bounds_that_float32_rounds_are_inside(pair, levels):
    """Two numbers are what tensors of them are."""

    class Sums(torch.nn.Module):
        def forward(self, x):
            sums = x @ torch.tensor([1.0, 0.1, 0.1])  # of which the first pixel is moved to its bound
            return torch.stack([sums, torch.full_like(sums, pair[1] + 0.12)], 1)

    x = torch.full((1, 3), 0.5)
    question = plica.MinRadius(plica.Lp(1))
    result = plica.attack(Sums(), x, torch.tensor([1]), question, bounds=pair, levels=levels, gradients=20)
    assert result.success.all()
    assert float(result.x_adv[0, 0]) == float(torch.tensor(pair[1]))
    assert ((result.x_adv >= torch.tensor(pair[0])) & (result.x_adv <= torch.tensor(pair[1]))).all()
    edge = (x + 10).clamp(*pair)
    plica.attack(Sums(), edge, torch.tensor([0]), plica.MinRadius(plica.Lp(1)), bounds=pair, gradients=2)


def test_levels_end_at_the_bounds_of_each_feature():
    generator = torch.Generator().manual_seed(0)
    low, high = -torch.rand(200, generator=generator), 1 + torch.rand(200, generator=generator)
    x = torch.zeros(1, 200)
    grid = level_grid(x, check_bounds((low, high), x), 37, plica.Lp(2))
    first = torch.zeros(1, dtype=torch.long)
    assert torch.equal(grid(low[None], first)[0], low)
    assert torch.equal(grid(high[None], first)[0], high)


@pytest.mark.parametrize(
    ("method", "question"),
    [("pgd", plica.MaxLoss), ("apgd-ce", plica.MaxLoss), ("fmn", lambda metric, radius: plica.MinRadius(metric))],
)
def test_a_method_for_one_pair_of_bounds_says_what_it_lacks(method, question):
    """It was called a weighted l2, which nobody had asked for."""
    x, y = features()
    high = HIGH.clone()
    high[0] = 50.0
    with pytest.raises(plica.Unsupported, match=r"l2 with bounds that differ between features.*auto"):
        plica.attack(Linear(), x, y, question(plica.Lp(2), 9.0), method=method, bounds=(LOW, high))


def test_bounds_that_are_equal_for_all_features_are_two_numbers():
    """So are those of the other images where some images must not move: no method refuses them."""
    (x, y), model = features(3), Linear()
    low, high = torch.full((3, N), -9.0), torch.full((3, N), 200.0)
    question = plica.MaxLoss(plica.Lp(2), 60.0)
    found = plica.attack(model, x, y, question, method="pgd", bounds=(-9.0, 200.0), gradients=20)
    assert found.success.all()
    for pair in ((low[0], 200.0), (low, high)):
        same = plica.attack(model, x, y, question, method="pgd", bounds=pair, gradients=20)
        assert torch.equal(same.x_adv, found.x_adv)
    low[0] = high[0] = x[0]
    some = plica.attack(model, x, y, question, method="pgd", bounds=(low, high), gradients=20)
    assert some.success.tolist() == [False, True, True]
    assert torch.equal(some.x_adv[1:], found.x_adv[1:])


@pytest.mark.parametrize("bounds", [(-torch.inf, torch.inf), (-5.0, torch.inf)])
@pytest.mark.parametrize("method", ["pgd", "lpa"])
def test_infinite_bounds_leave_a_method_its_points(method, bounds):
    """The slack for rounding, or a start at random, was infinite: no image was broken, without a word."""
    (x, y), model = features(), Linear()
    question = plica.MaxLoss(plica.Lp(2), 60.0)
    found = plica.attack(model, x, y, question, method=method, bounds=bounds, gradients=20)
    assert found.success.all()


def test_a_public_attack_needs_finite_bounds():
    (x, y), question = features(), plica.MaxLoss(plica.Lp(2), 60.0)
    with pytest.raises(plica.Unsupported, match=r"apgd-ce rescales inputs to .0, 1. and needs finite bounds"):
        plica.attack(Linear(), x, y, question, method="apgd-ce", bounds=(-9.0, torch.inf))


@pytest.mark.parametrize("bounds", [(-torch.inf, torch.inf), (0.0, 1.0)])
def test_infinite_pixels_are_named(bounds):
    """Inside infinite bounds the metric was blamed: "is it a similarity rather than a distance?" """
    x = torch.rand(3, N)
    x[1, 2] = torch.inf
    with pytest.raises(ValueError, match="image 1 has infinite pixels"):
        plica.attack(Linear(), x, torch.zeros(3).long(), plica.MinRadius(plica.Lp(2)), bounds=bounds)


@pytest.mark.parametrize("side", [0, 1])
def test_bounds_of_which_one_side_differs_between_features_are_no_two_numbers(side):
    pair = [torch.zeros(3), torch.ones(3)]
    pair[side] = torch.tensor([side, side, 0.5])
    assert check_bounds(tuple(pair), torch.full((1, 3), 0.5)).per_feature


@pytest.mark.parametrize(("high", "refused"), [(1000.0, True), (1.0, False)])
def test_levels_must_be_told_apart_at_the_largest_bound(high, refused):
    """Half a unit of rounding of 1000 is 0.49 in float16, a level of 4096 is 0.24; at 1 both are 2000 times smaller, as
    levels are that lie between 0.5 and 1."""
    bounds = Bounds(torch.tensor(0.0).double(), torch.tensor(high).double())
    levels = 4096 if refused else 1024
    expected = pytest.raises(ValueError, match="cannot tell 4096 levels") if refused else nullcontext()
    with expected:
        check_levels(levels, bounds, torch.float16, plica.MinRadius(plica.Lp(2)))


def test_levels_are_a_unit_of_rounding_of_the_largest_bound_apart_and_bounds_finite():
    question, zero, one = plica.MinRadius(plica.Lp(2)), torch.tensor(0.0), torch.tensor(1.0)
    for low, high in ((zero, one), (-one, zero)):
        check_levels(257, Bounds(low, high), torch.bfloat16, question)  # 2^-8 apart
        with pytest.raises(ValueError, match="cannot tell 258 levels"):
            check_levels(258, Bounds(low, high), torch.bfloat16, question)
    check_levels(2, Bounds(zero, one), torch.float32, question)
    check_levels(2**16, Bounds(zero, one), torch.float32, question)
    partly = torch.tensor([1.0, torch.inf])
    for bounds in (Bounds(torch.zeros(2), partly), Bounds(-partly, torch.ones(2))):
        with pytest.raises(ValueError, match="which must be finite"):
            check_levels(11, bounds, torch.float32, question)
    equal = Bounds(torch.tensor([0.0, 0.5]), torch.tensor([1.0, 0.5]))  # a feature without room has one level
    check_levels(257, equal, torch.bfloat16, question)
