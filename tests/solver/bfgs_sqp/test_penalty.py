"""The penalty, its gradient and its slope."""

import pytest
import torch

from plica.solver.bfgs_sqp import penalty
from plica.solver.problem import Evaluation

A = torch.randn(4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def evaluate(x, equalities):
    """f = |x|^2, c = A x - 0.2: values, and gradients by hand."""
    values = torch.cat([(x * x).sum(1, keepdim=True), x @ A.T - 0.2], 1)
    return Evaluation(values, torch.cat([2 * x[:, None], A.expand(len(x), -1, -1)], 1), equalities)


def by_definition(x, mu, equalities):
    c = x @ A.T - 0.2
    split = c.shape[1] - equalities
    return mu * (x * x).sum(1) + c[:, :split].clamp(min=0).sum(1) + c[:, split:].abs().sum(1)


@pytest.mark.parametrize("equalities", [0, 1, 4])
def test_value_gradient_and_slope(equalities):
    generator = torch.Generator().manual_seed(1)
    x, d = torch.randn(2, 20, 6, generator=generator, dtype=torch.float64)
    mu = torch.rand(20, generator=generator, dtype=torch.float64)
    at = evaluate(x, equalities)
    torch.testing.assert_close(penalty.value(at, mu), by_definition(x, mu, equalities))
    z = x.clone().requires_grad_(True)
    (expected,) = torch.autograd.grad(by_definition(z, mu, equalities).sum(), z)
    torch.testing.assert_close(penalty.gradient(at, mu), expected)
    torch.testing.assert_close(penalty.slope(at, d, mu), (expected * d).sum(1))


def test_satisfied_constraints_have_no_penalty():
    """At c = 0 and below there is no penalty, for an equality only at 0."""
    values = torch.tensor([[2.0, 0.0, -1.0, 0.0], [2.0, 3.0, -1.0, -4.0]], dtype=torch.float64)
    at = Evaluation(values, torch.ones(2, 4, 3, dtype=torch.float64), equalities=1)
    mu = torch.tensor([0.5, 0.5], dtype=torch.float64)
    assert penalty.value(at, mu).tolist() == [1.0, 8.0]
    assert at.violations.tolist() == [[0, 0, 0], [3, 0, 4]]
    assert penalty.weights(at, mu).tolist() == [[0.5, 0, 0, 0], [0.5, 1, 0, -1]]


def test_without_constraints():
    at = Evaluation(torch.tensor([[3.0]]), torch.ones(1, 1, 2))
    assert penalty.value(at, torch.tensor([2.0])).item() == 6
    assert penalty.gradient(at, torch.tensor([2.0])).tolist() == [[2, 2]]
