"""The radius search in few dimensions: exact on piecewise linear networks, found wherever there is another class, and
never worse for a larger budget."""

import copy
import itertools
import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import plica
from plica import Lp, MaxLoss, MinRadius, Status, WeightedLp
from plica.attacks.radius.few import FewSearch
from plica.core.judging.confirm import SAFE, SURE
from plica.core.losses import margin

NORMS = (1, 2, math.inf)


def network(n, classes, seed, width=12):
    """A ReLU network with random weights of which no class wins everywhere, and images in [0, 1]^n."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = nn.Sequential(
            nn.Linear(n, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, classes)
        )
        x = torch.rand(6, n)
        with torch.no_grad():
            net[0].weight *= 3
            net[4].bias -= net(torch.rand(500, n)).mean(0)
    return net.eval().requires_grad_(False), x, net(x).argmax(1)


def cancelling(seed):
    """Two classes of opposite logits, both 0 at the boundary, where the roundings of what they are summed from exceed
    what float32 itself can say of them: float64 refuses points of float32 there."""
    model, x, _ = network(30, 2, seed, width=40)
    last = model[4]
    last.weight[1] = -last.weight[0]
    last.bias.fill_(-(model[:4](x) @ last.weight[0]).mean())
    last.bias[1] *= -1
    return model, x, model(x).argmax(1)


def radii(model, x, y, p, gradients, **kw):
    result = plica.attack(model, x, y, MinRadius(Lp(p)), gradients=gradients, **kw)
    return result.distance


def by_grid(model, x, y, p, points=401):
    """The distance to the nearest point of another class on a grid of the unit square."""
    side = torch.linspace(0, 1, points)
    grid = torch.cartesian_prod(side, side)
    label = model(grid).argmax(1)
    d = torch.linalg.vector_norm(grid[None] - x[:, None], p, dim=2)
    return torch.where(label[None] != y[:, None], d, torch.inf).amin(1), 2 / (points - 1)


@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize("seed", [0, 1])
def test_no_point_of_a_fine_grid_is_nearer(p, seed):
    model, x, y = network(2, 3, seed)
    nearest, step = by_grid(model, x, y, p)
    found = radii(model, x, y, p, 60)
    assert (found <= nearest * (1 + 1e-4)).all()
    assert (found >= nearest - 2 * step).all()


@pytest.mark.parametrize("p", NORMS)
def test_classes_that_no_gradient_at_the_image_points_to(p):
    """Other classes are so rare that random points seldom meet them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        core = nn.Sequential(nn.Linear(5, 50), nn.ReLU(), nn.Linear(50, 50), nn.ReLU(), nn.Linear(50, 5))
        x = torch.rand(20, 5) - 0.5
    result = plica.attack(lambda u: core(6 * u), x, core(6 * x).argmax(1), MinRadius(Lp(p)), bounds=(-0.5, 0.5))
    assert result.success.all()


