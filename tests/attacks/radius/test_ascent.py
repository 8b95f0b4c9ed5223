"""Direct ascent: the worst margin of a ball on linear models, its counted cost, and networks whose outputs saturate."""

import importlib.util
import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import plica
import shared_data
from linear import linear
from plica import Lp, MaxLoss, MinRadius
from plica.attacks.base import AttackInput
from plica.attacks.prox_settings import prox_settings
from plica.attacks.radius import search
from plica.attacks.radius.ascent import ascend
from plica.core.goals import Goal
from plica.core.judging.best import BestPoints
from plica.core.losses import margin
from plica.core.model.counted import CountedModel
from programs import least_norm

DATA = shared_data.SHARED
STEPS = 8


def climb(case, p, radius, images, start=None, bounds=(0.0, 1.0)):
    metric = Lp(p)
    with torch.no_grad():
        logits = case.model(case.x)
    archive = BestPoints(metric, case.x, Goal(case.y), None)
    model = CountedModel(case.model, len(case.x))
    task = AttackInput(model, archive, case.x, Goal(case.y), logits, MinRadius(metric), None, 100,
                0, bounds, 64, lambda done: None)  # fmt: skip
    u = torch.zeros(len(images), case.x[0].numel()) if start is None else start
    settings = prox_settings(metric, case.x, bounds)
    return task, *ascend(task, images, settings, u, radius[images], STEPS, STEPS)


@pytest.mark.parametrize("p", [1.5, 2, 4, 8, math.inf])
def test_the_worst_margin_of_a_ball(p):
    """For a linear model one direction is best throughout; for p <= 1 steps are shared out and fall short of it."""
    case = linear()
    radius, every = (1.2 * case.radius(p)).float(), torch.arange(len(case.x))
    task, u, target = climb(case, p, radius, every)
    z = case.x + u.view_as(case.x)
    assert (Lp(p)(case.x, z) <= radius * (1 + 1e-5)).all()
    reached = margin(case.model(z), case.y, None).double()
    torch.testing.assert_close(reached, case.worst(p, radius.double()), rtol=1e-3, atol=1e-4)  # float32
    assert target.tolist() == [0] * len(case.y)  # the only alternative
    assert task.model.gradients.tolist() == [STEPS] * len(every)
    assert task.best.distance.isfinite().all()


@pytest.mark.parametrize("p", [0.5, 1])
def test_it_climbs_where_one_pixel_is_cheapest(p):
    case = linear()
    radius, every = (1.5 * case.radius(p)).float(), torch.arange(len(case.x))
    _, u, _ = climb(case, p, radius, every)
    assert (Lp(p)(torch.zeros_like(u), u) <= radius * (1 + 1e-5)).all()
    reached = margin(case.model(case.x + u.view_as(case.x)), case.y, None).double()
    assert (reached > case.margin).all()


@pytest.mark.parametrize("p", [2, 8])
def test_alone_and_in_a_batch(p):
    case = linear(shape=(3, 5, 5))  # 75 numbers: pow rounds the last ones of a block differently
    radius, every = (1.2 * case.radius(p)).float(), torch.arange(len(case.x))
    together = climb(case, p, radius, every)[1]
    for some in ([3], [5, 0]):
        assert torch.equal(climb(case, p, radius, torch.tensor(some))[1], together[some])


@pytest.mark.parametrize("p", [1, 2, math.inf])
def test_no_point_leaves_the_ball_or_the_box(p):
    """Nor does the first, whose start may."""
    case, seen = linear(bounds=(0.0, 0.4)), []
    radius, every = torch.full((len(case.x),), 0.3), torch.arange(len(case.x))
    start = torch.randn(len(case.x), 48, generator=torch.Generator().manual_seed(0))

    def model(z):
        seen.append(z[: len(case.x)].detach().clone())  # the rest is padding
        return case.model(z)

    u = climb(replace(case, model=model), p, radius, every, start, (0.0, 0.4))[1]
    for z in [*seen[1:], case.x + u.view_as(case.x)]:  # the first call is for the images themselves
        assert ((z >= 0) & (z <= 0.4)).all()
        assert (Lp(p)(case.x, z) <= 0.3 * (1 + 1e-5)).all()


