"""The radius attack: exact answers on linear models, budgets, other images, masks, and metrics without a prox."""

import dataclasses
import math

import pytest
import torch

from plica import Lp, MaxLoss, MinRadius, Unsupported
from plica.attacks.base import AttackInput, AttackOutput
from plica.attacks.radius import few, search
from plica.attacks.radius.search import RadiusSearch, radius
from plica.core.goals import Goal
from plica.core.judging.best import BestPoints
from plica.core.model.counted import CountedModel
from plica.core.status import Status
from plica.metrics import WeightedLp

P = (1, 1.5, 2, 4, 8, math.inf)


@pytest.fixture(autouse=True)
def small_networks_are_searched_as_large_ones(monkeypatch):
    """The search of few dimensions, which would take these, has tests of its own."""
    monkeypatch.setattr(few, "SCHEDULE", dataclasses.replace(few.SCHEDULE, dimensions=0))


def attack(
    model, x, y, question, gradients=100, seed=0, targets=None, bounds=(0.0, 1.0)
) -> tuple[AttackInput, AttackOutput]:
    """The attack alone, without the judge."""
    limit = question.radius * torch.ones(len(x)) if isinstance(question, MaxLoss) else None
    with torch.no_grad():
        logits = model(x)
    archive = BestPoints(question.metric, x, Goal(y, targets), limit)
    task = AttackInput(
        CountedModel(model, len(x)),
        archive,
        x,
        Goal(y, targets),
        logits,
        question,
        limit,
        gradients,
        seed,
        bounds,
        64,
        lambda done: None,
    )
    return task, radius(task)