@pytest.mark.parametrize("p", NORMS)
def test_margins_with_many_maxima_below_the_boundary(p):
    """The other class wins at 2 of 10,000 random points; steps towards the image end where its margin is -.0013."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3)).eval().requires_grad_(False)
        x = torch.rand(4, 16)
    result = plica.attack(model, x, model(x).argmax(1), MinRadius(Lp(p)), gradients=60)
    assert result.success.all()


@pytest.mark.parametrize("p", NORMS)
def test_a_zero_gradient_at_the_image_is_said_and_points_elsewhere_are_tried(p):
    w = torch.randn(8, 1, generator=torch.Generator().manual_seed(0))

    def model(z):
        s = (z - 0.5) @ w
        return torch.cat([torch.full_like(s, 0.3), s.abs()], 1)

    x = torch.full((3, 8), 0.5)
    result = plica.attack(model, x, torch.zeros(3, dtype=torch.long), MinRadius(Lp(p)), gradients=30)
    exact = 0.3 / torch.linalg.vector_norm(w, 1 / (1 - 1 / p) if p > 1 else math.inf)
    torch.testing.assert_close(result.distance.float(), exact.expand(3), rtol=1e-3, atol=0)
    assert result.status == [Status.ZERO_GRADIENT] * 3
    inside = plica.attack(model, x, torch.zeros(3, dtype=torch.long), MaxLoss(Lp(p), 2 * float(exact)), gradients=100)
    assert inside.success.all()
    assert inside.status == [Status.SUCCEEDED] * 3


def test_a_gradient_of_zero_elsewhere_is_not_one_at_the_image():
    """The status was that of the second point where no search had restarted yet."""
    w = torch.linspace(-1, 1, 10)

    def model(z):  # linear at the images, constant elsewhere
        there = ((z - 0.5).abs().amax(1) < 1e-3).to(z)
        s = there * (z @ w.to(z))
        return torch.stack([torch.full_like(s, 2.0), s, -2 * s], 1)

    x = torch.full((3, 10), 0.5)
    result = plica.attack(model, x, torch.zeros(3, dtype=torch.long), MinRadius(Lp(2)), gradients=30)
    assert result.status == [Status.BUDGET] * 3


@pytest.mark.parametrize("p", NORMS)
def test_inputs_rounded_in_the_network(p):
    model, x, y = network(6, 3, 2)
    result = plica.attack(lambda z: model((7 * z).round() / 7), x, y, MinRadius(Lp(p)))
    right = result.status.count(Status.ZERO_GRADIENT)
    assert right >= 3
    assert result.success.all()


@pytest.mark.parametrize("p", NORMS)
def test_weights_and_fixed_features(p):
    model, x, y = network(4, 3, 3)
    weights = torch.tensor([1.0, 2.0, math.inf, 0.5])
    result = plica.attack(model, x, y, MinRadius(WeightedLp(p, weights)))
    assert torch.equal(result.x_adv[:, 2], x[:, 2])
    scaled = plica.attack(model, x, y, MinRadius(WeightedLp(p, 2 * weights)))
    torch.testing.assert_close(scaled.distance, 2 * result.distance, rtol=2e-3, atol=0)


@pytest.mark.parametrize("p", NORMS)
def test_an_image_alone_and_in_a_batch(p):
    model, x, y = network(8, 4, 4, width=16)  # of sizes for which a layer's bits do not depend on the batch
    together = plica.attack(model, x, y, MinRadius(Lp(p)), gradients=60)
    for i in (0, 3, 5):
        alone = plica.attack(model, x[i : i + 1], y[i : i + 1], MinRadius(Lp(p)), gradients=60, batch_size=1)
        assert torch.equal(alone.x_adv[0], together.x_adv[i])
        assert alone.status[0] == together.status[i]


@pytest.mark.parametrize("n", [5, 12, 30])
def test_directions_do_not_depend_on_how_many_are_drawn(n):
    """Which depends on the other images: torch draws the last normal numbers in another way, unless there are 16 k."""
    search = object.__new__(FewSearch)
    search.x, search.task = torch.zeros(1, n), SimpleNamespace(seed=3)
    parts = []
    for count in (1, 2, 3, 5, 9, 17, 40):
        search.random = torch.zeros(0, n), torch.zeros(0, n)
        parts.append([part[:count] for part in search._random(count)])
    for directions, points in parts:
        torch.testing.assert_close(directions, parts[-1][0][: len(directions)], rtol=0, atol=0)
        torch.testing.assert_close(points, parts[-1][1][: len(points)], rtol=0, atol=0)


@pytest.mark.parametrize("p", NORMS)
def test_an_image_alone_and_in_a_batch_of_twelve_features(p):
    """Images of a batch drew more directions than one alone, and other ones."""
    net = network(12, 4, seed=1, width=24)[0]
    x = torch.rand(12, 12, generator=torch.Generator().manual_seed(0))
    y = net(x).argmax(1)
    together = plica.attack(net, x, y, MinRadius(Lp(p)), gradients=60)
    for i in range(0, 12, 3):
        alone = plica.attack(net, x[i : i + 1], y[i : i + 1], MinRadius(Lp(p)), gradients=60)
        assert torch.equal(alone.x_adv[0], together.x_adv[i])


def never_worse(budgets, case):
    model, x, y = network(*case)
    for p in NORMS:
        found = [radii(model, x, y, p, budget) for budget in budgets]
        for (few, near), (more, nearer) in itertools.pairwise(zip(budgets, found, strict=True)):
            assert (nearer <= near).all(), f"{more} gradients are worse than {few}: {nearer / near}"


@pytest.mark.parametrize("case", [(2, 3, 5), (12, 4, 6)], ids=str)
def test_a_larger_budget_is_never_worse(case):
    never_worse((5, 9, 10, 14, 15, 20, 30), case)


@pytest.mark.slow
@pytest.mark.parametrize("case", [(2, 3, 5), (12, 4, 6), (12, 2, 7)], ids=str)
def test_a_larger_budget_is_never_worse_from_5_to_1000(case):
    never_worse((*range(5, 61), 100, 300, 1000), case)


def confirmed(model, x, y, budgets):
    """A larger budget loses no point; from 20 gradients on every point is one in float64, too, and a larger budget is
    worse by no more than roundings: a point that float64 refuses is enlarged until its margin is SAFE times as large as
    what float64 changes in it, by a first step of twice the linear model's, which is SURE times as long where forward
    runs are left for one step only."""
    fine = copy.deepcopy(model).double()
    first = margin(fine(x.double()), y).abs()
    for p in NORMS:
        found = torch.zeros(len(x), dtype=torch.bool)
        least = torch.full((len(x),), math.inf, dtype=torch.float64)
        for budget in budgets:
            result = plica.attack(model, x, y, MinRadius(Lp(p)), gradients=budget)
            found |= result.success
            assert torch.equal(found, result.success), f"{budget} gradients lose a point"
            assert (result.forwards <= max(2, budget // 5)).all()
            if budget >= 20:
                assert found.all()
                assert (fine(result.x_adv.double()).argmax(1) != y).all(), f"{budget} gradients"
                near = (result.x_adv * torch.linspace(0.999, 1.001, 200)[:, None, None]).flatten(0, 1)
                changed = margin(fine(near.double()), y.repeat(200)) - margin(model(near).double(), y.repeat(200))
                step = 2 * (1 + SAFE) * (SURE if budget < 30 else 1)
                worse = 1e-5 + step * changed.abs().max() / first
                assert (result.distance <= least * (1 + worse)).all(), f"{budget} gradients: {result.distance / least}"
                least = torch.minimum(least, result.distance)


def test_points_that_float64_refuses_are_enlarged_and_none_is_lost():
    confirmed(*cancelling(0), (10, 19, 20, 30))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_points_that_float64_refuses_are_enlarged_from_5_to_1000(seed):
    confirmed(*cancelling(seed), (*range(5, 61), 100, 300, 1000))


@pytest.mark.parametrize("bounds", [(-math.inf, math.inf), (0.0, math.inf)])
def test_infinite_bounds(bounds):
    """Nothing was found, and the gradient was said to be 0."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 4)).requires_grad_(False)
        x = 0.2 + 0.6 * torch.rand(4, 12)
    ask = {"y": net(x).argmax(1), "question": plica.MinRadius(plica.Lp(2)), "gradients": 20}
    free = plica.attack(net, x, bounds=bounds, **ask)
    wide = plica.attack(net, x, bounds=(bounds[0] if bounds[0] == 0 else -1e3, 1e3), **ask)
    assert free.success.all()
    assert torch.allclose(free.distance, wide.distance, rtol=0.05)
