"""Slow returns of the radius attack: which images take them, and what they gain."""

import dataclasses
import importlib

import pytest
import torch
from torch import nn

import plica
import shared_data
from plica.attacks.radius import search

DATA = shared_data.SHARED


def network():
    """Convolutions with max-pooling and large random weights, whose gradients change from step to step."""
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(576, 2),
    ]  # fmt: skip
    for layer in layers:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight)
            nn.init.normal_(layer.bias, std=0.3)
    net = nn.Sequential(*layers).eval().requires_grad_(False)
    return lambda x: net(2 * x - 1)


def change(monkeypatch, **settings):
    monkeypatch.setattr(search, "SCHEDULE", dataclasses.replace(search.SCHEDULE, **settings))


@pytest.fixture
def answer():
    net = network()
    x = torch.rand(24, 1, 12, 12, generator=torch.Generator().manual_seed(1))
    y = net(x).argmax(1)
    return lambda p, gradients: plica.attack(net, x, y, plica.MinRadius(plica.Lp(p)), gradients=gradients)


@pytest.mark.parametrize("p", [2, "inf"])
def test_images_whose_gradients_change_take_a_slow_return_and_the_others_none(p, answer, monkeypatch):
    """Each image has the answer that it has where all images take one, or where none does, whatever the others do."""
    searches = []
    slow_returns = search.RadiusSearch._slow_returns

    def watched(self):
        searches.append(self)
        yield from slow_returns(self)

    monkeypatch.setattr(search.RadiusSearch, "_slow_returns", watched)
    found = answer(p, 110)
    kinked = searches[0].agreement < search.SCHEDULE.kinked
    assert 0 < kinked.sum() < 24
    change(monkeypatch, kinked=0.0)
    without = answer(p, 110)
    change(monkeypatch, kinked=2.0)
    expected = torch.where(kinked, answer(p, 110).distance, without.distance)
    assert torch.equal(found.distance, expected)
    assert (found.distance != without.distance)[kinked].float().mean() > 0.5


@pytest.mark.parametrize("scale", [2.0**-33, 2.0**33])
def test_the_unit_of_the_output_does_not_choose_the_images_that_take_one(scale):
    net = network()
    x = torch.rand(8, 1, 12, 12, generator=torch.Generator().manual_seed(1))
    y, question = net(x).argmax(1), plica.MinRadius(plica.Lp(2))
    expected = plica.attack(net, x, y, question, gradients=110)
    found = plica.attack(lambda x: scale * net(x), x, y, question, gradients=110)
    assert torch.equal(found.x_adv, expected.x_adv)


def test_slow_returns_go_on_where_they_gained_and_the_round_after_them_did_not(answer, monkeypatch):
    change(monkeypatch, kinked=2.0)
    best = []
    slow_return, rounds = search.RadiusSearch._slow_return, search.RadiusSearch._rounds

    def watched(self, steps):
        best.append((steps, self.best.clone(), self.gained.clone()))
        yield from slow_return(self, steps)
        best.append((steps, self.best.clone(), None))

    def watched_rounds(self, numbers):
        yield from rounds(self, numbers)
        best.append((0, self.best.clone(), None))

    monkeypatch.setattr(search.RadiusSearch, "_slow_return", watched)
    monkeypatch.setattr(search.RadiusSearch, "_rounds", watched_rounds)
    answer("inf", 170)
    (first, before, _), (_, after, _), (_, last, _), (second, _, gained) = best[:4]
    assert (first, second) == (search.SCHEDULE.slow, search.SCHEDULE.slower)
    least = 1 - search.SCHEDULE.gain
    assert torch.equal(gained, (after < before * least) & (last > after * least))
    assert 0 < gained.sum() < 24


def test_a_goal_without_alternatives_takes_none(monkeypatch):
    """At the corners of its boundary gradients change too, and a heavy ball zigzags there."""
    searches = []
    start = search.RadiusSearch.__init__

    def watched(self, *arguments):
        start(self, *arguments)
        searches.append(self)

    monkeypatch.setattr(search.RadiusSearch, "__init__", watched)
    net = network()
    x = torch.rand(8, 1, 12, 12, generator=torch.Generator().manual_seed(1))
    y = net(x).argmax(1)

    def wrong(output, y):
        return output.gather(1, 1 - y[:, None])[:, 0] - output.gather(1, y[:, None])[:, 0]

    for goal in (None, wrong):
        plica.attack(net, x, y, plica.MinRadius(plica.Lp(2)), gradients=60, goal=goal)
    with_classes, without = searches
    assert (with_classes.agreement < search.SCHEDULE.kinked).any()
    assert (without.agreement == 1).all()


def test_rounds_before_a_slow_return_that_finds_something_nearer_no_longer_count(answer, monkeypatch):
    """An image is settled when so many rounds in a row returned to the same point."""
    change(monkeypatch, kinked=2.0)
    returned = []
    slow_return, one_round = search.RadiusSearch._slow_return, search.RadiusSearch._round

    def nearer(self, steps):
        yield from slow_return(self, steps)
        if steps == search.SCHEDULE.slower:
            returned.append(self.rounds_at_best[self.gained].clone())
            self.best = 0.5 * self.best  # no round returns to this

    def watched(self, number):
        yield from one_round(self, number)
        if returned:
            returned.append(self.rounds_at_best[self.gained].clone())

    monkeypatch.setattr(search.RadiusSearch, "_slow_return", nearer)
    monkeypatch.setattr(search.RadiusSearch, "_round", watched)
    answer(2, 370)
    before, after = returned[:2]
    assert before.any()
    assert not after.any()


@pytest.mark.skipif(not DATA.exists(), reason="the networks of ../shared/data are not here")
def test_they_come_nearer_on_a_network_with_max_pooling(monkeypatch):
    """By .965 in the mean of 97 images with 100 gradients."""
    monkeypatch.syspath_prepend(DATA)
    load = importlib.import_module("load")
    net, (x, y) = load.load_net("Convnet_maxpool"), load.mnist()
    x, y = torch.as_tensor(x[:30]).float() / 255, torch.as_tensor(y[:30]).long()
    right = net(x).argmax(1) == y

    def radii():
        result = plica.attack(net, x[right], y[right], plica.MinRadius(plica.Lp(2)), gradients=100)
        assert result.success.all()
        return result.distance.log().mean()

    found = radii()
    change(monkeypatch, kinked=0.0)
    assert found < radii() - 0.01
