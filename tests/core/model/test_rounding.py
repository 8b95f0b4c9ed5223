"""What a margin must exceed: assumed for ordinary logits, measured where differences of logits have few digits."""

import copy
import math

import pytest
import torch
from torch import nn

import plica
from plica.core.model.batching import MIN_ROWS, Arithmetic, observe
from plica.core.model.counted import CountedModel
from plica.core.model.fitting import fitted
from plica.core.model.rounding import (
    OFFSET,
    ROWS,
    UNITS,
    Noise,
    coarseness,
    constants,
    has_offset,
    least_margin,
    may_be_masked,
    measure_noise,
    median_size,
    random_images,
    usual_size,
    without,
)

BF16, SINGLE = torch.finfo(torch.bfloat16).eps, torch.finfo(torch.float32).eps
LOGITS = torch.tensor([[1.0, -5, 2], [0.25, 0.5, -0.125]])
BOUNDS = (0.0, 1.0)


def least(logits, eps=0.0, few=False, change=0.0):
    return least_margin(logits, eps, torch.full((len(logits),), few), Noise(change))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_of_ordinary_logits_64_units_of_rounding_of_the_largest(dtype):
    expected = UNITS * torch.finfo(dtype).eps * torch.tensor([5, 0.5], dtype=dtype)
    assert torch.equal(least(LOGITS.to(dtype)), expected)
    assert torch.equal(least(LOGITS.to(dtype), change=1.0), expected)  # not measured, not used


def test_a_model_that_computes_in_float32_is_not_trusted_beyond_it():
    assert torch.equal(least(LOGITS.double(), eps=SINGLE), least(LOGITS).double())


def test_in_half_precision_twice_what_was_measured():
    torch.testing.assert_close(least(LOGITS, BF16, True, change=0.01), 0.02 * torch.tensor([5, 0.5]))


def test_in_half_precision_every_margin_counts_where_no_change_was_measured():
    one_unit = BF16 / 2 * LOGITS.abs().amax(1)  # half a unit of the largest logit, the least difference beside it
    assert (least(LOGITS, BF16, True) < one_unit / 100).all()


def test_a_common_offset_asks_for_no_more_than_the_differences_have():
    shifted = LOGITS.double() + 1e6
    assert torch.equal(has_offset(shifted), torch.tensor([True, True]))
    assert not has_offset(LOGITS).any()
    spread = torch.tensor([7, 0.625]).double()
    torch.testing.assert_close(least(shifted, SINGLE, True), UNITS * SINGLE * spread)
    assert (least(shifted, SINGLE, True, change=SINGLE) >= 2 * SINGLE * 1e6).all()


def test_two_classes_that_nearly_tie_are_told_from_an_offset_by_other_images():
    """Of one image nothing can be said; random images show whether the classes are always so near."""
    near = torch.tensor([[4.0, 4 + 1e-5]])
    assert has_offset(near).all()

    def binary(x):
        return torch.stack([x.sum(1), 2 - x.sum(1)], 1)

    assert not measure_noise(binary, torch.rand(1, 2), BOUNDS).offset
    assert measure_noise(lambda x: binary(x) + OFFSET * 10, torch.rand(1, 2), BOUNDS).offset


class Company(nn.Module):
    """Logits that another number of rows changes by `change`, relatively."""

    def __init__(self, change):
        super().__init__()
        self.change, self.rows = change, []

    def forward(self, x):
        self.rows.append(len(x))
        return torch.stack([x.sum(1) + 1, -x.sum(1) - 1], 1) * (1 + (self.change if len(x) == 1 else 0))


def test_the_change_between_batches_is_measured():
    model = Company(0.01)
    noise = measure_noise(model, torch.rand(1, 4), BOUNDS)
    assert noise.change == pytest.approx(0.02, rel=1e-4)  # both logits change, in opposite directions
    assert {1, 2, 3, 16} == set(model.rows)
    assert measure_noise(Company(0.0), torch.rand(1, 4), BOUNDS) == Noise(0.0, False)


def test_the_measured_change_does_not_depend_on_the_images_attacked():
    x = torch.rand(5, 4)
    assert measure_noise(Company(0.01), x, BOUNDS) == measure_noise(Company(0.01), x[3:] / 2, BOUNDS)


