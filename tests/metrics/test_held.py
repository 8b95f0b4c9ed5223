"""Weights, pixels that must not move, and bounds of their own for pixels, under distances of every kind."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import plica
from linear import linear
from plica.metrics import fixed_pixels, gradient, lp_form, properties

MASK = torch.zeros(3, 16, 16, dtype=torch.bool)
MASK[:, :, :6] = True  # the left side stays
ENOUGH = {"auto": 20, "pwcf": 60}  # gradients after which every image is broken


@pytest.fixture(scope="module")
def setting():
    """A small network with random weights, smooth pictures away from the walls, and the network's labels."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 8, 3, 2), nn.ReLU(), nn.Flatten(),
                            nn.Linear(72, 5))  # fmt: skip
    x = torch.rand(4, 3, 6, 6, generator=torch.Generator().manual_seed(1)) * 0.8 + 0.1
    x = nn.functional.interpolate(x, size=16, mode="bilinear")
    return net.eval(), x, net(x).argmax(1)


def distances(net):
    return {
        "l2": plica.Lp(2),
        "l1.5": plica.Lp(1.5),
        "linf": plica.Lp("inf"),
        "ciede2000": plica.CIEDE2000(),
        "ssim": plica.Similarity("ssim"),
        "features": plica.Perceptual.of(net, ["1"]),
        "dists": plica.DISTS.of(net, ["1"]),
        "own": lambda a, b: (b - a).square().flatten(1).sum(1),
    }


NAMES = tuple(distances(nn.Sequential(nn.Identity(), nn.Identity())))


@pytest.mark.parametrize("method", ["auto", "pwcf"])
@pytest.mark.parametrize("name", NAMES)
def test_held_pixels_stay_to_the_bit(setting, name, method):
    net, x, y = setting
    metric = distances(net)[name]
    found = plica.attack(net, x, y, plica.MinRadius(plica.Held(metric, MASK)), method=method, gradients=ENOUGH[method])
    assert found.success.all()
    assert torch.equal(found.x_adv[:, MASK], x[:, MASK])
    assert torch.allclose(found.distance, metric(x.double(), found.x_adv.double()), rtol=1e-5)


@pytest.mark.parametrize(("p", "method"), [(1.5, "auto"), (2, "auto"), ("inf", "auto"), (1.5, "pwcf"), (2, "pwcf")])
def test_a_linear_model_with_held_pixels_has_the_radius_of_the_others(p, method):
    case = linear(b=4, shape=(3, 4, 4))
    mask = torch.zeros(3, 4, 4, dtype=torch.bool)
    mask[:, 1] = True
    with torch.no_grad():
        grads = torch.stack(
            [torch.autograd.functional.jacobian(lambda z: case.model(z[None])[0], one) for one in case.x]
        )
    logits = case.model(case.x)
    q = {1.5: 3.0, 2: 2.0, "inf": 1.0}[p]
    rows = torch.arange(4)
    w = grads - grads[rows, case.y][:, None]
    gap = logits[rows, case.y][:, None] - logits
    reach = gap / torch.linalg.vector_norm(w.masked_fill(mask, 0).flatten(2), ord=q, dim=2)
    reach[rows, case.y] = torch.inf
    exact = reach.amin(1).double()
    for metric in (plica.Held(plica.Lp(p), mask), plica.Weighted(plica.Lp(p), torch.where(mask, torch.inf, 1.0))):
        found = plica.attack(case.model, case.x, case.y, plica.MinRadius(metric), method=method, gradients=100)
        assert torch.equal(found.x_adv[:, mask], case.x[:, mask])
        assert (found.distance >= exact * (1 - 1e-5)).all()  # roundings of float32 pixels
        assert (found.distance <= exact * (1.005 if method == "auto" else 1.05)).all()  # where 100 gradients end


@pytest.mark.parametrize("method", ["auto", "pwcf"])
@pytest.mark.parametrize("name", ["l2", "linf", "ciede2000", "features"])
def test_bounds_of_each_pixel_are_kept_under_every_distance(setting, name, method):
    net, x, y = setting
    low, high = (x.amin(0) - 0.03).clamp(min=0), (x.amax(0) + 0.03).clamp(max=1)
    question = plica.MinRadius(distances(net)[name])
    found = plica.attack(net, x, y, question, method=method, gradients=ENOUGH[method], bounds=(low, high))
    assert found.success.any()
    assert (found.x_adv >= low).all()
    assert (found.x_adv <= high).all()
    assert (found.x_adv != x).flatten(1).any(1)[found.success].all()


def test_what_a_held_metric_says_of_itself():
    x = torch.rand(2, 3, 16, 16)
    moved = x.clone()
    moved[1] += 0.1
    metric = plica.Held(plica.Lp(2), MASK)
    assert metric(x, moved).tolist() == [0, float("inf")]
    right = torch.where(MASK, x, moved)
    assert torch.allclose(metric(x, right), plica.Lp(2)(x, right))
    assert properties(metric) == replace(properties(plica.Lp(2)), batch_invariant=False)
    assert lp_form(metric).p == 2
    assert torch.equal(lp_form(metric).weights, torch.where(MASK, torch.inf, 1.0))
    assert not properties(plica.Held(plica.CIEDE2000(), MASK)).prox
    assert fixed_pixels(plica.Lp(2), x) is None
    assert torch.equal(fixed_pixels(metric, x), MASK)
    assert torch.equal(
        fixed_pixels(plica.Held(plica.Held(plica.CIEDE2000(), ~MASK), MASK.flip(2)), x), ~MASK | MASK.flip(2)
    )
    assert torch.equal(fixed_pixels(plica.CIEDE2000() + metric, x), MASK)
    assert torch.equal(fixed_pixels(plica.Largest(plica.Lp(1), metric), x), MASK)
    assert torch.equal(fixed_pixels(plica.Weighted(plica.Lp(2), torch.where(MASK, torch.inf, 2.0)), x), MASK)


def test_a_fixed_pixel_has_no_pull_under_a_weighted_norm():
    """inf * 0 made its gradient nan, so that PWCF could not be asked."""
    x = torch.rand(2, 3, 16, 16)
    right = torch.where(MASK, x, x + 0.1)
    value, grad = gradient(plica.Weighted(plica.Lp(2), torch.where(MASK, torch.inf, 2.0)), x, right)
    assert value.isfinite().all()
    assert grad.isfinite().all()
    assert torch.equal(grad[:, MASK], torch.zeros_like(grad[:, MASK]))


def test_what_can_hold_no_pixels():
    with pytest.raises(ValueError, match="not all of them"):
        plica.Held(plica.Lp(2), torch.ones(3, dtype=torch.bool))
    with pytest.raises(ValueError, match="tensor of bool"):
        plica.Held(plica.Lp(2), torch.ones(3))
    with pytest.raises(TypeError, match="takes a callable"):
        plica.Held("l2", MASK)
    with pytest.raises(TypeError, match="takes an l_p norm"):
        plica.Weighted(plica.CIEDE2000(), torch.ones(3))