def linear(classes=4, n=60, images=6, seed=0):
    """A linear classifier, images away from the walls of the box, and the exact step to every boundary."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(classes, n, generator=generator)
    x = 0.4 + 0.2 * torch.rand(images, n, generator=generator)

    def model(z):
        return 0.1 * z @ weights.T

    logits = model(x)
    y = logits.argmax(1)
    others = [[t for t in range(classes) if t != label] for label in y.tolist()]
    rise = torch.stack(
        [
            torch.stack([0.1 * (weights[t] - weights[label]) for t in some])
            for label, some in zip(y.tolist(), others, strict=True)
        ]
    )
    gap = torch.stack([logits[i, y[i]] - logits[i, some] for i, some in enumerate(others)])
    return model, x, y, rise, gap


def exact(p, rise, gap, weights=None):
    """min over classes of gap / ||rise / w||_q."""
    rise = rise if weights is None else torch.where(weights.isinf(), 0, rise / weights)
    q = 1 if p == math.inf else math.inf if p == 1 else p / (p - 1)
    return (gap / torch.linalg.vector_norm(rise, ord=q, dim=2)).amin(1)


class Curved(torch.nn.Module):
    """A small random network with kinks: three classes, 8 x 8 images."""

    def __init__(self, seed=0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.first = torch.nn.Parameter(torch.randn(24, 64, generator=generator) / 4, requires_grad=False)
        self.second = torch.nn.Parameter(torch.randn(5, 24, generator=generator) / 4, requires_grad=False)

    def forward(self, x):
        return (torch.relu((x.flatten(1) - 0.5) @ self.first.T) + 0.1) @ self.second.T


def curved(images=12):
    model = Curved()
    x = torch.rand(images, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    return model, x, model(x).argmax(1)


@pytest.mark.parametrize("p", P)
def test_linear_model(p):
    model, x, y, rise, gap = linear()
    task, found = attack(model, x, y, MinRadius(Lp(p)), gradients=60)
    truth = exact(p, rise, gap)
    assert (task.best.distance >= truth * (1 - 1e-4)).all()  # float32
    torch.testing.assert_close(task.best.distance, truth, rtol=5e-3, atol=0)
    assert (found.stationarity < 0.2).all()


@pytest.mark.parametrize("p", P)
def test_weights_and_a_mask_of_pixels_that_may_not_move(p):
    model, x, y, rise, gap = linear()
    weights = 0.5 + torch.rand(60, generator=torch.Generator().manual_seed(3))
    weights[::5] = torch.inf
    task, _ = attack(model, x, y, MinRadius(WeightedLp(p, weights)), gradients=60)
    assert torch.equal(task.best.x_adv[:, ::5], x[:, ::5])
    torch.testing.assert_close(task.best.distance, exact(p, rise, gap, weights), rtol=5e-3, atol=0)


def test_black_and_white_images_take_no_more_gradients_than_others():
    """Half of their pixels may not move the way that the gradient points."""
    generator = torch.Generator().manual_seed(0)
    w, x = torch.randn(500, generator=generator), torch.rand(30, 500, generator=generator).round()

    def model(z):
        return torch.stack([torch.zeros(len(z)), z @ w - 2.2], 1)

    y = model(x).argmax(1)
    up = ((y == 0)[:, None] == (w > 0)).double()
    exact = model(x)[:, 1].double().abs() / (w * (up != x)).norm(dim=1)
    for gradients, most in ((10, 1.015), (30, 1.004)):
        task, _ = attack(model, x, y, MinRadius(Lp(2)), gradients=gradients)
        assert (task.best.distance / exact).log().mean().exp() < most


@pytest.mark.parametrize("p", [1, 2, math.inf])
def test_bounds_other_than_zero_and_one(p):
    model, x, y, rise, gap = linear()
    task, _ = attack(lambda z: model(z / 255), 255 * x, y, MinRadius(Lp(p)), gradients=60, bounds=(0.0, 255.0))
    torch.testing.assert_close(task.best.distance, 255 * exact(p, rise, gap), rtol=5e-3, atol=0)


@pytest.fixture
def every_image_takes_slow_returns(request, monkeypatch):
    if request.param:
        monkeypatch.setattr(search, "SCHEDULE", dataclasses.replace(search.SCHEDULE, kinked=2.0))


SLOW = [(2, True), (math.inf, True)]


@pytest.mark.parametrize(
    ("p", "every_image_takes_slow_returns"),
    [*((p, False) for p in (0.5, 1, 1.5, 2, 8, math.inf)), *SLOW],
    indirect=["every_image_takes_slow_returns"],
)
@pytest.mark.usefixtures("every_image_takes_slow_returns")
def test_a_larger_budget_is_never_worse_and_none_is_exceeded(p):
    model, x, y = curved(6)
    last = torch.full((len(x),), torch.inf)
    for gradients in (1, 4, 10, 30, 44, 110, 190, 240):
        task, found = attack(model, x, y, MinRadius(Lp(p)), gradients)
        assert (task.best.distance <= last).all()
        assert (task.model.gradients == gradients).all()
        assert (task.model.forwards <= max(0, task.affordable(gradients))).all()  # the others are the judge's
        assert set(found.status) == {Status.BUDGET}
        last = task.best.distance.clone()
    assert last.isfinite().all()
    assert ((task.best.x_adv >= 0) & (task.best.x_adv <= 1)).all()


@pytest.mark.parametrize(
    ("p", "every_image_takes_slow_returns"),
    [*((p, False) for p in (1, 1.5, 2, math.inf)), *SLOW],
    indirect=["every_image_takes_slow_returns"],
)
@pytest.mark.usefixtures("every_image_takes_slow_returns")
def test_other_images_change_nothing(p):
    model, x, y = curved(20)
    together = attack(model, x, y, MinRadius(Lp(p)), 70)[0].best.x_adv
    for some in ([4], [17, 2, 9]):
        alone = attack(model, x[some], y[some], MinRadius(Lp(p)), 70)[0].best.x_adv
        assert torch.equal(alone, together[some])


@pytest.mark.parametrize("gradients", [25, 43, 93])
def test_forward_runs_are_left_for_the_judge(gradients):
    """With three classes the first search of the boundary begins after 25 gradients and the second after 43."""
    model, x, y, *_ = linear(classes=3)
    task, _ = attack(model, x, y, MinRadius(Lp(2)), gradients)
    assert (task.model.forwards <= task.affordable(gradients)).all()


@pytest.mark.parametrize("p", [1, 2, math.inf])
def test_a_larger_budget_continues_the_same_sequence(p):
    model, x, y = curved(2)

    def points(gradients):
        seen = []

        def watched(z):
            seen.append(z.detach().clone())
            return model(z)

        attack(watched, x, y, MinRadius(Lp(p)), gradients)
        return seen

    every = points(160)
    for gradients in (30, 60, 110):
        *some, _ = points(gradients)  # of the last call the budget may leave out rows
        assert all(map(torch.equal, some, every))


def test_seeds_differ():
    model, x, y = curved()
    one, two = (attack(model, x, y, MinRadius(Lp(2)), 150, seed=seed)[0].best.x_adv for seed in (0, 1))
    assert not torch.equal(one, two)


def test_max_loss_is_answered_as_soon_as_a_point_is_inside():
    model, x, y = curved()
    nearest = attack(model, x, y, MinRadius(Lp(2)), 200)[0].best.distance
    middle = nearest.median().item() * 1.001
    task, found = attack(model, x, y, MaxLoss(Lp(2), middle), 200)
    broken = task.best.distance.isfinite()
    assert torch.equal(broken, nearest <= middle)
    assert (task.best.distance[broken] <= middle).all()
    assert [s == Status.SUCCEEDED for s in found.status] == broken.tolist()
    assert (task.model.gradients[broken] < 60).all()
    assert (task.model.gradients[~broken] == 200).all()


@pytest.mark.parametrize("p", [1, 2, "inf"])
def test_all_images_may_be_answered_before_a_stage_begins(p):
    model, x, y = curved()
    nearest = attack(model, x, y, MinRadius(Lp(p)), 40)[0].best.distance
    task, found = attack(model, x, y, MaxLoss(Lp(p), nearest * 1.01), 100)
    assert found.status == [Status.SUCCEEDED] * len(x)
    assert (task.model.gradients < 100).all()


def test_only_the_target_counts():
    model, x, y, rise, gap = linear()
    targets = (y + 1) % 4
    task, _ = attack(model, x, y, MinRadius(Lp(2)), 40, targets=targets)
    # column of the target among the other classes, which are in ascending order
    column = torch.where(targets > y, targets - 1, targets)[:, None]
    truth = gap.gather(1, column)[:, 0] / rise.norm(dim=2).gather(1, column)[:, 0]
    near = truth < 2  # a boundary beyond the box is another question
    assert near.any()
    assert (model(task.best.x_adv)[near].argmax(1) == targets[near]).all()
    assert (task.best.distance[near] >= truth[near] * (1 - 1e-4)).all()


def test_a_third_class_on_the_way_to_the_target():
    """Past the boundary between label and target lies another class: the nearest point of the target is a corner."""

    def model(z):
        u = z - 0.5
        return torch.stack([0 * u[:, 0], u[:, 0] - 0.1, 2 * u[:, 0] + u[:, 1] - 0.15], 1)

    x, y, targets = torch.full((1, 2), 0.5), torch.tensor([0]), torch.tensor([1])
    task, _ = attack(model, x, y, MinRadius(Lp(2)), 100, targets=targets)
    assert float(task.best.distance) == pytest.approx(math.hypot(0.1, 0.05), rel=0.05)  # corners are slow
    broken, _ = attack(model, x, y, MaxLoss(Lp(2), 0.12), 100, targets=targets)
    assert float(broken.best.distance) <= 0.12


class Euclidean:
    """A user's metric that offers its norm and prox, and is l_2."""

    def __call__(self, x, x_adv):
        return (x_adv - x).flatten(1).norm(dim=1)

    def norm(self, u):
        return u.norm(dim=1)

    def prox(self, u, eta):
        return u * (1 - eta / u.norm(dim=1).clamp(min=1e-30)).clamp(min=0)[:, None]


