"""A metric is any callable d(x, x_adv) -> (b,), differentiable almost everywhere; nothing else is required of it.

`BaseMetric` lists, with defaults, what a metric may add for searches to use. Code outside this package uses the
functions `properties`, `lp_form`, `plain_p`, `counts` and `fixed_pixels`, which take any callable, and `distance`,
`values`, `gradient` and `differentiable_value` for values and gradients.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

ROWS_PER_CALL = 64  # of a metric that may contain a network, at most
PAD = 16  # such a call has a multiple of 16 rows
NIL = 1e-4  # what a distance from an image to itself may be, and what roundings may add to a distance
Metric = Callable[[Tensor, Tensor], Tensor]
Count = Literal["entry", "pixel"]  # a pixel is all channels of one place


class Unsupported(ValueError):  # noqa: N818 - the public name, as it reads in `except plica.Unsupported`
    """The method cannot treat the metric or the question; the message says which can."""


@dataclass(frozen=True)
class MetricProperties:
    """Known properties of a metric; False means unknown.

    Args:
        norm: d(x, x') is a norm of x' - x.
        prox: its proximal map is known, which method="radius" needs.
        scale_free: d(x, x + t delta) = t d(x, x + delta) for t > 0, so that d^2 / 2 is smooth at x where d is not.
        batch_invariant: the value of a row has the same bits in every batch, without padding.
        singular_at_x: the gradient at x' = x is not finite, so that searches must start beside x.
    """

    norm: bool = False
    prox: bool = False
    scale_free: bool = False
    batch_invariant: bool = False
    singular_at_x: bool = False


@dataclass(frozen=True, eq=False)
class LpForm:
    """d(x, x') = ||w (x' - x)||_p.

    Args:
        p: > 0, may be inf.
        weights: w > 0, of an image's shape or one that expands to it, inf where a pixel must not move; None for 1.
    """

    p: float
    weights: Float[Tensor, "..."] | None = None


class BaseMetric:
    """What a metric may declare about itself, with defaults that claim nothing.

    A metric may also have a method `gradient(x, x_adv) -> (value, gradient)` of shapes (b,) and (b, *image), which then
    replaces autograd; and methods `norm(u) -> (r,)` and `prox(u, eta) -> (r, n)` of u = (x' - x).flatten(1)
    and step lengths eta (r,), which let method="radius" treat it.
    """

    @property
    def properties(self) -> MetricProperties:
        return MetricProperties()

    def lp_form(self) -> LpForm | None:
        """The metric as a weighted l_p norm; None if it is not one."""
        return None

    def counts(self) -> Count | None:
        """What the metric counts, changed entries or pixels; None if it is not a count."""
        return None

    def fixed_pixels(self) -> Bool[Tensor, "..."] | None:
        """True for pixels that must not change, in a shape that expands to an image's; None if all may."""
        return None


def properties(metric: Metric) -> MetricProperties:
    """The properties of a metric. Of a callable that is not a BaseMetric: what its methods `norm` and `prox` imply, and
    its attributes `scale_free` and `batch_invariant`."""
    if isinstance(metric, BaseMetric):
        return metric.properties
    prox = hasattr(metric, "prox") and hasattr(metric, "norm")
    return MetricProperties(
        norm=prox,
        prox=prox,
        scale_free=prox or bool(getattr(metric, "scale_free", False)),
        batch_invariant=bool(getattr(metric, "batch_invariant", False)),
    )


def lp_form(metric: Metric) -> LpForm | None:
    """The metric as an l_p norm, with or without weights; None for every other metric."""
    return metric.lp_form() if isinstance(metric, BaseMetric) else None


def counts(metric: Metric) -> Count | None:
    """What the metric counts, if it is the number of changed entries or pixels; None for every other metric."""
    return metric.counts() if isinstance(metric, BaseMetric) else None


def plain_p(metric: Metric) -> float | None:
    """p of an l_p norm without weights; None for every other metric."""
    form = lp_form(metric)
    return form.p if form is not None and form.weights is None else None


def check_shape(metric: Metric, x: Float[Tensor, "b *image"]) -> None:
    """Raises ValueError where the metric's fixed pixels or weights are not those of an image's shape."""
    fixed_pixels(metric, x)
    form = lp_form(metric)
    if form is not None and form.weights is not None and not _expands(form.weights, x):
        raise ValueError(
            f"The weights of the distance have shape {tuple(form.weights.shape)}, which does not expand to that of an "
            f"image, {tuple(x.shape[1:])}; give a weight for each entry of an image, or for each channel, (c, 1, 1)."
        )


def _expands(part: Tensor, x: Float[Tensor, "b *image"]) -> bool:
    try:
        part.expand(x.shape[1:])
    except RuntimeError:
        return False
    return True


def fixed_pixels(metric: Metric, x: Float[Tensor, "b *image"]) -> Bool[Tensor, "*image"] | None:
    """True for the pixels of an image that must not change under the metric; None if all may. Raises ValueError where
    they have another shape."""
    fixed = metric.fixed_pixels() if isinstance(metric, BaseMetric) else None
    if fixed is None:
        return None
    if not _expands(fixed, x):
        raise ValueError(
            f"The pixels that must not change have shape {tuple(fixed.shape)}, which does not expand to that of an "
            f"image, {tuple(x.shape[1:])}; a mask for each image goes with Held(metric, pixels) as the whole distance."
        )
    return fixed.to(x.device).expand(x.shape[1:])


def one_each(value: Any, images: Tensor) -> Tensor:
    """A metric's value itself; raises ValueError unless it is one distance for each of the images."""
    if not isinstance(value, Tensor) or value.shape != images.shape[:1]:
        seen = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"The metric must return one distance for each image, shape ({len(images)},), got {seen}; "
                         f"reduce over all axes but the first, however many images there are.")  # fmt: skip
    return value


def own_gradient(metric: Metric) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None:
    """The metric's method `gradient`, if it has one."""
    return getattr(metric, "gradient", None)


def gradient(
    metric: Metric, x: Float[Tensor, "b *image"], x_adv: Float[Tensor, "b *point"]
) -> tuple[Float[Tensor, " b"], Float[Tensor, "b *point"]]:
    """d(x, x_adv) and its gradient with respect to x_adv, the metric's own where it has one, else autograd's."""
    own = own_gradient(metric)
    if own is not None:
        value, grad = own(x, x_adv)
        return one_each(value, x), grad
    with torch.enable_grad():
        z = x_adv.detach().requires_grad_(True)
        value = one_each(metric(x, z), x)
        (grad,) = torch.autograd.grad(value.sum(), z)
    return value.detach().to(grad), grad  # a metric may sum in float64


def differentiable_value(metric: Metric, x: Float[Tensor, "b *image"], x_adv: Float[Tensor, "b *point"]) -> Tensor:
    """d(x, x_adv) for use in a larger expression: autograd uses the metric's own gradient there if it has one."""
    own = own_gradient(metric)
    if own is None or not (torch.is_grad_enabled() and x_adv.requires_grad):
        return one_each(metric(x, x_adv), x)
    return _OwnGradient.apply(x_adv, x, own)  # type: ignore[return-value] - autograd's apply has no types


class _OwnGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_adv: Tensor, x: Tensor, own: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> Tensor:
        value, grad = own(x, x_adv)
        ctx.save_for_backward(grad)
        return value

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (grad,) = ctx.saved_tensors
        return grads[0].view(-1, *[1] * (grad.ndim - 1)) * grad, None, None


@torch.no_grad()
def values(metric: Metric, x: Float[Tensor, "b *image"], x_adv: Float[Tensor, "b *point"]) -> Float[Tensor, " b"]:
    """d(x, x_adv) with the same bits for any number of rows: a metric without the property
    batch_invariant is called with at most ROWS_PER_CALL rows, the last one repeated up to a multiple of PAD. In the
    dtype of x_adv, whatever the metric sums in."""
    if properties(metric).batch_invariant:
        return one_each(metric(x, x_adv), x).to(x_adv.dtype)
    parts = []
    for a, b in zip(x.split(ROWS_PER_CALL), x_adv.split(ROWS_PER_CALL), strict=True):
        padded = torch.arange(-(-len(a) // PAD) * PAD, device=a.device).clamp(max=len(a) - 1)
        parts.append(one_each(metric(a[padded], b[padded]), padded)[: len(a)])
    return torch.cat(parts).to(x_adv.dtype)


def distance(metric: Metric, x: Float[Tensor, "b *image"], x_adv: Float[Tensor, "b *point"]) -> Float[Tensor, " b"]:
    """d(x, x_adv) in float64; computed in the precision of x where the metric cannot be computed in float64. What
    rounding leaves below 0, as of 1 - cosine, is 0."""
    try:
        d = values(metric, x.double(), x_adv.double()).double()
    except RuntimeError:  # a metric with float32 weights inside
        d = values(metric, x, x_adv).double()
    return torch.where((d < 0) & (d >= -NIL), 0, d)