def test_a_model_of_one_batch_size_has_no_other_answer():
    def fixed(x):
        assert len(x) == 16
        return torch.stack([x.sum(1), -x.sum(1)], 1)

    assert measure_noise(fixed, torch.rand(1, 4), BOUNDS).change == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_inside_a_model_is_seen(dtype):
    """Whatever the dtype of its weights and of its output."""
    net = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3))

    def autocast(x):
        with torch.autocast("cpu", dtype):
            return net(x).float() / 1.7

    double = copy.deepcopy(net).double()
    for model, eps in ((autocast, torch.finfo(dtype).eps), (net, SINGLE), (double, torch.finfo(torch.float64).eps)):
        x, arithmetic = torch.rand(16, 6, dtype=torch.float64 if model is double else torch.float32), Arithmetic()
        assert torch.equal(observe(model, x, arithmetic), model(x))
        assert arithmetic.eps == eps


def test_one_logit_that_vanishes_does_not_tell_how_large_its_roundings_are():
    """An image near the boundary has a logit near 0, as the points have: a sum of terms near 1, all the same."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(20, 300), nn.ReLU(), nn.Linear(300, 1)).requires_grad_(False)
    x = torch.rand(1, 20)
    net[2].bias -= net(x)[0]
    model = CountedModel(net, 1)
    model.first_logits(x)
    others = net(torch.rand(200, 20)).abs().amax(1).median()
    needed = float(model.least_margin(torch.full((1, 1), 1e-8), torch.tensor([0])))
    assert UNITS * SINGLE * others / 8 < needed < UNITS * SINGLE * others * 2
    assert model.forwards.tolist() == [1]


def test_two_logits_that_vanish_are_as_uncertain_as_at_the_image():
    model = CountedModel(lambda x: torch.cat([x.sum(1, keepdim=True), -x.sum(1, keepdim=True)], 1), 2)
    model.first_logits(torch.tensor([[0.5, 0.5], [0.25, 0.0]]))
    least = model.least_margin(torch.tensor([[1e-8, -1e-8], [4.0, 0.0]]), torch.tensor([0, 1]))
    assert torch.equal(least, UNITS * SINGLE * torch.tensor([1.0, 4.0]))


def test_two_logits_that_nearly_vanish_at_the_image_too_are_as_uncertain_as_elsewhere():
    """Both logits are small at an image near the boundary, as the terms cancel that they are sums of: with a budget too
    small for a second run a point counted whose lead of one unit of rounding was gone where the point was alone."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(20, 300), nn.ReLU(), nn.Linear(300, 2)).requires_grad_(False)
    x = torch.rand(1, 20)
    net[2].bias -= net(x)[0] + 1e-6
    others = net(torch.rand(200, 20)).abs().amax(1).median()
    needed = []
    for second_run in (True, False):
        model = CountedModel(net, 1)
        model.first_logits(x, second_run=second_run)
        needed.append(float(model.least_margin(torch.full((1, 2), 1e-8), torch.tensor([0]))))
    assert needed[0] < UNITS * SINGLE * 2e-6
    assert UNITS * SINGLE * others / 8 < needed[1] < UNITS * SINGLE * others * 2


def test_a_model_that_takes_no_random_pixels_is_judged_all_the_same():
    def model(x):
        if not bool((x == 0.5).all()):
            raise ValueError("no such image")
        return x.sum(1, keepdim=True)

    counted = CountedModel(model, 1)
    counted.first_logits(torch.full((1, 4), 0.5))
    assert (
        float(counted.least_margin(torch.zeros(1, 1), torch.tensor([0]))) == UNITS * SINGLE * 2
    )  # its size at the image


def test_with_a_small_budget_random_pixels_are_run_in_the_first_call_where_the_model_takes_them():
    def refuses(x):
        if not bool((x == 0.5).all()):
            raise ValueError("no such image")
        return x[:, :2] * torch.tensor([1.0, 0.5])

    x = torch.full((3, 4), 0.5)
    for model, size in ((refuses, 0.5), (lambda x: 1000 * (x[:, :2] - 0.5), 100)):
        calls = []
        counted = CountedModel(fitted(lambda x, net=model, calls=calls: calls.append(1) or net(x)), 3)
        counted.first_logits(x, second_run=False)
        assert counted.forwards.tolist() == [1, 1, 1]
        assert size == 0.5 or len(calls) == 1
        least = counted.least_margin(torch.zeros(3, 2), torch.arange(3)) / (UNITS * SINGLE)
        assert (least >= size).all()