def test_a_metric_of_the_users_own():
    model, x, y, rise, gap = linear()
    task, _ = attack(model, x, y, MinRadius(Euclidean()), 60)
    torch.testing.assert_close(task.best.distance, exact(2, rise, gap), rtol=5e-3, atol=0)


def test_a_metric_without_a_prox_is_sent_to_pwcf():
    model, x, y, *_ = linear()
    with pytest.raises(Unsupported, match="pwcf"):
        attack(model, x, y, MinRadius(lambda a, b: (b - a).flatten(1).norm(dim=1)))


def test_weights_are_checked():
    with pytest.raises(ValueError, match="positive"):
        WeightedLp(2, torch.zeros(3))


@pytest.mark.parametrize("p", [1, 2, math.inf])
def test_images_whose_starts_all_end_at_the_same_point_leave(p):
    model, x, y, *_ = linear()
    task, found = attack(model, x, y, MinRadius(Lp(p)), 700)
    spent = task.model.gradients
    settled = torch.tensor([why == Status.SETTLED for why in found.status])
    assert settled.any()
    assert torch.equal(settled, spent < 700)
    assert (spent[settled] >= 5 * 50).all()
    longer, again = attack(model, x, y, MinRadius(Lp(p)), 900)
    for i in settled.nonzero()[:, 0].tolist():
        assert again.status[i] == Status.SETTLED
        assert torch.equal(longer.best.x_adv[i], task.best.x_adv[i])
        assert longer.model.gradients[i] == spent[i]


