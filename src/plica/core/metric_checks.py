"""Checks of a distance before any search: its shape, its zero, its gradient; each error says what to write instead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from plica.metrics import Metric, own_gradient, properties
from plica.metrics.base import NIL, one_each
from plica.utils.messages import one_line

SAME = 1e-2  # relative change of a distance between batches that is put down to rounding in half precision


def check_metric(metric: Metric, x: Float[Tensor, "b *image"], bounds: tuple[float, float] = (0.0, 1.0)) -> None:
    """Try the metric on the first two images.

    Raises:
        ValueError: it does not return one number per image; it is not 0 from an image to itself; near an image it is
            negative, random, or depends on the other images of the batch; or its gradient is not finite.
    """
    part = x[:2].detach()
    d = one_each(_distances(metric, part, part.clone()), part)
    if not bool((d.abs() <= NIL).all()):
        raise ValueError(
            f"The metric must be 0 from an image to itself, got {d.tolist()}; "
            "is it a similarity rather than a distance?"
        )
    known = properties(metric)
    if known.prox:  # its gradient is not taken by autograd
        return
    noise = torch.rand(part.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float32, device="cpu").to(
        part
    )
    far = 1 + float(part.abs().max())  # bounds may be infinite
    low, high = max(bounds[0], -far), min(bounds[1], far)
    beside = torch.lerp(part, low + (high - low) * noise, 0.02)
    d, alone = (_distances(metric, part[rows], beside[rows]) for rows in (slice(None), slice(0, 1)))
    if bool((d < -NIL).any()):
        raise ValueError(f"The metric must not be negative, got {d.tolist()} beside an image; change its sign.")
    again = _distances(metric, part, beside)
    is_repeatable, is_own = (_alike(d, again), _alike(d[:1], alone))
    if not (is_repeatable and is_own):
        why = "depends on the other images" if is_repeatable else "is random"
        raise ValueError(
            f"The metric {why}: it gives {d.tolist()}, then {again.tolist()}, and {alone.tolist()} for the first image "
            "alone; write one that depends on an image and its perturbation alone."
        )
    for where, z in (("beside an image", beside), ("at x_adv = x", part.clone())):
        grad = _gradient(metric, part, z)
        singular = where == "at x_adv = x" and known.singular_at_x
        if grad is None or not (bool(grad.isfinite().all()) or singular):
            if type(metric).__module__.startswith("plica."):
                raise ValueError(
                    f"The gradient of {metric} is not finite {where} for these images, as for pixels that are all "
                    "equal; leave such images out, or use another distance."
                )
            raise ValueError(
                f"The metric's gradient is not finite {where}, often the root of 0; "
                "write torch.linalg.vector_norm(v, dim=1), or (s + 1e-12).sqrt()."
            )


def _gradient(metric: Metric, x: Tensor, x_adv: Tensor) -> Tensor | None:
    """The metric's gradient at x_adv, its own or autograd's; None where it does not depend on x_adv."""
    own = own_gradient(metric)
    if own is None:
        with torch.enable_grad():
            d = _distances(metric, x, x_adv.requires_grad_(True))
        if not d.requires_grad:
            raise ValueError(
                "The metric has no gradient with respect to x_adv; write it in torch, without detach or no_grad."
            )
        return torch.autograd.grad(d.sum(), x_adv, allow_unused=True)[0]
    value, grad = _distances(own, x, x_adv)
    if tuple(value.shape) != (len(x),) or grad.shape != x_adv.shape:
        raise ValueError(
            f"The metric's method gradient(x, x_adv) must return a value of shape ({len(x)},) and a gradient of shape "
            f"{tuple(x_adv.shape)}, got {tuple(value.shape)} and {tuple(grad.shape)}."
        )
    d = _distances(metric, x, x_adv)
    if not torch.allclose(value, d, rtol=1e-3, atol=1e-6):
        raise ValueError(
            f"The metric's method gradient(x, x_adv) returns the distances {value.tolist()} where the metric itself "
            f"returns {d.tolist()}; make them agree."
        )
    return grad


def _alike(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, rtol=SAME, atol=NIL, equal_nan=True)


def _distances(metric: Callable[[Tensor, Tensor], Any], x: Tensor, x_adv: Tensor) -> Any:
    try:
        return metric(x, x_adv)
    except Exception as error:
        if x.ndim == 4 and x.shape[1] == 1 and _takes_colours(metric, x, x_adv):
            raise ValueError(
                f"The metric takes images of three channels, got {tuple(x.shape)}; a grey image is repeated by "
                "metric=lambda x, z: d(x.expand(-1, 3, -1, -1), z.expand(-1, 3, -1, -1)) with d the distance."
            ) from error
        raise ValueError(
            f"The metric raised {type(error).__name__} for images of shape {tuple(x.shape)}: {one_line(error)}"
        ) from error


def _takes_colours(metric: Callable[[Tensor, Tensor], Any], x: Tensor, x_adv: Tensor) -> bool:
    """Whether the metric takes the same images with their one channel repeated."""
    try:
        metric(*(z.detach().expand(-1, 3, -1, -1) for z in (x, x_adv)))
    except Exception:  # then the error has another cause
        return False
    return True
