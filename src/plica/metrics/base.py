"""What every distance is: a callable d(x, x_adv) -> (b,), differentiable almost everywhere; its gradient, and its value
in float64.

A metric that knows its gradient offers `gradient(x, x_adv) -> (value, gradient)`; for the others autograd finds it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

CALL = 64  # rows of a metric's call, at most
Metric = Callable[[Tensor, Tensor], Tensor]


class Unsupported(ValueError):  # noqa: N818 - the public name, as it reads in `except plica.Unsupported`
    """The method cannot treat the metric or the question; the message says which can."""


def gradient(metric: Metric, x: Float[Tensor, "b *image"], x_adv: Float[Tensor, "b *point"]):
    """metric(x, x_adv) and its gradient with respect to x_adv.  (b,), (b, *image)"""
    own = getattr(metric, "gradient", None)
    if own is not None:
        return own(x, x_adv)
    with torch.enable_grad():
        z = x_adv.detach().requires_grad_(True)
        value = metric(x, z)
        (grad,) = torch.autograd.grad(value.sum(), z)
    return value.detach(), grad


@torch.no_grad()
def values(metric: Metric, x: Float[Tensor, "b *image"], x_adv: Float[Tensor, "b *point"]) -> Float[Tensor, " b"]:
    """metric(x, x_adv), the same to the last bit for any number of rows: a network inside is asked for CALL at a time,
    the last of them repeated as often as need be."""
    if getattr(metric, "batch_invariant", False):
        return metric(x, x_adv)
    told = []
    for a, b in zip(x.split(CALL), x_adv.split(CALL), strict=True):
        fill = torch.arange(-(-len(a) // 16) * 16, device=a.device).clamp(max=len(a) - 1)
        told.append(metric(a[fill], b[fill])[: len(a)])
    return torch.cat(told)


def distance(metric: Metric, x: Float[Tensor, "b *image"], x_adv: Float[Tensor, "b *point"]) -> Float[Tensor, " b"]:
    """metric(x, x_adv) in float64; in the precision of x where the metric itself cannot be had in float64."""
    try:
        return values(metric, x.double(), x_adv.double()).double()
    except RuntimeError:  # a metric with float32 weights inside
        return values(metric, x, x_adv).double()