def rounded(n=150, classes=3):
    """A network that rounds its inputs, whose gradient is zero everywhere, and images."""
    weights = torch.randn(classes, n, generator=torch.Generator().manual_seed(7))
    x = torch.rand(5, n, generator=torch.Generator().manual_seed(8))
    offset = weights.sum(1) / 2

    def model(z):
        return (7 * z).round() / 7 @ weights.T - offset

    return model, x, model(x).argmax(1)


@pytest.mark.parametrize(
    "metric", [Lp(1), Lp(1.5), Lp(2), Lp(math.inf), Euclidean()], ids=["l1", "l1.5", "l2", "linf", "own"]
)
def test_images_whose_gradient_is_zero_start_at_points_of_the_box(metric):
    model, x, y = rounded()
    task, found = attack(model, x, y, MinRadius(metric), 60)
    assert task.best.distance.isfinite().all()
    assert (model(task.best.x_adv).argmax(1) != y).all()
    assert found.status == [Status.ZERO_GRADIENT] * 5
    assert (task.model.gradients <= 60).all()


def test_images_whose_first_gradient_is_no_number_are_said_to_be_so_only_without_a_point():
    net, x, y = curved(4)

    def model(z):
        off = (z - x[0]).flatten(1).square().sum(1, keepdim=True)  # 0 / 0 in the gradient at the first image
        bad = 0 * off.sqrt()
        return net(z) + bad

    task, found = attack(model, x, y, MinRadius(Lp(2)), 60)
    assert task.best.distance.isfinite().all()
    assert found.status == [Status.BUDGET] * 4
    _, few = attack(model, x, y, MinRadius(Lp(2)), 2)
    assert few.status == [Status.NOT_FINITE, *[Status.BUDGET] * 3]


def test_an_image_without_a_point_starts_at_points_of_the_box():
    """The gradient at the image points away from the other class, which lies behind."""

    def model(z):
        s = z.mean(1)
        return torch.stack([torch.full_like(s, 0.02), (s - 0.44).abs() - 0.06 + 0 * s], 1)

    x = torch.full((2, 120), 0.42)
    task, _ = attack(model, x, torch.zeros(2, dtype=torch.long), MinRadius(Lp(2)), 200)
    assert task.best.distance.isfinite().all()


