"""Aimed at a class that was drawn at random, which may lie far away: `auto` gets as near as a public attack."""

import importlib.util

import pytest
import torch

import plica
from shared_data import SHARED


@pytest.mark.needs("foolbox")
@pytest.mark.skipif(not SHARED.is_dir(), reason="the networks of ../shared/data are not here")
def test_a_class_drawn_at_random_is_reached_as_near_as_by_fmn():
    spec = importlib.util.spec_from_file_location("plica_test_data", SHARED / "load.py")
    assert spec is not None
    assert spec.loader is not None
    data = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(data)
    pixels, labels = data.cifar10("test", n=16, seed=1)
    x, y = torch.tensor(pixels).float() / 255, torch.tensor(labels)
    targets = (y + torch.randint(1, 10, (16,), generator=torch.Generator().manual_seed(0))) % 10
    net, l2 = data.load_net("cifar_base_kw"), plica.MinRadius(plica.Lp(2))
    # foolbox's own l2 form does not project
    methods = "auto", "fmn-projected"
    auto, fmn = (plica.attack(net, x, y, l2, method=m, targets=targets, gradients=60) for m in methods)
    assert auto.success.all()
    assert (net(auto.x_adv).argmax(1) == targets).all()
    assert (auto.distance / fmn.distance).log().mean().exp() < 1  # 0.975; 1.001 with the race of classes
