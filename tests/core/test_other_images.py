"""An answer depends on the image and the seed alone: equal to the bit alone, in a batch, in any order or batch size."""

import importlib.util

import pytest
import torch
from torch import nn

import plica
import shared_data
from plica import Lp, MaxLoss, MinRadius

DATA = shared_data.SHARED / "load.py"
IMAGES = 7


def questions(l2, linf, norms=(1, 2, "inf")):
    """With radii inside of which some images are broken and others not."""
    return (*(MinRadius(Lp(p)) for p in norms), MaxLoss(Lp(2), l2), MaxLoss(Lp("inf"), linf))


def small():
    """A small convolutional network with random weights, on images of CIFAR size."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(3, 8, 5, 4), nn.ReLU(), nn.Conv2d(8, 8, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(72, 5)
        )
    x = torch.rand(IMAGES, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    return net.eval(), x, net(x).argmax(1)


def real():
    """A network and images that it was trained for."""
    if not DATA.exists():
        pytest.skip(f"needs trained networks and images, looked for at {DATA}")
    spec = importlib.util.spec_from_file_location("load", DATA)
    load = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(load)
    net, (x, y) = load.load_net("resnet_2b"), load.cifar10(n=4 * IMAGES, seed=0)
    x, y = torch.from_numpy(x).float() / 255, torch.from_numpy(y)
    right = (net(x).argmax(1) == y).nonzero()[:IMAGES, 0]
    return net, x[right], y[right]


def assert_same(found, other, rows):
    assert torch.equal(found.x_adv[rows], other.x_adv)
    assert torch.equal(found.distance[rows], other.distance)
    assert torch.equal(found.gradients[rows], other.gradients)
    assert [found.status[i] for i in rows] == other.status


def assert_other_images_change_nothing(net, x, y, question, method, gradients):
    def ask(rows, **more):
        return plica.attack(net, x[rows], y[rows], question, method=method, gradients=gradients, **more)

    every = list(range(len(x)))
    found = ask(every)
    assert (found.gradients > 0).all()
    assert found.success.any()
    for rows, more in (
        ([3], {}),  # alone
        ([6, 2, 4, 0, 5, 1, 3], {}),  # another order
        (every, {"batch_size": 3}),  # rows leave, and waiting ones enter
    ):
        assert_same(found, ask(rows, **more), rows)


@pytest.mark.parametrize("question", questions(1.2, 0.035, norms=(1, 1.5, 2, "inf")), ids=str)
def test_small_network(question):
    assert_other_images_change_nothing(*small(), question, "pwcf", gradients=25)


@pytest.mark.parametrize("question", questions(0.3, 0.012, norms=(2,)), ids=str)
def test_trained_network(question):
    assert_other_images_change_nothing(*real(), question, "pwcf", gradients=12)


@pytest.mark.slow
@pytest.mark.parametrize("question", questions(0.3, 0.012), ids=str)
def test_trained_network_to_the_end(question):
    assert_other_images_change_nothing(*real(), question, "pwcf", gradients=25)


def test_several_rows_of_an_image():
    assert_other_images_change_nothing(*small(), MinRadius(Lp(2)), "pwcf", gradients=70)


def test_a_radius_of_each_image_travels_with_it():
    net, x, y = small()
    radius = torch.linspace(2.5, 4.5, IMAGES, dtype=torch.float64)
    found = plica.attack(net, x, y, MaxLoss(Lp(1.5), radius), method="pwcf", gradients=25)
    assert 0 < int(found.success.sum()) < IMAGES
    for rows in ([4], [6, 0, 3]):
        other = plica.attack(net, x[rows], y[rows], MaxLoss(Lp(1.5), radius[rows]), method="pwcf", gradients=25)
        assert_same(found, other, rows)