def test_a_gradient_that_is_no_number_leaves_the_point_where_it_is():
    case = linear()

    def model(z):
        return case.model(z) + 0 * (z - z.detach()).flatten(1).sum(1, keepdim=True).sqrt()

    radius, every = torch.full((len(case.x),), math.inf), torch.arange(len(case.x))
    u = climb(replace(case, model=model), 2, radius, every)[1]
    assert (u == 0).all()


@pytest.mark.parametrize("p", [1, 2, math.inf])
@pytest.mark.parametrize("radius", [math.inf, 0.3])
def test_where_the_gradient_is_zero_it_stays(radius, p):
    case = linear()

    def model(z):
        assert z.isfinite().all()
        return torch.tensor([[0.0, -9.0]]) + 0 * z.flatten(1).sum(1, keepdim=True)

    every = torch.arange(len(case.x))
    case = replace(case, model=model, y=torch.zeros_like(case.y))
    assert (climb(case, p, torch.full((len(case.x),), radius), every)[1] == 0).all()


def test_the_alternative_whose_margin_is_largest_at_the_end_is_returned():
    torch.manual_seed(0)
    case, net = linear(), nn.Sequential(nn.Flatten(), nn.Linear(48, 5))
    case, every = replace(case, model=net, y=torch.full_like(case.y, 4)), torch.arange(len(case.x))
    _, u, target = climb(case, 2, torch.full((len(case.x),), 0.3), every)
    assert torch.equal(target, net(case.x + u.view_as(case.x))[:, :4].argmax(1))
    assert (target > 0).any()


BEYOND = {
    "no number": lambda length: torch.where(length > 1.2, math.nan, 0),
    "infinite": lambda length: torch.where(length > 1.2, -math.inf, 0),
    "a gradient that is no number": lambda length: 0 * ((length < 1.2) * (1.2 - length)).sqrt(),
}


@pytest.mark.parametrize("radius", [math.inf, 3.0])
@pytest.mark.parametrize("beyond", BEYOND)
def test_where_something_is_not_finite_it_turns_halfway_back(beyond, radius):
    """Its first steps lead there. It stayed there, and in later rounds too."""
    case, seen = linear(b=1), []
    case = replace(case, x=torch.full_like(case.x, 0.5), y=torch.zeros_like(case.y))

    def length(z):
        return (z - case.x).flatten(1).sum(1) / 48**0.5

    def model(z):
        seen.append(float(length(z)[0].detach()))
        margin = length(z) - 1 + BEYOND[beyond](length(z))
        return torch.stack([-margin / 2, margin / 2], 1)

    task, u, _ = climb(replace(case, model=model), 2, torch.tensor([radius]), torch.tensor([0]), bounds=(-9.0, 9.0))
    assert max(seen) > 1.2
    assert 0 < length(case.x + u.view_as(case.x)) <= 1.2
    assert 1 < task.best.distance < 1.2


@pytest.fixture
def load():
    if not DATA.exists():
        pytest.skip(f"needs trained networks and verification instances, looked for in {DATA}")
    spec = importlib.util.spec_from_file_location("load", DATA / "load.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("name", "p", "most"),
    [("mnist-net_256x2", 2, 1.4), ("mnist-net_256x2", math.inf, 1.4), ("mnist-net_256x4", 1, 2.3)],
)
def test_flat_logits_do_not_lead_far_away(load, name, p, most):
    """By linear models at the image the boundary is four (256x2) and ten times too far in the median, and most of the
    cube is flat and of one class. With steps as long as that, radii of 256x4 under l_1 were 5.3 times those of 1000
    gradients; those of 256x2 were 1.7 times these where rows went on aiming at another class than that of the cube."""
    net, (x, y) = load.load_net(name), load.mnist()
    x, y = torch.tensor(x[:40]).float() / 255, torch.tensor(y[:40])
    right = net(x).argmax(1) == y
    few, many = (
        plica.attack(net, x[right], y[right], MinRadius(Lp(p)), gradients=gradients).distance
        for gradients in (30, 1000)
    )
    assert (few / many).log().mean().exp() < most


