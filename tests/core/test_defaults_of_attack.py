"""What plica.attack does with arguments that are left out."""

import torch

import plica
from plica import Lp, MinRadius


def test_a_hundred_gradients_seed_0_and_pixels_from_0_to_1():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)).eval()
        x = torch.rand(4, 6)
    y, question = net(x).argmax(1), MinRadius(Lp(2))
    for method in ("pwcf", "fmn"):
        found = plica.attack(net, x, y, question, method=method)
        same = plica.attack(net, x, y, question, method=method, gradients=100, seed=0, bounds=(0.0, 1.0), batch_size=4)
        assert torch.equal(found.x_adv, same.x_adv)
        assert torch.equal(found.gradients, same.gradients)
    assert set(found.gradients.tolist()) == {100}
