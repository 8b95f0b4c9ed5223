"""What every distance is: a callable d(x, x_adv) -> (b,), differentiable almost everywhere; its gradient, and its value
in float64.

A metric that knows its gradient offers `gradient(x, x_adv) -> (value, gradient)`; for the others autograd finds it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from plica.metrics.lp import Lp

Metric = Callable[[Tensor, Tensor], Tensor]


class Unsupported(ValueError):  # noqa: N818 - the public name, as it reads in `except plica.Unsupported`
    """The method cannot treat the metric or the question; the message says which can."""


def gradient(metric: Metric, x: Float[Tensor, "b *image"], x_adv: Float[Tensor, "b *point"]):
    """metric(x, x_adv) and its gradient with respect to x_adv.  (b,), (b, *image)"""
    if isinstance(metric, Lp):
        value, grad = metric.gradient(x.flatten(1), x_adv.flatten(1))
        return value, grad.view_as(x_adv)
    with torch.enable_grad():
        z = x_adv.detach().requires_grad_(True)
        value = metric(x, z)
        (grad,) = torch.autograd.grad(value.sum(), z)
    return value.detach(), grad


@torch.no_grad()
def distance(metric: Metric, x: Float[Tensor, "b *image"], x_adv: Float[Tensor, "b *point"]) -> Float[Tensor, " b"]:
    """metric(x, x_adv) in float64; in the precision of x where the metric itself cannot be had in float64."""
    try:
        return metric(x.double(), x_adv.double()).double()
    except RuntimeError:  # a metric with float32 weights inside
        return metric(x, x_adv).double()
