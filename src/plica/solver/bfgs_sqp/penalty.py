"""The exact penalty phi = mu f + sum max(c, 0) + sum |h| and its directional derivative (Algorithm 2, lines 2-4)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from plica.solver.problem import Evaluation
from plica.solver.rows import bmm


def signs(at: Evaluation) -> Float[Tensor, "r m"]:
    """Derivative of the violation with respect to each constraint: 1 where c > 0, 0 elsewhere; sign(h) for
    equalities."""
    split = at.c.shape[1] - at.equalities
    return torch.cat([(at.c[:, :split] > 0).to(at.c), at.c[:, split:].sign()], 1)


def weights(at: Evaluation, mu: Float[Tensor, " r"]) -> Float[Tensor, "r k"]:
    """d phi / d (f, c): the gradient of phi is weights . grads."""
    return torch.cat([mu[:, None], signs(at)], 1)


def value(at: Evaluation, mu: Float[Tensor, " r"]) -> Float[Tensor, " r"]:
    """phi(x; mu)."""
    return mu * at.f + at.violations.sum(1)


def gradient(at: Evaluation, mu: Float[Tensor, " r"]) -> Float[Tensor, "r n"]:
    """The gradient of phi."""
    return bmm(weights(at, mu)[:, None], at.grads)[:, 0]


def slope(at: Evaluation, d: Float[Tensor, "r n"], mu: Float[Tensor, " r"]) -> Float[Tensor, " r"]:
    """The derivative of phi along d."""
    along = bmm(d[:, None], at.grads.transpose(1, 2))[:, 0]  # three times as fast as the other way round
    return (weights(at, mu) * along).sum(1)