def masked_by(net, value):
    def model(x):
        return torch.cat([net(x), torch.full((len(x), 1), value, dtype=x.dtype)], 1)

    return model


@pytest.mark.parametrize(
    ("dtype", "mask", "bounds"),
    [
        (torch.float32, -1e30, (0.0, 1.0)),
        (torch.float32, -1e4, (-1.0, math.inf)),
        (torch.bfloat16, -1e4, (0.0, 1.0)),
        (torch.bfloat16, -1e30, (-1.0, math.inf)),
        pytest.param(torch.float32, -1e4, (0.0, 1.0), marks=pytest.mark.slow),
        pytest.param(torch.float32, -1e30, (-1.0, math.inf), marks=pytest.mark.slow),
        pytest.param(torch.bfloat16, -1e30, (0.0, 1.0), marks=pytest.mark.slow),
        pytest.param(torch.bfloat16, -1e4, (-1.0, math.inf), marks=pytest.mark.slow),
    ],
)
def test_a_class_that_is_ruled_out_by_a_large_constant_changes_nothing(mask, dtype, bounds):
    """A margin had to exceed 64 roundings of the constant, so that no point counted."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)).eval().requires_grad_(False)
        x = torch.rand(6, 8)
    net, x = net.to(dtype), x.to(dtype)
    y = net(x).argmax(1)
    y[5] = (y[5] + 1) % 4
    question = plica.MinRadius(plica.Lp(2))
    plain = plica.attack(net.forward, x, y, question, gradients=40, bounds=bounds)
    masked = plica.attack(masked_by(net, mask), x, y, question, gradients=40, bounds=bounds)
    assert plain.distance[5] == 0
    torch.testing.assert_close(masked.distance, plain.distance, rtol=1e-2, atol=0)  # five classes: another search
    alone = plica.attack(masked_by(net, mask), x[:1], y[:1], question, gradients=40, bounds=bounds)
    assert torch.equal(alone.distance, masked.distance[:1])


def test_a_large_logit_that_depends_on_the_image_still_counts():
    """Its roundings may be those of the sums that the others come from."""

    def model(x):
        return torch.cat([x, -1e6 * x[:, :1] - 1e6], 1)

    counted = CountedModel(model, 1)
    logits = counted.first_logits(torch.tensor([[0.5, 0.25, 0.75]]))
    assert counted.least.constant is None
    assert counted.least_margin(logits, torch.tensor([0])) == UNITS * SINGLE * 1.5e6


def test_of_logits_one_of_which_is_a_constant_its_size_does_not_count():
    counted = CountedModel(masked_by(nn.Identity(), -1e6), 2)
    logits = counted.first_logits(torch.tensor([[0.5, 0.25, 0.75], [2e4, 3, 0]]))  # of the second it is no outlier
    size = torch.tensor([0.75, 1e6])
    torch.testing.assert_close(counted.least_margin(logits, torch.tensor([0, 1])), UNITS * SINGLE * size)


@pytest.mark.parametrize(
    ("bounds", "low", "high"),
    [((-2.0, 3.0), -2, 3), ((-math.inf, math.inf), 0, 1), ((2.0, math.inf), 2, 3), ((-math.inf, 5.0), 4, 5)],
)
def test_random_pixels_lie_in_the_bounds_and_near_one_that_is_finite(bounds, low, high):
    draw = random_images(torch.zeros(1, 50), bounds)
    assert low <= float(draw.min()) < low + 0.1 * (high - low)
    assert high - 0.1 * (high - low) < float(draw.max()) <= high


def test_an_output_that_is_not_finite_has_no_size():
    outputs = torch.tensor([[math.inf], [-math.inf], [math.nan], [4.0], [0.5]])
    assert median_size(outputs) == 0
    assert median_size(outputs[3:]) == 0.5


def test_the_largest_change_of_another_arithmetic_counts():
    x, factor = torch.zeros(1, 3), torch.linspace(0, 1e-3, ROWS).repeat(MIN_ROWS // ROWS)[:, None]
    ones = torch.ones(len(factor), 3)
    assert coarseness(lambda z: ones, lambda z: (ones + factor).double(), x, BOUNDS) == pytest.approx(1e-3, rel=1e-3)
    assert coarseness(lambda z: ones, lambda z: (ones + 1e-4 * factor).double(), x, BOUNDS) == 0
    assert coarseness(lambda z: ones, lambda z: None, x, BOUNDS) == 0


def test_an_offset_is_more_than_64_times_the_differences():
    assert has_offset(torch.tensor([[63.0, 64.0], [64.0, 65.0], [-65.0, -64.0]])).tolist() == [False, True, True]
    assert has_offset(torch.tensor([[5.0]])).tolist() == [False]  # of one logit there is no difference


def test_a_mask_is_more_than_100_times_the_two_largest_logits():
    outputs = torch.tensor([[1.0, 0.5, -100.0], [1.0, 0.5, -100.5], [-0.5, -1.0, -101.0], [-0.5, -1.0, -99.0]])
    assert may_be_masked(outputs).tolist() == [False, True, True, False]
    assert may_be_masked(outputs[:, 1:]).tolist() == [False] * 4  # of two, both decide


def test_a_logit_is_a_constant_where_two_others_are_none():
    first = torch.tensor([1.0, 0.0, 0.0])
    varying = lambda z, number: torch.cat([z[:, :number], torch.full((len(z), 3 - number), -700.0)], 1)  # noqa: E731
    assert constants(lambda z: varying(z, 2), first[None], BOUNDS).tolist() == [False, False, True]
    assert constants(lambda z: varying(z, 1), first[None], BOUNDS).tolist() == [False] * 3
    assert constants(lambda z: z.nothing, first[None], BOUNDS).tolist() == [False]
    logits = torch.tensor([[1.0, 3.0, -1e6], [-2.0, -3.0, 9.0]])
    assert without(torch.tensor([[False, False, True]]), logits).tolist() == [[1, 3, 3], [-2, -3, -2]]


def test_images_of_random_pixels_are_run_in_a_padded_batch():
    shapes, x = [], torch.rand(1, 2, 3)

    def model(z):
        shapes.append(tuple(z.shape))
        return z.flatten(1)

    assert usual_size(model, x, BOUNDS) == median_size(random_images(x, BOUNDS).flatten(1))
    assert usual_size(lambda z: z.nothing, x, BOUNDS) == 0
    constants(model, x, BOUNDS)
    coarseness(model, model, x, BOUNDS)
    assert shapes == [(MIN_ROWS, 2, 3)] * 4


def test_each_image_is_run_alone_and_among_three_in_the_reverse_order():
    x = torch.zeros(1, 2, 3)
    images, calls = random_images(x, BOUNDS), []

    def model(z):
        calls.append([int((images == row).flatten(1).all(1).nonzero()) for row in z])
        return z.flatten(1)

    assert measure_noise(model, x, BOUNDS) == Noise(0.0, False)
    groups = [[7, 6, 5], [4, 3, 2], [1, 0]]
    assert calls == [[*range(ROWS)] * (MIN_ROWS // ROWS), *[[row] for row in reversed(range(ROWS))], *groups]


def test_the_largest_change_of_a_batch_counts_and_none_of_an_output_that_is_0():
    x, images = torch.zeros(1, 3), random_images(torch.zeros(1, 3), BOUNDS)

    def second_of_three(z):
        grown = (z == images[3]).all(1, keepdim=True) & (len(z) == 3)
        return torch.ones(len(z), 3) * torch.where(grown, 1.01, 1.0)

    assert measure_noise(second_of_three, x, BOUNDS).change == pytest.approx(0.01, rel=1e-4)
    for alone in (0.0, 1.0):
        change = measure_noise(lambda z, a=alone: torch.full((len(z), 3), a * (len(z) == 1)), x, BOUNDS).change
        assert change == 0
        finer = lambda z, a=alone: torch.full((len(z), 3), a).double()  # noqa: E731
        assert coarseness(lambda z: torch.zeros(len(z), 3), finer, x, BOUNDS) == 0


def test_a_model_has_an_offset_where_it_has_one_at_every_image():
    def model(z):
        return 1 + torch.arange(2) * 1e-3 + (z[:, 1:] - z[:, :1] - 0.1).clamp(min=0) * torch.tensor([0.0, 1.0])

    assert not measure_noise(model, torch.zeros(1, 2), BOUNDS).offset