def test_rows_that_are_lost_aim_at_the_class_they_are_at_and_turn_back(monkeypatch):
    """Most of the box is of class 2, and flat there; rows go there on their way to class 1."""
    w, v = torch.linalg.qr(torch.randn(128, 2, generator=torch.Generator().manual_seed(0))).Q.T
    x = 0.4 + 0.2 * torch.rand(10, 128, generator=torch.Generator().manual_seed(1))
    seen, turned = [], 0

    def model(z):
        s, t = (z - 0.5) @ w, (z - 0.5) @ (0.3 * w + 0.91**0.5 * v)
        other = 0.01 * t.clamp(max=0.3)
        return torch.stack([(1.5 - 3 * torch.relu(s - 0.2)).clamp(0, 1), other - 0.1, 0.5 + 1e-4 * other], 1)

    limit = RadiusSearch._limit

    def watched(self, rows, evaluation, logits, grad):
        nonlocal turned
        before = rows.state.u.clone()
        limit(self, rows, evaluation, logits, grad)
        if not rows.state.limited:
            return
        wrong = self.misled[rows.index] & (logits.argmax(1) == 2) & (logits[:, 2] - logits[:, 0] > evaluation.rounding)
        assert (rows.target[wrong] == 1).all()  # the second of the classes 1 and 2
        strayed = wrong & (evaluation.value <= evaluation.rounding)
        flat = self.misled[rows.index] & ~wrong & (grad == 0).all(1) & (before != 0).any(1)
        assert rows.state.lost[strayed | flat].all()
        turned += int(strayed.sum())
        seen.append((rows, (strayed | flat).clone(), before))

    step = RadiusSearch.step

    def stepped(self, rows):
        step(self, rows)
        if seen and seen[-1][0] is rows:
            _, back, before = seen.pop()
            torch.testing.assert_close(rows.state.u[back], 0.5 * before[back])

    monkeypatch.setattr(RadiusSearch, "_limit", watched)
    monkeypatch.setattr(RadiusSearch, "step", stepped)
    task, _ = attack(model, x, torch.zeros(10, dtype=torch.long), MinRadius(Lp(2)), gradients=100)
    assert task.best.distance.isfinite().all()
    assert turned


def test_l1_starts_once_more_where_other_pixels_move():
    """The race of five classes is 27 gradients; the next is taken at most 1.5 lengths of the best perturbation away, at
    pixels that it leaves alone."""
    model, x, y = curved()
    points = []

    def watched(z):
        points.extend([z.detach().clone()] if z.requires_grad else [])
        return model(z)

    before, _ = attack(model, x, y, MinRadius(Lp(1)), gradients=27)
    attack(watched, x, y, MinRadius(Lp(1)), gradients=28)
    start, best = (points[-1][: len(x)] - x).flatten(1), (before.best.x_adv - x).flatten(1)
    assert bool((start != 0).any(1).all())
    assert not bool(((start != 0) & (best != 0)).any())
    length = torch.linalg.vector_norm(start, dim=1) / torch.linalg.vector_norm(best, dim=1)
    assert bool((length <= 1.5 * (1 + 1e-5)).all())


def test_l1_goes_to_classes_that_the_race_left_out():
    """Of nine other classes the last by logit is the nearest, at .4, and the first at .5; each moves one pixel."""
    x = torch.full((2, 121), 0.2)

    def model(z):
        u = z - x[0]
        return torch.cat([0 * u[:, :1], u[:, :8] - 0.5 - 0.01 * torch.arange(8), 5 * u[:, 8:9] - 2], 1)

    radii = [
        attack(model, x, torch.zeros(2, dtype=torch.long), MinRadius(Lp(1)), gradients)[0].best.distance
        for gradients in (150, 190)
    ]
    assert bool((radii[0] > 0.49).all())  # before: where this fails, the test says nothing
    assert bool((radii[1] < 0.42).all())


@pytest.mark.parametrize("classes", [2, 3])
def test_l1_goes_on_where_there_is_no_further_class(classes):
    model, x, y, _, _ = linear(classes, images=2)
    targets = None if classes == 2 else (y + 1) % classes
    task, _ = attack(model, x, y, MinRadius(Lp(1)), 155, targets=targets)
    assert bool((task.model.gradients == 155).all())


def test_an_image_without_a_point_never_settles():
    def model(z):
        return torch.stack([1 + z.square().sum(1), 0 * z.sum(1)], 1)

    x, y = torch.full((1, 128), 0.5), torch.zeros(1, dtype=torch.long)
    task, found = attack(model, x, y, MinRadius(Lp(2)), 400)
    assert found.status == [Status.BUDGET]
    assert task.model.gradients.tolist() == [400]
