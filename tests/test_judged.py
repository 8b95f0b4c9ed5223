"""What becomes of the points of an attack, with a method that offers the points that a test wants: measurements, costs,
seconds, progress, and how many rows run side by side."""

import math
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

from plica import Held, Lp, MaxLoss, MinRadius, Status
from plica.api import judged
from plica.api.batch import FLOATS, VECTORS, default_batch_size, rows_on_gpu
from plica.api.entry import _confirmed
from plica.api.judged import JudgedAttack
from plica.attacks.base import AttackOutput
from plica.attacks.own_precision import EXTRA
from plica.core.goals import Goal
from plica.core.model.counted import CountedModel
from plica.core.model.draws import MeanOfDraws
from plica.core.model.randomness import Randomness
from plica.core.model.second_run import SecondRun
from plica.solver.accelerator import forced
from shift import Shift

X = torch.tensor([[0.2, 0.5], [0.9, 0.5], [0.4, 0.5], [7.0, 0.5]])
Y = torch.zeros(4, dtype=torch.long)


def model(z):
    """Class 1 where the first feature exceeds 0.6; not a number at 7."""
    first = torch.where(z[:, 0] == 7, math.nan, z[:, 0])
    return torch.stack([torch.full_like(first, 0.6), first], 1)


def answered(points, question=None, gradients=20, radius=None, method=None, seen=None, x=X, **output):
    """The result of a method that offers these points for the images that it is given, at 3 gradients and 1 forward
    run for each."""
    counted = CountedModel(model, len(x))
    tasks = []

    def offer(task):
        tasks.append(task)
        every = torch.arange(len(task.x))
        task.model._charge(task.model.gradients, every, 3)
        task.progress(0)
        z = torch.tensor(points)
        task.best.offer(z, every, task.model.logits(z, every))
        task.progress(len(task.x))
        return AttackOutput(
            torch.arange(len(task.x)) / 2, [Status.STATIONARY] * len(task.x),
            **{name: value(task) for name, value in output.items()},
        )  # fmt: skip

    question = question or MinRadius(Lp(2))
    radii = None if radius is None else torch.tensor(radius, dtype=torch.float64)
    call = JudgedAttack(
        counted, x, Goal(torch.zeros(len(x), dtype=torch.long)), question, radii, (0.0, 9.0), gradients, 5, 6,
        seen.append if seen is not None else None,
    )  # fmt: skip
    return call.answer(method or offer), tasks


POINTS = [[0.7, 0.5], [0.5, 0.5]]  # of images 0 and 2, of which the second is no success


def test_what_is_measured_of_each_kind_of_image():
    result, (task,) = answered(POINTS, metric_gradients=lambda task: torch.tensor([4, 5]))
    assert task.x.tolist() == X[[0, 2]].tolist()
    assert (task.gradients, task.seed, task.batch_size, task.bounds) == (20, 5, 6, (0.0, 9.0))
    assert (task.radius, task.fixed) == (None, None)
    assert result.success.tolist() == [True, True, False, False]
    torch.testing.assert_close(result.x_adv, torch.tensor([[0.7, 0.5], [0.9, 0.5], [0.4, 0.5], [7.0, 0.5]]))
    assert result.distance.tolist() == pytest.approx([0.5, 0.0, math.inf, math.inf])
    assert result.margin.tolist()[:3] == pytest.approx([0.1, 0.3, -0.2], rel=1e-5)
    assert result.violation.tolist()[:3] == pytest.approx([0, 0, 0.2], rel=1e-5)
    assert result.margin[3].isnan()
    assert result.prediction.tolist()[:3] == [1, 1, 0]
    names = ["STATIONARY", "MISCLASSIFIED", "STATIONARY", "NOT_FINITE"]
    assert [status.name for status in result.status] == names
    assert result.gradients.tolist() == [3, 0, 3, 0]
    assert result.metric_gradients.tolist() == [4, 0, 5, 0]
    assert result.stationarity.tolist()[::2] == [0, 0.5]
    assert result.stationarity[1::2].isnan().all()
    assert result.forwards.tolist() == [4, 1, 3, 1]  # the image, the point, and two looks or one
    assert (result.theta, result.share, result.end) == (None, None, None)


