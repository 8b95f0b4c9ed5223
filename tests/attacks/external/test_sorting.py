"""What public attacks sort is in torch's order, and so are the points they project."""

import math
from types import ModuleType

import pytest
import torch

from plica.attacks.external.sorting import argsort, in_order, lent, sort


def rows(kind):
    generator = torch.Generator().manual_seed(0)
    if kind == "numbers":
        return torch.randn(7, 3000, generator=generator)
    if kind == "ties":
        return (torch.randn(7, 3000, generator=generator) * 5).round() / 5 * 1e-38  # zeros of both signs, subnormals
    if kind == "ends":
        x = torch.randn(7, 3000, generator=generator)
        return torch.where(x.abs() > 2, torch.inf * x, torch.where(x.abs() < 0.1, 0 * x, x))
    return torch.randint(-5, 2**31, (7, 3000), generator=generator)


@pytest.mark.parametrize("kind", ["numbers", "ties", "ends", "whole"])
def test_the_order_is_that_of_a_stable_sort(kind):
    x = rows(kind)
    before = x.clone()
    wanted = torch.sort(x, dim=1, stable=True)
    values, places = in_order(x)
    assert torch.equal(values, wanted.values)
    assert torch.equal(places, wanted.indices)
    assert torch.equal(x, before)
    assert torch.equal(sort(x, dim=1)[1], wanted.indices)
    assert torch.equal(sort(x, 1).values, wanted.values)
    assert torch.equal(argsort(x, dim=1), wanted.indices)
    assert torch.equal(sort(x, dim=0).values, torch.sort(x, dim=0).values)


def test_what_is_left_to_torch():
    x = rows("numbers")
    assert in_order(x[:, :9]) is None
    assert in_order(x.double()) is None
    for nan in (torch.nan, -torch.tensor(torch.nan)):
        assert in_order(torch.where(x > 2, nan, x)) is None
        assert torch.equal(argsort(torch.where(x > 2, nan, x), 1), torch.where(x > 2, nan, x).argsort(1))
    assert in_order(x.clone().requires_grad_()) is None
    assert in_order(rows("whole") + 2**31) is None


@pytest.mark.parametrize("norm", ["l1", "l2", "linf"])
def test_projections_of_a_public_attack_are_what_they_were(norm):
    module = pytest.importorskip("pyautoattack.fab_projections", reason="pyautoattack is not installed")
    project, generator = getattr(module, f"projection_{norm}"), torch.Generator().manual_seed(1)
    x = torch.randint(0, 256, (6, 3072), generator=generator) / 255  # many ties
    w, b = torch.randn(6, 3072, generator=generator), torch.full((6,), 3.0)
    wanted = project(x.clone(), w.clone(), b.clone())
    with lent(module):
        assert module.torch.sort is sort
        got = project(x.clone(), w.clone(), b.clone())
    assert module.torch is torch
    assert torch.allclose(got, wanted, atol=1e-5)  # sums of 3072 float32 in another order
    assert bool((got != 0).any())


def test_what_was_lent_is_given_back_after_an_error():
    module = ModuleType("module")
    module.math = math

    def fail():
        with lent(module, "math", sqrt=abs):
            assert module.math.sqrt(-4) == 4
            assert module.math.pi == math.pi
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert module.math is math
    assert math.sqrt(4) == 2
