"""Distances between images: l_p norms, and any callable d(x, x_adv) -> (b,) that is differentiable almost everywhere.

A metric that knows its gradient offers `gradient(x, x_adv) -> (value, gradient)`; for the others autograd finds it.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor

Metric = Callable[[Tensor, Tensor], Tensor]
SMOOTHING = 1e-3  # of the gradient of l_p for p < 1, in pixel units: |delta| becomes sqrt(delta^2 + SMOOTHING^2)


class Unsupported(ValueError):  # noqa: N818 - the public name, as it reads in `except plica.Unsupported`
    """The method cannot treat the metric or the question; the message says which can."""


@dataclass(frozen=True)
class Lp:
    """d(x, x') = ||x' - x||_p for a number p > 0 or "inf"; pixels in the units of `bounds`.

    Below p = 1 this is the quasi-norm (sum |delta|^p)^(1/p): its values are exact, its gradient, infinite at 0, is
    that of (sum (delta^2 + s^2)^(p/2))^(1/p) with s = 1e-3.
    """

    p: float

    def __init__(self, p: float | str):
        try:
            value = float(p)
        except (TypeError, ValueError):
            raise ValueError(f'Lp(p) takes a number p > 0 or "inf", got {p!r}.') from None
        if not value > 0:
            raise ValueError(f'Lp(p) needs p > 0 (a number or "inf"), got {p!r}.')
        object.__setattr__(self, "p", value)

    def __str__(self) -> str:
        return f"l{self.p:g}"

    def __call__(self, x: Float[Tensor, "b *image"], x_adv: Float[Tensor, "b *image"]) -> Float[Tensor, " b"]:
        return self.norm((x_adv - x).flatten(1))

    def norm(self, delta: Float[Tensor, "b n"]) -> Float[Tensor, " b"]:
        """||delta||_p of each row, scaled by its largest entry so that no power under- or overflows."""
        if self.p in (1, 2, math.inf):
            return torch.linalg.vector_norm(delta, ord=self.p, dim=1)
        top = delta.abs().amax(1)
        unit = delta.abs() / torch.where(top > 0, top, 1)[:, None]
        return top * power(total(power(unit, self.p)), 1 / self.p)

    def gradient(
        self, x: Float[Tensor, "b n"], x_adv: Float[Tensor, "b n"]
    ) -> tuple[Float[Tensor, " b"], Float[Tensor, "b n"]]:
        """||x_adv - x||_p and a subgradient with respect to x_adv; 0 at x_adv = x."""
        delta = x_adv - x
        value = self.norm(delta)
        safe = torch.where(value > 0, value, 1)[:, None]
        if self.p == 1:
            return value, delta.sign()
        if self.p == 2:
            return value, delta / safe
        if self.p == math.inf:
            top = delta.abs() == value[:, None]
            return value, delta.sign() * top / top.sum(1, keepdim=True)
        if self.p > 1:
            return value, delta.sign() * power(delta.abs() / safe, self.p - 1)
        smooth = (delta**2 + SMOOTHING**2).sqrt()
        mass = total(power(smooth, self.p))[:, None]
        return value, power(mass, 1 / self.p - 1) * power(smooth, self.p - 2) * delta

    def scale(self, n: int) -> float:
        """n^(1/2 - 1/p): the factor that brings the l_p norm of an even perturbation to that of its l_2 norm."""
        return n ** (0.5 - 1 / self.p)


def power(t: Tensor, exponent: float) -> Tensor:
    """t ** exponent for t >= 0, by a route five times as fast as torch.pow on a CPU where the exponent is no easy
    one."""
    if exponent in (0.5, 1, 2):
        return t if exponent == 1 else t**exponent
    return (t.log() * exponent).exp()


def total(t: Float[Tensor, "b n"]) -> Float[Tensor, " b"]:
    """The sum of each row, the same to the last bit however many rows there are (a single row may be summed in
    another order)."""
    return t.sum(1) if len(t) > 1 else t.repeat(2, 1).sum(1)[:1]


def gradient(metric: Metric, x: Float[Tensor, "b *image"], x_adv: Float[Tensor, "b *image"]):
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
def distance(metric: Metric, x: Float[Tensor, "b *image"], x_adv: Float[Tensor, "b *image"]) -> Float[Tensor, " b"]:
    """metric(x, x_adv) in float64; in the precision of x where the metric itself cannot be had in float64."""
    try:
        return metric(x.double(), x_adv.double()).double()
    except RuntimeError:  # a metric with float32 weights inside
        return metric(x, x_adv).double()


def parse_metric(text: str) -> Metric:
    """The metric a string names: l1, l1.5, l2, l8, linf, or module:function (any callable d(x, x_adv) -> (b,))."""
    known = "write l1, l2, l1.5, linf (any l followed by p > 0) or module:function"
    if ":" in text:
        module, _, name = text.partition(":")
        if not module or not name or module.startswith("."):
            raise ValueError(f"The metric {text!r} names no function of a module; {known}.")
        try:
            found = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError) as error:
            raise ValueError(f"The metric {text!r} cannot be imported ({error}); {known}.") from None
        if not callable(found):
            raise ValueError(
                f"The metric {text!r} is a {type(found).__name__}, not a function d(x, x_adv) -> (b,); {known}."
            )
        return cast(Metric, found)
    try:
        return Lp(text.removeprefix("l") if text.startswith("l") else "none")
    except ValueError:
        raise ValueError(f"There is no metric {text!r}; {known}.") from None