def test_a_distance_of_zero_is_that_of_the_image_alone():
    """A metric of the second feature alone is 0 at the points of images 0 and 2; all accuracies were 0 there."""
    result, _ = answered([[0.7, 0.5], [0.8, 0.5]], MinRadius(lambda x, z: (z - x)[:, 1].abs()))
    assert result.distance.tolist() == [1e-38, 0.0, 1e-38, math.inf]
    assert result.success.tolist() == [True, True, True, False]


def test_the_end_of_a_search_is_kept_at_its_image():
    result, _ = answered(POINTS, end=lambda task: task.x + 5)
    assert result.end.tolist() == [(X[0] + 5).tolist(), X[1].tolist(), (X[2] + 5).tolist(), X[3].tolist()]


def test_without_metric_gradients_there_are_none():
    result, _ = answered(POINTS)
    assert result.metric_gradients.tolist() == [0] * 4


def test_seconds_are_shared_by_what_the_runs_of_each_image_take(monkeypatch):
    times = iter([10.0, 15.0])
    monkeypatch.setattr(judged, "time", SimpleNamespace(perf_counter=lambda: next(times)))
    result, _ = answered(POINTS)
    spent = [3 * 3 + 4, 1, 3 * 3 + 3, 1]
    assert result.seconds.tolist() == pytest.approx([5 * part / sum(spent) for part in spent])


def test_progress_counts_the_images_that_needed_no_attack():
    seen = []
    answered(POINTS, seen=seen)
    assert [(p.done, p.total, p.gradients) for p in seen] == [(2, 4, 6), (4, 4, 6)]
    assert math.isnan(seen[0].radius)
    assert seen[1].radius == pytest.approx(0.5)


@pytest.mark.parametrize(("gradients", "second", "runs"), [(19, False, 3), (20, True, 4)])
def test_from_four_forward_runs_on_points_are_run_a_second_time(gradients, second, runs, monkeypatch):
    given, first = [], CountedModel.first_logits

    def noted(counted, x, classes, second_run):
        given.append((classes, second_run))
        return first(counted, x, classes, second_run)

    monkeypatch.setattr(CountedModel, "first_logits", noted)
    made = []
    monkeypatch.setattr(judged, "SecondRun", lambda *args: made.append(args) or SecondRun(*args))
    result, _ = answered(POINTS, gradients=gradients)
    assert given == [(True, second)]
    assert result.forwards[0] == runs
    assert bool(made) == second


@pytest.mark.parametrize(
    ("metric", "radius", "fixed"),
    [(Lp(2), [0.0, 0.0, 0.3, 0.3], [True, False]), (Lp(0), [0.9, 0.9, 1.0, 1.0], [True, False])],
)
def test_images_alone_in_their_ball_are_left_out_and_the_others_are_asked(metric, radius, fixed):
    result, (task,) = answered([[0.7, 0.5]], MaxLoss(metric, 1.0), radius=radius)
    assert task.x.tolist() == [X[2].tolist()]
    assert task.radius.tolist() == radius[2:3]
    names = [status.name for status in result.status]
    assert names == ["FIXED", "MISCLASSIFIED", "STATIONARY", "NOT_FINITE"]
    assert result.success.tolist() == [False, True, True, False]


def test_a_radius_of_0_of_a_distance_that_is_no_norm_is_asked():
    distance = lambda x, z: (x - z).flatten(1).square().sum(1)  # noqa: E731
    _, tasks = answered(POINTS, MaxLoss(distance, 1.0), radius=[0.0, 0.0, 0.3, 0.3])
    assert len(tasks[0].x) == 2


def test_without_a_method_nothing_may_move():
    call = JudgedAttack(CountedModel(model, 4), X, Goal(Y), MinRadius(Lp(2)), None, (0.0, 1.0), 20, 0, 8, None)
    result = call.answer(None)
    assert [status.name for status in result.status] == ["FIXED", "MISCLASSIFIED", "FIXED", "NOT_FINITE"]
    assert result.gradients.tolist() == [0] * 4
    assert result.forwards.tolist() == [1] * 4
    assert result.violation.tolist()[:3] == pytest.approx([0.4, 0, 0.2], rel=1e-5)


