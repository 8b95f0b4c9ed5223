"""What an audit says of one stored answer, just inside and just outside each tolerance."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from plica.trust.audit.remeasure import Answers, MeasureContext
from shift import Shift

ROUNDING = torch.finfo(torch.float32).eps
HONEST = dict(id=7, label=0, prediction=1, success=True, distance=0.5, margin=0.15, status="BUDGET")
X, POINT = torch.tensor([[0.25, 0.5]]), torch.tensor([[0.75, 0.5]])


def model(z):
    """Class 1 where the first feature exceeds 0.6."""
    return torch.stack([torch.full_like(z[:, 0], 0.6), z[:, 0]], 1)


CONTEXT = MeasureContext(model, 2.0, None, (0.0, 1.0), (1,))


def audited(point=POINT, x=X, context=CONTEXT, theta=None, **row):
    """The kinds of differences that are recorded, and whether the stored success is confirmed."""
    honest = HONEST
    if not row.get("success", True):
        margin = float(point[0, 0]) - 0.6
        honest = {**HONEST, "distance": math.inf, "margin": margin, "prediction": int(margin > 0)}
    answers = Answers([{**honest, **row}], x, np.zeros(1, int), point, np.zeros(1, int), theta)
    found = {}
    wrong = answers.compare(context, found)
    assert all(len(sentences) == 1 and sentences[0].startswith("image 7: ") for sentences in found.values())
    return set(found), not bool(wrong[0])


def moved(first, second=0.5):
    """An honest answer at another point."""
    point = torch.tensor([[first, second]])
    distance = float((point - X).double().norm())
    return dict(point=point, distance=distance, margin=float(point[0, 0]) - 0.6)


def test_an_honest_answer():
    assert audited() == (set(), True)
    assert audited(point=X, success=False) == (set(), True)


def test_a_label_and_points_that_were_changed():
    assert audited(label=1) == ({"label"}, False)
    assert audited(success=False)[0] == {"moved", "missed in batches of 1"}
    assert audited(distance=0.5 + 1e-6) == ({"distance"}, False)


@pytest.mark.parametrize("stored", [math.inf, -math.inf, math.nan, 1e300, 0.35, -0.7])
def test_the_margin_of_an_image_without_a_success_is_that_of_the_image(stored):
    assert audited(X, success=False, margin=stored) == ({"margin in batches of 1"}, True)
    assert audited(X, success=False, margin=stored, status="NOT_FINITE") == (set(), True)


@pytest.mark.parametrize("stored", [0.0, 0.5, -math.inf, math.nan])
def test_an_image_without_a_success_has_no_distance(stored):
    assert audited(X, success=False, distance=stored) == ({"distance"}, True)


def test_the_class_that_is_predicted():
    for stored in (0, 2, -1, 99):
        assert audited(prediction=stored) == ({"prediction"}, True)
    assert audited(X, success=False, prediction=1) == ({"prediction"}, True)
    assert audited(prediction=-1, context=replace(CONTEXT, classes=False)) == (set(), True)
    one = replace(CONTEXT, model=lambda z: z[:, :1] - 0.6)
    assert audited(context=one) == (set(), True)
    assert audited(context=one, prediction=0) == ({"prediction"}, True)


@pytest.mark.parametrize(("first", "kinds"), [(1.0, set()), (1.0 + ROUNDING, {"bounds"}), (math.nan, None)])
def test_bounds_are_exact(first, kinds):
    found, confirmed = audited(**moved(first))
    assert confirmed == (kinds == set())
    assert found == kinds if kinds is not None else "bounds" in found


@pytest.mark.parametrize(
    ("mask", "second", "confirmed"),
    [
        ([True, True], 0.625, True),
        ([True, False], 0.625, False),
        ([True, False], 0.5, True),
        ([False, True], 0.5, False),
    ],
)
def test_features_that_may_not_move(mask, second, confirmed):
    found = audited(**moved(0.75, second), context=replace(CONTEXT, mask=torch.tensor(mask)))
    assert found == (set() if confirmed else {"mask", "bounds"}, confirmed)


@pytest.mark.parametrize(("bounds", "units"), [((0.0, 1.0), 1), ((-4.0, 2.0), 4), ((-0.25, 2.0), 2)])
@pytest.mark.parametrize("way", [1, -1])
def test_a_changed_pixel_lies_on_a_level_up_to_four_roundings_of_the_largest_bound(bounds, units, way):
    levels = round((bounds[1] - bounds[0]) / 0.25) + 1  # a level at every quarter
    context = replace(CONTEXT, bounds=bounds, levels=levels)
    off = way * 4 * units * ROUNDING
    x = torch.tensor([[0.25, 0.4]])  # what was not changed may lie between levels
    for share, kinds in ((0.75, set()), (1.25, {"levels"})):
        point = torch.tensor([[0.75 + share * off, 0.4]])
        distance, margin = float((point - x).double().norm()), float(point[0, 0]) - 0.6
        assert audited(point, x, context, distance=distance, margin=margin) == (kinds, not kinds)
    assert audited(x, x, context, success=False) == (set(), True)


def test_levels_of_features_without_room():
    bounds = torch.tensor([0.0, 0.5]), torch.tensor([1.0, 0.5])
    assert audited(context=replace(CONTEXT, bounds=bounds, levels=5)) == (set(), True)


@pytest.mark.parametrize(
    ("bounds", "metric", "levels", "rounding"),
    [
        ((0.0, 1.0), math.inf, 5, ROUNDING / 2),
        ((-4.0, 2.0), math.inf, 25, 4 * ROUNDING / 2),
        ((0.0, 1.0), math.inf, None, 0.0),
        ((0.0, 1.0), 2.0, 5, 0.0),
    ],
)
def test_a_radius_may_be_exceeded_by_the_rounding_of_two_levels_alone(bounds, metric, levels, rounding):
    context = replace(CONTEXT, bounds=bounds, metric=metric, levels=levels)
    for radius, kinds in (
        (0.5, set()),
        (0.5 - 0.9 * rounding - 1e-13, set()),
        (0.5 - 1.1 * rounding - 1e-12, {"radius"}),
    ):
        assert audited(context=replace(context, radius=radius)) == (kinds, not kinds)


@pytest.mark.parametrize(("bounds", "span"), [((0.0, 1.0), 1), ((-1.0, 3.0), 4)])
@pytest.mark.parametrize("way", [1, -1])
def test_theta_makes_the_point_up_to_a_hundred_thousandth_of_the_range(bounds, span, way):
    context = replace(CONTEXT, bounds=bounds, through=Shift())
    for off, kinds in ((0.9e-5, set()), (1.1e-5, {"theta"})):
        theta = torch.tensor([[0.5 + way * off * span]])
        assert audited(context=context, theta=theta) == (kinds, not kinds)
    assert audited(context=context) == ({"theta"}, False)
    assert audited(X, context=context, success=False) == (set(), True)


def test_points_of_a_perturbation_are_clamped():
    context = replace(CONTEXT, through=Shift())
    assert audited(**moved(1.0), context=context, theta=torch.tensor([[0.9]])) == (set(), True)
    x = torch.tensor([[0.75, 0.5]])
    point = torch.tensor([[0.0, 0.5]])
    found = audited(point, x, context, torch.tensor([[-0.9]]), distance=0.75, margin=-0.6, prediction=0)
    assert found == ({"class in batches of 1"}, False)


def test_a_distance_of_theta_is_measured_at_theta():
    context = replace(CONTEXT, through=Shift(), by_theta=True, metric=lambda x, theta: 2 * theta.abs()[:, 0])
    theta = torch.tensor([[0.5]])
    assert audited(context=context, theta=theta, distance=1.0) == (set(), True)
    assert audited(context=context, theta=theta) == ({"distance"}, False)
    assert audited(context=context, distance=1.0) == ({"theta", "distance"}, False)


def test_where_theta_is_none_the_image_stays():
    """A row of nan says that there is no point."""
    context = replace(CONTEXT, through=Shift())
    theta = torch.tensor([[0.5], [math.nan]])
    assert context.made_of(X.expand(2, 2), theta).tolist() == [[0.5], [0.0]]
    assert context.made_of(X, None) is None
    assert CONTEXT.made_of(X, theta) is theta
    assert context.made_of(X, torch.tensor([[0.5, math.nan]])).tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize(("status", "named"), [("BUDGET", True), ("NOT_FINITE", False), ("FAILED", False)])
def test_images_that_are_wrong_and_were_answered_are_missed(status, named):
    wrong = torch.tensor([[0.75, 0.5]])
    found, _ = audited(wrong, wrong, success=False, status=status)
    assert found == ({"missed in batches of 1"} if named else set())


UNIT = 1000 * ROUNDING * 0.75  # of the largest logit


@pytest.mark.parametrize(
    ("stored", "kinds"),
    [
        (0.15 + 0.39 * 0.15 / 0.61, set()),  # 0.4 of what is stored, which is more than rounding
        (0.15 + 0.41 * 0.15 / 0.59, {"margin in batches of 1"}),
        (0.15 - 0.39 * 0.15 / 1.39, set()),
        (0.15 - 0.41 * 0.15 / 1.41, {"margin in batches of 1"}),
    ],
)
def test_a_margin_may_differ_by_four_tenths(stored, kinds):
    """Which says that it is another model, and does not undo the success."""
    assert audited(margin=stored) == (kinds, True)


@pytest.mark.parametrize(("stored", "kinds"), [(0.9 * UNIT, set()), (1.2 * UNIT, {"margin in batches of 1"})])
def test_a_small_margin_may_differ_by_a_thousand_roundings_of_the_largest_logit(stored, kinds):
    def nearly_tied(z):
        return torch.tensor([[0.75, 0.75 + 2.0**-23]]).expand(len(z), 2)

    assert audited(context=replace(CONTEXT, model=nearly_tied), margin=stored) == (kinds, True)


def test_every_batch_size_and_float64_are_asked():
    def by_size(z):
        """Right about the point alone, or in float64."""
        return model(z) * (-1.0 if len(z) > 1 or z.dtype == torch.float64 else 1.0)

    context = replace(CONTEXT, model=by_size, sizes=(1, 2), fine=by_size)
    two = Answers([HONEST, HONEST], X.expand(2, 2), np.zeros(2, int), POINT.expand(2, 2), np.zeros(2, int))
    found = {}
    assert two.compare(context, found).all()
    assert {"class in batches of 2", "class in float64"} <= set(found)
    assert "class in batches of 1" not in found


def test_a_copy_in_float64_is_tried_once_and_of_models_in_single_precision_alone():
    net = torch.nn.Linear(2, 2).eval()
    context = replace(CONTEXT, model=net)
    found = context.with_float64(X)
    assert found.fine is not None
    assert found.with_float64(X) is found
    drawn, half = replace(context, at_random=True), replace(context, model=torch.nn.Linear(2, 2).half().eval())
    assert drawn.with_float64(X) is drawn
    assert half.with_float64(X) is half


def test_margins_are_those_of_the_last_batch_size_in_float64_where_there_is_such_a_copy():
    asked = []

    def seen(z):
        asked.append((z.dtype, len(z)))
        return model(z)

    x, y = POINT.expand(4, 2), np.zeros(4, int)
    context = replace(CONTEXT, model=seen, sizes=(1, 2, 3))
    assert context.margins(x, y).tolist() == pytest.approx([0.15] * 4)
    assert asked == [(torch.float32, 3), (torch.float32, 1)]
    asked.clear()
    fine = replace(context, model=lambda z: 1 / 0, fine=seen)
    assert fine.margins(x, y).tolist() == pytest.approx([0.15] * 4, abs=1e-12)
    assert asked == [(torch.float64, 3), (torch.float64, 1)]


def test_classes_are_asked_in_batches_of_every_size_and_in_float64_of_the_last():
    asked = []

    def seen(z):
        asked.append((z.dtype, len(z)))
        return model(z)

    context = replace(CONTEXT, model=seen, fine=seen, sizes=(1, 2, 3))
    answers = Answers([HONEST] * 3, X.expand(3, 2), np.zeros(3, int), POINT.expand(3, 2), np.zeros(3, int))
    assert not answers._classes(context, {}).any()
    sizes = {dtype: [size for kind, size in asked if kind == dtype] for dtype in (torch.float32, torch.float64)}
    assert sizes[torch.float64] == [3]
    assert sizes[torch.float32][-6:] == [1, 1, 1, 2, 1, 3]


@pytest.mark.parametrize(("roundings", "kinds"), [(3.5, set()), (4.5, {"margin in batches of 1"})])
def test_in_half_precision_a_small_margin_may_differ_by_four_roundings_of_it(roundings, kinds):
    class Half(MeasureContext):
        def half(self, x):
            return torch.bfloat16

    def nearly_tied(z):
        return torch.tensor([[0.75, 0.75 + 2.0**-23]]).expand(len(z), 2)

    context = Half(nearly_tied, 2.0, None, (0.0, 1.0), (1,))
    assert audited(context=context, margin=roundings * 2**-7 * 0.75) == (kinds, True)


def test_the_sentence_about_bounds_names_the_least_and_the_largest_pixel():
    x_adv = torch.tensor([[-0.25, 1.5]])
    answers, found = Answers([HONEST], X, np.zeros(1, int), x_adv, np.zeros(1, int)), {}
    answers._bounds(CONTEXT, found)
    assert found["bounds"] == ["image 7: pixels from -0.25 to 1.5"]


def test_levels_are_rounded_by_the_largest_bound():
    x = torch.zeros(1, 2)
    for bounds in ((-3.0, 1.0), (torch.tensor([0.0, -3.0]), torch.tensor([1.0, 1.0])), (-1.0, 3.0)):
        context = replace(CONTEXT, metric=math.inf, levels=256, bounds=bounds)
        assert context.pixel_rounding(x) == ROUNDING / 2 * 3
    assert replace(CONTEXT, metric=2.0, levels=256).pixel_rounding(x) == 0
    assert replace(CONTEXT, metric=math.inf).pixel_rounding(x) == 0


def test_a_radius_under_a_distance_that_is_no_norm_may_be_exceeded_by_a_millionth():
    def euclidean(x, z):
        return (z - x).flatten(1).norm(dim=1)

    for metric, share in ((euclidean, 1e-6), (2.0, 1e-12)):
        for times, kinds in ((0.5, set()), (2.0, {"radius"})):
            context = replace(CONTEXT, metric=metric, radius=0.5 * (1 - times * share))
            assert audited(context=context) == (kinds, not kinds)


def test_shares_are_the_same_each_time_and_leave_random_numbers_alone():
    context = replace(CONTEXT, model=lambda z: model(z + 0.3 * torch.randn_like(z)), sizes=(1, 3), at_random=True)
    x, y, state = POINT.expand(2, 2), np.zeros(2, int), torch.get_rng_state()
    first = context.shares(x, y)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(5)
    assert first.tolist() == context.shares(x, y).tolist()
    assert ((first > 0.55) & (first < 0.85)).all()  # the point lies half a deviation of the noise beyond 0.6: 0.69
    assert first[0] != first[1]