def test_a_saturated_network(load):
    """An instance of VNN-COMP with a known counterexample within 0.05; linear models from the image ended at 0.086."""
    instances = load.vnncomp("mnist-net_256x6")
    rows = np.flatnonzero(instances["truth"] == 1)
    x, y = torch.tensor(instances["x"][rows]).float() / 255, torch.tensor(instances["label"][rows])
    question = MaxLoss(Lp("inf"), torch.tensor(instances["eps"][rows]).float())
    assert plica.attack(load.load_net("mnist-net_256x6"), x, y, question, gradients=300).success.all()


@pytest.mark.parametrize("p", [1, 2, math.inf])
def test_beyond_a_step_of_flat_logits_the_search_goes_halfway_back(p):
    """By linear models at the image the boundary is far outside the box, and by those beyond it the image itself is
    misclassified."""
    across, seen = torch.ones(128), []

    def model(z):
        if z.requires_grad:
            seen.append((z[0] - x[0]).detach())
        margin = torch.tanh(3 * ((z - 0.5) @ across - 1))
        return torch.stack([-margin, margin], 1)

    x = torch.full((1, 128), 0.5)
    plica.attack(model, x, torch.zeros(1, dtype=torch.long), MinRadius(Lp(p)), gradients=16)
    away = [float(u @ across) for u in seen]
    far = next(k for k, side in enumerate(away) if side > 4)
    for step in range(far, far + 3):  # the boundary is at 1
        torch.testing.assert_close(seen[step + 1], seen[step] / 2, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("p", [1, 2])
def test_linear_models_that_mislead_at_an_image_change_no_other_image(p):
    draw = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Linear(128, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 4)).eval()
    for part in net.parameters():  # so large that logits are flat around some of the images
        part.data = torch.randn(part.shape, generator=draw) * (8 / part.shape[-1] ** 0.5 if part.ndim > 1 else 0.1)
    x = torch.rand(8, 128, generator=torch.Generator().manual_seed(1))
    y = net(x).argmax(1)
    together = plica.attack(net, x, y, MinRadius(Lp(p)), gradients=40)
    for i in range(8):
        alone = plica.attack(net, x[i : i + 1], y[i : i + 1], MinRadius(Lp(p)), gradients=40)
        assert torch.equal(alone.x_adv[0], together.x_adv[i])


@pytest.mark.parametrize("p", [1.5, 3])
def test_an_image_without_a_point_spends_as_much_alone_as_beside_others(p):
    """Alone, no gradients were put aside for the ascent that it cannot make, and it was searched from other points."""
    net = nn.Linear(128, 2)
    net.weight.data, net.bias.data = torch.stack([torch.zeros(128), torch.ones(128)]), torch.tensor([0.0, -100.0])
    x, y = torch.stack([torch.full((128,), 0.7), torch.full((128,), 0.4)]), torch.zeros(2, dtype=torch.long)

    def flat(z):
        return net(z).clamp(min=-30)

    together = plica.attack(flat, x, y, MinRadius(Lp(p)), gradients=60)
    assert together.success.tolist() == [True, False]
    alone = plica.attack(flat, x[1:], y[1:], MinRadius(Lp(p)), gradients=60)
    assert int(alone.gradients) == int(together.gradients[1])


def thin(scale=1.0):
    """Four slabs and their common center; a model whose wrong region is what they have in common; images and labels.
    The margin is -.19 on average at the images, and .02 at most, times the scale."""
    draw = torch.Generator().manual_seed(0)
    slabs = torch.randn(4, 144, generator=draw) / 12
    center = 0.5 + 0.1 * torch.randn(144, generator=draw)
    x, y = 0.35 + 0.3 * torch.rand(8, 144, generator=draw), torch.zeros(8, dtype=torch.long)

    def model(z):
        return scale * torch.stack([((z - center) @ slabs.T).abs().amax(1), 0.02 + 0 * z.sum(1)], 1)

    assert (model(x).argmax(1) == 0).all()
    return slabs, center, model, x, y


