"""Bounds and fixed pixels of each image: the same answers as one by one, and as for all where they are equal."""

import pytest
import torch
from torch import nn

import plica
from plica import Held, Lp, MaxLoss, MinRadius

torch.manual_seed(0)
NET = nn.Sequential(nn.Flatten(), nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 4)).eval()
X = 0.3 + 0.4 * torch.rand(4, 3, 2, 2, generator=torch.Generator().manual_seed(0))
Y = NET(X).argmax(1)
WIDTH = torch.tensor([0.5, 0.2, 0.5, 0.3]).view(-1, 1, 1, 1)
LOW, HIGH = (X - WIDTH).expand_as(X), (X + WIDTH).expand_as(X)
PIXELS = torch.zeros_like(X, dtype=torch.bool)
PIXELS[0, 0], PIXELS[1, :, 0], PIXELS[3, 1] = True, True, True


def one_by_one(question, bounds, rows=range(4)):
    return [plica.attack(NET, X[k : k + 1], Y[k : k + 1], question(k), bounds=bounds(k), gradients=40) for k in rows]


@pytest.mark.parametrize("method", ["min", "max"])
def test_bounds_of_each_image(method):
    radius = torch.tensor([0.1, 0.2, 0.3, 0.4])
    together = MinRadius(Lp(2)) if method == "min" else MaxLoss(Lp(2), radius)
    alone = (lambda k: together) if method == "min" else (lambda k: MaxLoss(Lp(2), float(radius[k])))
    result = plica.attack(NET, X, Y, together, bounds=(LOW, HIGH), gradients=40)
    for k, single in enumerate(one_by_one(alone, lambda k: (LOW[k], HIGH[k]))):
        assert torch.equal(result.x_adv[k], single.x_adv[0])
        assert result.status[k] is single.status[0]
    assert ((result.x_adv >= LOW) & (result.x_adv <= HIGH)).all()


def test_fixed_pixels_of_each_image():
    result = plica.attack(NET, X, Y, MinRadius(Held(Lp(2), PIXELS)), gradients=40)
    rows = (0, 1, 3)
    alone = one_by_one(lambda k: MinRadius(Held(Lp(2), PIXELS[k])), lambda k: (0.0, 1.0), rows)
    for row, single in zip(rows, alone, strict=True):
        assert torch.equal(result.x_adv[row], single.x_adv[0])
        assert result.distance[row] == single.distance[0]
    assert torch.equal(result.x_adv[PIXELS], X[PIXELS])


def test_equal_bounds_of_each_image_are_bounds_of_all():
    each = plica.attack(NET, X, Y, MinRadius(Lp(2)), bounds=(torch.zeros_like(X), torch.ones_like(X)), gradients=40)
    of_all = plica.attack(NET, X, Y, MinRadius(Lp(2)), bounds=(torch.zeros(3, 2, 2), torch.ones(3, 2, 2)), gradients=40)
    assert torch.equal(each.x_adv, of_all.x_adv)


def test_progress_is_that_of_all_images():
    seen = []
    plica.attack(NET, X, Y, MinRadius(Lp(2)), bounds=(LOW, HIGH), gradients=20, on_progress=seen.append)
    assert seen[-1].done == seen[-1].total == 4
    assert [p.done for p in seen] == sorted(p.done for p in seen)


def test_an_image_outside_its_bounds():
    high = HIGH.clone()
    high[2] = X[2] - 0.01
    with pytest.raises(ValueError, match="x lies outside its bounds in image 2"):
        plica.attack(NET, X, Y, MinRadius(Lp(2)), bounds=(LOW, high))
