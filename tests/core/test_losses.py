"""The losses against straightforward loops, one image at a time."""

import math

import pytest
import torch

from plica.core.losses import LOSSES, cross_entropy, dlr, margin


def case(classes=5, b=40):
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(b, classes, generator=generator, dtype=torch.float64)
    y = torch.randint(classes, (b,), generator=generator)
    return logits, y, (y + torch.randint(1, classes, (b,), generator=generator)) % classes


def loop(one, logits, y, targets=None):
    targets = [None] * len(y) if targets is None else targets.tolist()
    return torch.tensor(
        [one(row, label, t) for row, label, t in zip(logits.tolist(), y.tolist(), targets, strict=True)]
    ).double()


def margin_of(row, y, t):
    one = y if t is None else t
    others = max(value for i, value in enumerate(row) if i != one)
    return others - row[y] if t is None else row[t] - others


def cross_entropy_of(row, y, t):
    total = math.log(sum(math.exp(value) for value in row))
    return total - row[y] if t is None else row[t] - total


def dlr_of(row, y, t):
    first, _, third, *rest = sorted(row, reverse=True)
    if t is None:
        return margin_of(row, y, None) / (first - third)
    return (row[t] - row[y]) / (first - (third + rest[0]) / 2)


@pytest.mark.parametrize(("loss", "one"), [(margin, margin_of), (cross_entropy, cross_entropy_of), (dlr, dlr_of)])
@pytest.mark.parametrize("targeted", [False, True])
def test_against_a_loop(loss, one, targeted):
    logits, y, targets = case()
    targets = targets if targeted else None
    torch.testing.assert_close(loss(logits, y, targets), loop(one, logits, y, targets).to(logits), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_the_margin_is_positive_exactly_where_the_class_is_another(classes):
    logits, y, targets = case(classes, 200)
    predicted = logits.argmax(1)
    assert torch.equal(margin(logits, y) > 0, predicted != y)
    assert torch.equal(margin(logits, y, targets) > 0, predicted == targets)


def test_a_tie_has_no_margin():
    logits = torch.tensor([[1.0, 1.0, 0.0]])
    assert margin(logits, torch.tensor([0])).item() == 0
    assert margin(logits, torch.tensor([0]), torch.tensor([1])).item() == 0


@pytest.mark.parametrize("name", ["margin", "ce"])
@pytest.mark.parametrize("targeted", [False, True])
def test_each_rises_towards_success(name, targeted):
    """A small step along the gradient of the margin, in whose place the loss is maximised."""
    logits, y, targets = case()
    targets = targets if targeted else None
    z = logits.clone().requires_grad_(True)
    margin(z, y, targets).sum().backward()
    assert z.grad is not None
    before, after = (LOSSES[name](logits + step * z.grad, y, targets) for step in (0, 1e-4))
    assert (after > before).all()


def test_dlr_has_the_sign_of_the_margin():
    logits, y, _ = case()
    assert torch.equal(dlr(logits, y).sign(), margin(logits, y).sign())


def test_dlr_does_not_see_the_scale_of_the_logits():
    logits, y, targets = case()
    torch.testing.assert_close(dlr(logits, y), dlr(7 * logits, y))
    torch.testing.assert_close(dlr(logits, y, targets), dlr(7 * logits, y, targets))


def test_dlr_of_equal_logits_is_finite():
    assert dlr(torch.ones(1, 4), torch.tensor([0])).isfinite().all()
    assert dlr(torch.ones(1, 4), torch.tensor([0]), torch.tensor([1])).isfinite().all()