def test_logits_that_are_all_0_are_no_success():
    result = call_of(CountedModel(torch.zeros_like, 1), X[:1]).answer(None)
    assert [status.name for status in result.status] == ["FIXED"]


@pytest.mark.parametrize(("margin", "success"), [(0.0, False), (0.5, True), (-0.5, False)])
def test_with_draws_an_image_is_wrong_where_most_fresh_ones_are(margin, success):
    """Two draws of the mean and a hundred fresh ones, all the same here."""
    rows = 0

    def net(z):
        nonlocal rows
        rows += len(z)
        return torch.tensor([[0.0, margin]]).repeat(len(z), 1)

    mean = MeanOfDraws(net, 2, Randomness(by_row=True, repeatable=True), 0, X[:1], classes=True)
    result = call_of(CountedModel(mean, 1), X[:1]).answer(None)
    assert result.success.tolist() == [success]
    assert result.share.tolist() == [float(success)]
    assert (result.forwards.item(), result.gradients.item()) == (2 + 100, 0)
    assert rows == 2 + 100


def test_a_radius_of_0_of_a_perturbation_is_asked():
    question, radius, seen = MaxLoss(Lp(2), 0.0, through=Shift()), torch.zeros(1).double(), []
    call_of(CountedModel(model, 1), X[:1], question, radius=radius).answer(lambda task: refused(task, seen))
    assert len(seen) == 1


def refused(task, seen):
    seen.append(task)
    return AttackOutput(torch.zeros(len(task.x)), [Status.STATIONARY] * len(task.x))


def test_pixels_that_must_not_move_are_known_to_the_search_and_to_the_gradients():
    seen, held = [], Held(Lp(2), torch.tensor([False, True]))
    call_of(CountedModel(model, 1), X[:1], MinRadius(held)).answer(lambda task: refused(task, seen))
    assert seen[0].fixed.tolist() == seen[0].model.fixed.tolist() == [False, True]


def test_nothing_is_asked_of_a_method_where_all_images_are_done():
    result, tasks = answered([], x=X[[1, 3]])
    assert tasks == []
    assert result.success.tolist() == [True, False]


def test_a_success_that_the_judge_refuses_is_called_so():
    result, _ = answered(POINTS)
    for before, success, after in (
        (Status.SUCCEEDED, True, Status.SUCCEEDED), (Status.SUCCEEDED, False, Status.REJECTED),
        (Status.BUDGET, False, Status.BUDGET),
    ):  # fmt: skip
        result.status[:] = [before] * 4
        result.success[:] = success
        assert _confirmed(result) == [after] * 4


