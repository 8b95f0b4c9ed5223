"""The attack for distances without a prox: exact radii, budgets, other images, what it spends, what it says."""

import pytest
import torch
from torch import nn

import plica
from linear import linear
from plica import Lp, MaxLoss, MinRadius, Perceptual, Similarity, Status
from plica.attacks.curved import CurvedSchedule
from plica.attacks.metric_oracle import MetricOracle
from plica.attacks.registry import ATTACKS
from plica.core.model.counted import CountedModel


def blurred(x, x_adv):
    """The README's: the l_2 norm of what averaging over 2 x 2 pixels leaves, and a tenth of the whole."""
    delta = x_adv - x
    coarse = nn.functional.avg_pool2d(delta, 2)
    return coarse.flatten(1).norm(dim=1) + 0.1 * delta.flatten(1).norm(dim=1)


def squared(x, x_adv):
    return (x_adv - x).square().flatten(1).sum(1)


def convolutional(b=5, seed=0):
    """A small network with smooth activations, and images it is right about by definition."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = nn.Sequential(
            nn.Conv2d(3, 6, 3, 2), nn.ELU(), nn.Conv2d(6, 8, 3, 2), nn.ELU(), nn.Flatten(), nn.Linear(72, 4)
        )
    x = torch.rand(b, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    return net.eval(), x, net(x).argmax(1)


def ask(net, x, y, question, gradients=30, **more):
    return plica.attack(net, x, y, question, method="curved", gradients=gradients, **more)


@pytest.mark.parametrize("p", [1.5, 2, 4])
def test_exact_radius_of_a_linear_model(p):
    """The metric as a black box: only its values and gradients are asked for."""
    case = linear()

    def black_box(x, x_adv):
        return Lp(p)(x, x_adv)

    found = ask(case.model, case.x, case.y, MinRadius(black_box), gradients=40)
    assert found.success.all()
    torch.testing.assert_close(found.distance, case.radius(p), rtol=1e-2, atol=0)
    assert (found.distance >= case.radius(p) * (1 - 1e-6)).all()


def test_the_square_of_a_distance_leads_to_the_same_points():
    case = linear()
    found = ask(case.model, case.x, case.y, MinRadius(squared), gradients=40)
    torch.testing.assert_close(found.distance.sqrt(), case.radius(2), rtol=5e-3, atol=0)


def test_a_norm_and_its_square_are_told_apart():
    _, x, _ = convolutional()
    direction = torch.randn(x[0].numel(), generator=torch.Generator().manual_seed(0))
    direction /= direction.norm()
    queries = CountedModel(lambda z: z, len(x))
    for metric, expected in ((squared, True), (blurred, False), (Lp(1.5), False), (Similarity("ssim"), True)):
        measure = MetricOracle(metric, x, queries)
        assert (measure.quadratic(direction, (0.0, 1.0)) == expected).all()
        assert (measure.gradients == 0).all()


def test_auto_takes_it_where_there_is_no_prox():
    net, x, y = convolutional()
    for metric, method in ((blurred, "curved"), (Lp(2), "radius")):
        found = plica.attack(net, x, y, MinRadius(metric), gradients=12)
        same = plica.attack(net, x, y, MinRadius(metric), gradients=12, method=method)
        assert torch.equal(found.x_adv, same.x_adv)
    assert set(ATTACKS) >= {"auto", "curved"}


@pytest.mark.parametrize(
    ("metric", "budgets"), [(blurred, (1, 4, 9, 20, 60)), (squared, (1, 9, 20))], ids=["norm", "square"]
)
def test_more_gradients_are_never_worse(metric, budgets):
    net, x, y = convolutional()
    last = torch.full((len(x),), torch.inf, dtype=torch.float64)
    for gradients in budgets:
        found = ask(net, x, y, MinRadius(metric), gradients=gradients)
        assert (found.gradients <= gradients).all()
        assert (found.forwards <= max(2, gradients / 5)).all()
        assert (found.distance <= last * (1 + 1e-6)).all()
        last = found.distance
    assert found.success.all()


@pytest.mark.parametrize("kind", ["norm", "features", "ssim"])
def test_answers_do_not_depend_on_other_images(kind):
    """Equal to the bit alone, in another order, in other batches."""
    net, x, y = convolutional(b=4)
    metric = {"norm": blurred, "features": Perceptual.of(net, ["1", "3"]), "ssim": Similarity("ssim")}[kind]
    found = ask(net, x, y, MinRadius(metric), gradients=6)
    assert found.success.any()
    for rows, more in (([3], {}), ([2, 0, 3, 1], {"batch_size": 3})):
        other = ask(net, x[rows], y[rows], MinRadius(metric), gradients=6, **more)
        assert torch.equal(found.x_adv[rows], other.x_adv)
        assert torch.equal(found.distance[rows], other.distance)
        assert torch.equal(found.stationarity[rows], other.stationarity)
        assert torch.equal(found.metric_gradients[rows], other.metric_gradients)


def test_gradients_of_the_model_and_of_the_metric_are_counted_apart():
    net, x, y = convolutional()
    runs = {"model": 0, "metric": 0}

    def model(z):
        runs["model"] += z.requires_grad
        return net(z)

    def metric(a, b):
        runs["metric"] += b.requires_grad
        return blurred(a, b)

    found = ask(model, x, y, MinRadius(metric), gradients=12)
    assert (found.gradients == 12).all()
    # five images fit one padded call; the check on entry asks twice, without the model
    assert runs["model"] <= 12
    assert (found.metric_gradients >= 12).all()
    assert (plica.attack(net, x, y, MinRadius(Lp(2)), gradients=12).metric_gradients == 0).all()


@pytest.fixture(scope="module")
def nearest():
    """The distances that 40 gradients find."""
    return ask(*convolutional(), MinRadius(blurred), gradients=40).distance


def test_max_loss_stops_at_the_first_point_within_the_radius(nearest):
    net, x, y = convolutional()
    radius = nearest
    found = ask(net, x, y, MaxLoss(blurred, 1.2 * radius), gradients=40)
    assert found.success.all()
    assert (found.distance <= 1.2 * radius).all()
    assert (found.gradients < 40).all()
    assert found.status == [Status.SUCCEEDED] * len(x)
    none = ask(net, x, y, MaxLoss(blurred, 0.7 * radius), gradients=40)
    assert not none.success.any()
    assert (none.gradients == 40).all()


def test_targets(nearest):
    net, x, y = convolutional()
    targets = (y + 1) % 4
    found = ask(net, x, y, MinRadius(blurred), gradients=40, targets=targets)
    assert found.success.all()
    assert torch.equal(net(found.x_adv).argmax(1), targets)
    assert (found.distance >= nearest * 0.98).all()


def test_an_image_at_which_the_model_is_not_finite_leaves_the_others_alone():
    net, x, y = convolutional()

    def broken(z):
        logits = net(z)
        first = (z.flatten(1)[:, :5] - x[1].flatten()[:5]).abs().amax(1)  # image 1 and what lies around it
        return torch.where(((first > 0) & (first < 0.1))[:, None], torch.nan, logits)

    found = ask(broken, x, y, MinRadius(blurred), gradients=20)
    alone = ask(net, x, y, MinRadius(blurred), gradients=20)
    others = [0, 2, 3, 4]
    assert torch.equal(found.x_adv[others], alone.x_adv[others])
    assert not found.success[1]


def test_stationarity_falls():
    net, x, y = convolutional()
    early, late = (ask(net, x, y, MinRadius(squared), gradients=g).stationarity for g in (12, 120))
    assert late.median() < 0.1 * early.median()


def test_each_distance_is_lowered_in_the_way_that_suits_it(monkeypatch):
    """Smooth but ill-conditioned: L-BFGS is nearer; with kinks: averaged steps are; the first step tells which."""
    net, x, y = convolutional()
    weights = torch.logspace(-3, 0, 768)[torch.randperm(768, generator=torch.Generator().manual_seed(3))]
    turn = torch.linalg.qr(torch.randn(64, 64, generator=torch.Generator().manual_seed(4)))[0]

    def turned(delta):
        return (delta.view(-1, 12, 64) @ turn.to(delta)).flatten(1)

    def uneven(x, x_adv):
        return (turned(x_adv - x) * weights.to(x)).square().sum(1)

    def kinked(x, x_adv):
        return turned(x_adv - x).abs().sum(1)

    chosen, forced = [ask(net, x, y, MinRadius(metric), gradients=14) for metric in (uneven, kinked)], []
    for smooth in (torch.inf, 0):
        schedule = CurvedSchedule(smooth=smooth)
        monkeypatch.setattr("plica.attacks.curved.SCHEDULE", schedule)
        forced.append([ask(net, x, y, MinRadius(metric), gradients=14) for metric in (uneven, kinked)])
    (averaged_uneven, averaged_kinked), (newton_uneven, newton_kinked) = forced
    assert torch.equal(chosen[0].distance, newton_uneven.distance)
    assert (newton_uneven.distance < 0.8 * averaged_uneven.distance).all()
    assert torch.equal(chosen[1].distance, averaged_kinked.distance)
    assert averaged_kinked.distance.median() < 0.98 * newton_kinked.distance.median()


def test_max_loss_when_the_last_image_is_answered_at_the_end_of_the_race(monkeypatch):
    """No image is left for the rounds that follow."""
    net, x, y = convolutional()
    # a last gradient by which an image gets nearer: not the same on every machine and with every release of torch
    for last in range(20, 40):
        monkeypatch.setattr("plica.attacks.curved.SCHEDULE", CurvedSchedule(race_until=last))
        before, at = (ask(net, x, y, MinRadius(blurred), gradients=g).distance for g in (last - 1, last))
        nearer = (at < before).nonzero()[:1, 0]
        if len(nearer):
            break
    question = MaxLoss(blurred, at[nearer] / CurvedSchedule().inside * (1 + 1e-7))
    found = ask(net, x[nearer], y[nearer], question, gradients=2 * last)
    assert found.success.all()
    assert found.gradients.tolist() == [last]
