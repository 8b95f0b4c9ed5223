"""Radii after four gradients beside those of an attack with a hundred, on trained networks."""

import importlib.util

import pytest
import torch

import plica
from plica.training import Inner
from shared_data import SHARED

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not SHARED.is_dir(), reason="needs the networks of shared/data beside the repository"),
]


def loader():
    spec = importlib.util.spec_from_file_location("plica_test_data", SHARED / "load.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("p", "most"), [(2, 1.05), ("inf", 1.08), (1, 1.25)])
def test_four_gradients_come_near_a_hundred(p, most):
    data = loader()
    x, y = data.cifar10("test", 400, seed=99)
    x, y = torch.tensor(x).float() / 255, torch.tensor(y)
    for name in ("cifar_base_kw", "cifar_wide_kw", "resnet_2b"):
        net = data.load_net(name).eval()
        question = plica.MinRadius(plica.Lp(p))
        hard = Inner(question)(net, x, y)
        exact = plica.attack(net, x, y, question, gradients=100).distance
        wrong = (net(hard.x_adv).argmax(1) != y)[hard.correct]
        assert (hard.radius / exact)[hard.correct].median() <= most
        assert wrong.double().mean() >= 0.95