@pytest.mark.parametrize(("p", "furthest"), [(1, 1.25), (2, 1.05), (math.inf, 1.05)])
def test_a_thin_wrong_region_is_found(p, furthest):
    """An aim in proportion to the margin is never reached, and steps that come to the boundary of one slab leave
    another."""
    slabs, center, model, x, y = thin()
    result = plica.attack(model, x, y, MinRadius(Lp(p)), gradients=100)
    planes = torch.cat([slabs, -slabs]).double().numpy()
    inner = ((center - x).double() @ slabs.double().T).numpy()  # of the middle of the slabs, seen from the image
    exact = [
        least_norm(p, planes, np.concatenate([middle, -middle]) - 0.02, -image.numpy(), 1 - image.numpy())
        for image, middle in zip(x.double(), inner, strict=True)
    ]
    ratio = result.distance / torch.tensor(exact)
    assert (ratio > 1 - 1e-4).all()  # float32
    assert ratio.log().mean().exp() < furthest


@pytest.mark.parametrize("scale", [2.0**-66, 2.0**66])
def test_a_thin_wrong_region_is_found_whatever_the_size_of_outputs(scale):
    """The square of a gradient of 1e20 is inf in float32, and that of 1e-20 is 0."""
    usual, scaled = (
        plica.attack(*thin(size)[2:], MinRadius(Lp("inf")), gradients=100).distance for size in (1.0, scale)
    )
    assert usual.isfinite().all()
    assert torch.equal(usual, scaled)


def test_ascents_go_on_where_they_ended_until_there_is_a_point_and_start_at_random_points_then(monkeypatch):
    _, _, model, x, y = thin()
    calls = []

    def watched(task, images, settings, u, radius, steps, planned):
        calls.append((u, radius, ascend(task, images, settings, u, radius, steps, planned)[0]))
        return calls[-1][2], torch.zeros_like(images)

    monkeypatch.setattr(search, "ascend", watched)
    monkeypatch.setattr(search, "SCHEDULE", replace(search.SCHEDULE, long_ascent=2, small_steps=()))
    plica.attack(model, x, y, MinRadius(Lp("inf")), gradients=210)
    assert len(calls) > 2
    assert (calls[0][0] == 0).all()
    without = 0
    for (_, _, end), (u, radius, _) in itertools.pairwise(calls):
        none = radius.isinf()
        without += int(none.sum())
        assert torch.equal(u[none], end[none])
        torch.testing.assert_close(u[~none].norm(dim=1), 12 * radius[~none])  # the square root of 144
    assert 0 < without < 8 * (len(calls) - 1)


def test_rows_that_start_at_the_end_of_an_ascent_aim_at_the_class_that_is_nearest_there(monkeypatch):
    torch.manual_seed(0)
    net, starts = nn.Linear(128, 5), []
    x = torch.rand(4, 128)
    start = search.RadiusSearch._start

    def watched(self, target, u, eta):
        starts.append((target, u))
        return start(self, target, u, eta)

    monkeypatch.setattr(search.RadiusSearch, "_start", watched)
    monkeypatch.setattr(search, "ascend", lambda task, images, *_: (torch.full((4, 128), 0.125), torch.arange(4)))
    plica.attack(net, x, net(x).argmax(1), MinRadius(Lp(2)), gradients=70)
    target, u = starts[-1]
    assert (u[-4:] == 0.125).all()
    assert target[-4:].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("target", [None, 1])
def test_small_steps_are_taken_only_without_a_target_class(target, monkeypatch):
    _, _, model, x, y = thin()
    small_steps, taken = search.RadiusSearch._small_steps, []

    def watched(self, number):
        taken.append(number)
        yield from small_steps(self, number)

    monkeypatch.setattr(search.RadiusSearch, "_small_steps", watched)
    targets = None if target is None else torch.full_like(y, target)
    plica.attack(model, x, y, MinRadius(Lp(2)), gradients=160, targets=targets)
    assert taken == ([0] if target is None else [])