@pytest.mark.parametrize(
    ("pixels", "rows"),
    [(1, 256), (FLOATS // VECTORS // 256, 256), (FLOATS // VECTORS // 200, 200), (FLOATS // VECTORS // 10, 16)],
)
def test_rows_side_by_side_take_2_to_the_28_numbers_and_are_16_to_256(pixels, rows):
    assert FLOATS == 2**28
    assert VECTORS == 64
    assert default_batch_size(torch.empty(3, pixels)) == rows


@pytest.mark.parametrize(
    ("free", "rows"),
    [(16 * 1000 * 100, 64), (16 * 1000 * 128, 128), (16 * 1000 * 127, 64), (16 * 1000 * 5000, 1024), (1000, 16)],
)
def test_rows_on_a_gpu_are_a_power_of_two_in_a_quarter_of_the_free_bytes(free, rows):
    assert rows_on_gpu(free, 1000) == rows


@pytest.mark.parametrize("spent", [[0, 3], [3, 0], [0, 0], [3, 3]])
def test_a_second_run_is_made_where_one_image_has_forward_runs_left_for_it(monkeypatch, spent):
    """A fifth of 15 gradients, the fewest for which there is one, of which the other image has none left."""
    judges, judged_by = [], judged.confirm

    def confirm(judge, *rest):
        judges.append(judge)
        return judged_by(judge, *rest)

    monkeypatch.setattr(judged, "confirm", confirm)
    call = JudgedAttack(
        CountedModel(model, 2), X[:2], Goal(Y[:2]), MinRadius(Lp(2)), None, (0.0, 1.0), 15, 0, 2, None
    )  # fmt: skip
    call._judge(call._task(torch.arange(2), model(X[:2])), torch.tensor(spent))
    assert (judges[0].second is not None) == (min(spent) == 0)


def call_of(counted, x, question=None, gradients=20, radius=None, **more):
    goal, question = Goal(torch.zeros(len(x), dtype=torch.long)), question or MinRadius(Lp(2))
    return JudgedAttack(counted, x, goal, question, radius, (0.0, 9.0), gradients, 0, 8, None, **more)


def test_theta_is_kept_where_the_point_counts_and_is_that_of_the_image_elsewhere():
    """Of images 0 and 2, the second point is no success."""
    theta = torch.tensor([[0.5], [0.125]])
    question = MinRadius("theta", through=Shift())

    def offer(task):
        every = torch.arange(len(task.x))
        z = task.question.through(task.x, theta)
        task.best.offer(z, every, task.model.logits(z, every), theta=theta)
        return AttackOutput(torch.zeros(2), [Status.STATIONARY] * 2)

    result = call_of(CountedModel(model, len(X)), X, question).answer(offer)
    assert result.theta.tolist() == [[0.5], [0], [0], [0]]
    assert result.distance.tolist() == [1, 0, math.inf, math.inf]
    assert result.x_adv[:3, 0].tolist() == pytest.approx([0.7, 0.9, 0.4])


def test_the_search_under_autocast_is_paid_for(monkeypatch):
    """One run under autocast at the image, 2 of the search and 5 gradients; then three runs of the model itself to the
    boundary. These and the one at the image come on top of a fifth of the gradients, of which the rest is the judge's.
    """
    left, judged_by = [], judged.confirm

    def confirm(judge, through, end, margins, runs):
        left.append(runs.item())
        return judged_by(judge, through, end, margins, runs)

    monkeypatch.setattr(judged, "confirm", confirm)

    def net(z):
        return z * torch.tensor([0.0, 1.0]) + torch.tensor([0.6, -0.2])

    def offer(task):
        every, z = torch.arange(1), torch.tensor([[0.5, 0.9]])
        task.model.logits(z, every)
        task.best.offer(z, every, task.model.logits(z, every))
        task.model._charge(task.model.gradients, every, 5)
        return AttackOutput(torch.zeros(1), [Status.STATIONARY])

    x, spent = torch.tensor([[0.5, 0.5]]), []
    for precision in (None, "bf16"):
        result = call_of(CountedModel(net, 1), x, gradients=100, precision=precision).answer(offer)
        assert result.success.all()
        assert result.gradients.item() == 5
        spent.append(result.forwards.item())
    assert spent == [1 + 2 + 2, 1 + (1 + 2) + 3 + 2]
    assert left == [20 - 1 - 2, 20 - (1 + 2) - 3 - 1 + EXTRA]


@pytest.mark.parametrize(("kind", "looks"), [("plain", 1), ("half", 0), ("draws", 0)])
def test_on_an_accelerator_a_model_is_run_beside_its_copy_once(kind, looks, monkeypatch):
    """Not where it computes in half precision, in which the copy would be another model, nor with draws."""
    seen = []
    monkeypatch.setattr(CountedModel, "beside", lambda counted, finer, x: seen.append(finer))
    net = model
    if kind == "half":
        net = lambda z: model(z.bfloat16()).to(z)  # noqa: E731
    if kind == "draws":
        net = MeanOfDraws(model, 2, Randomness(True, True), 0, X[:1], classes=True)
    for accelerated in (True, False):
        with forced() if accelerated else nullcontext():
            call_of(CountedModel(net, 1), X[:1]).answer(None)
        assert [type(finer) for finer in seen] == [SecondRun] * looks


def test_a_distance_is_checked_before_a_search_and_not_where_nothing_may_move():
    question = MinRadius(lambda x, z: (x - z).abs().sum())
    assert call_of(CountedModel(model, 1), X[:1], question).answer(None).status == [Status.FIXED]
    with pytest.raises(ValueError, match="one distance for each image"):
        call_of(CountedModel(model, 1), X[:1], question).answer(lambda task: pytest.fail("was asked"))
