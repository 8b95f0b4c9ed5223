"""Perturbations other than x' = x + delta: x' = T(x, theta), the unknowns theta (b, k) instead of the pixels.

A question takes one as `through`. Its distance is then a metric between the images x and x', or, written "theta", the
perturbation's own distance on theta. Pixels of x' that leave the bounds are clamped into them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from plica.metrics import Lp, Metric, differentiable_value

L2 = Lp(2)


@runtime_checkable
class ParametricPerturbation(Protocol):
    """What a perturbation offers; each row by itself, differentiable almost everywhere in theta."""

    @property
    def unit(self) -> float:
        """How much an entry of theta may change at once; a first step that is longer is cut to it."""
        ...

    def start(self, x: Float[Tensor, "b *image"]) -> Float[Tensor, "b k"]:
        """The theta with T(x, theta) = x."""
        ...

    def __call__(self, x: Float[Tensor, "b *image"], theta: Float[Tensor, "b k"]) -> Float[Tensor, "b *image"]:
        """x' = T(x, theta)."""
        ...

    def distance(self, x: Float[Tensor, "b *image"], theta: Float[Tensor, "b k"]) -> Float[Tensor, " b"]:
        """How far theta is from the start: 0 there."""
        ...


@dataclass(frozen=True)
class ThetaDistance:
    """A perturbation's own distance as a metric: d(x, theta)."""

    through: ParametricPerturbation

    def __str__(self) -> str:
        return f"theta of {type(self.through).__name__}"

    def __call__(self, x: Float[Tensor, "b *image"], theta: Float[Tensor, "b k"]) -> Float[Tensor, " b"]:
        return self.through.distance(x, theta)


@dataclass(frozen=True, eq=False)
class Perturbation:
    """A perturbation of one's own, from a function.

    Args:
        move: a function of x (b, *image) and theta (b, k) that gives x' (b, *image), differentiable almost everywhere.
        origin: (k,), the theta that changes nothing.
        metric: the distance between theta and the origin.
        unit: how much an entry of theta may change at once; a first step that is longer is cut to it.
    """

    move: Callable[[Tensor, Tensor], Tensor]
    origin: Tensor
    metric: Metric = L2
    unit: float = 1.0

    def __post_init__(self):
        if not isinstance(self.origin, Tensor) or self.origin.ndim != 1 or not self.origin.is_floating_point():
            seen = tuple(self.origin.shape) if isinstance(self.origin, Tensor) else type(self.origin).__name__
            raise ValueError(f"Perturbation(origin=...) is one theta, a float tensor of shape (k,), got {seen}.")

    def start(self, x: Float[Tensor, "b *image"]) -> Float[Tensor, "b k"]:
        return self.origin.to(x).expand(len(x), -1).clone()

    def __call__(self, x: Float[Tensor, "b *image"], theta: Float[Tensor, "b k"]) -> Tensor:
        return self.move(x, theta)

    def distance(self, x: Float[Tensor, "b *image"], theta: Float[Tensor, "b k"]) -> Tensor:
        return differentiable_value(self.metric, self.start(x), theta)


def moved(
    through: ParametricPerturbation,
    x: Float[Tensor, "b *image"],
    theta: Float[Tensor, "b k"],
    bounds: tuple[float, float],
) -> Float[Tensor, "b *image"]:
    """T(x, theta) clamped into the bounds: the one place where theta becomes an image."""
    return through(x, theta).clamp(*bounds)


def between(
    through: ParametricPerturbation | None,
    x: Tensor,
    end: Tensor,
    share: float | Float[Tensor, " b"],
    bounds: tuple[float, float],
) -> tuple[Tensor | None, Float[Tensor, "b *image"]]:
    """(theta, image) so much of the way from x to `end`, which is a theta, or without a perturbation an image."""
    first = x if through is None else through.start(x)
    if isinstance(share, Tensor):
        share = share.view(-1, *[1] * (end.ndim - 1))
    point = torch.lerp(first, end, share)
    return (None, point.clamp(*bounds)) if through is None else (point, moved(through, x, point, bounds))


def check(through: ParametricPerturbation, x: Float[Tensor, "b *image"]) -> None:
    """Raises ValueError where the start is not x, where a shape is wrong, or where the distance is not 0 there."""
    part, name = x[:2], type(through).__name__
    try:
        theta = through.start(part)
        image, d = through(part, theta), through.distance(part, theta)
    except ValueError:
        raise
    except Exception as error:
        raise ValueError(
            f"The perturbation {name} raised {type(error).__name__} for images of shape {tuple(part.shape)}: {error}"
        ) from error
    if theta.ndim != 2 or len(theta) != len(part):
        raise ValueError(
            f"{name}.start(x) must have shape ({len(part)}, k), one theta a row, got {tuple(theta.shape)}."
        )
    if image.shape != part.shape or image.dtype != part.dtype:
        raise ValueError(f"{name}(x, theta) must return images like x, {part.dtype} of shape {tuple(part.shape)}, "
                         f"got {image.dtype} of shape {tuple(image.shape)}.")  # fmt: skip
    apart = float((image - part).abs().max())
    if not apart <= 1e-3 * max(1.0, float(part.abs().max())):
        raise ValueError(f"{name}(x, theta) must give x at its start, but a pixel there differs by {apart:.3g}.")
    if tuple(d.shape) != (len(part),) or not bool((d.abs() <= 1e-4).all()):
        raise ValueError(f"{name}.distance(x, theta) must be one number for each image and 0 at the start, got "
                         f"{d.tolist() if d.ndim < 2 else tuple(d.shape)}.")  # fmt: skip


def pulled(
    through: ParametricPerturbation,
    x: Float[Tensor, "b *image"],
    theta: Float[Tensor, "b k"],
    grad: Float[Tensor, "b *image"],
) -> Float[Tensor, "b k"]:
    """The gradient with respect to theta of a function whose gradient at x' is `grad`."""
    with torch.enable_grad():
        t = theta.detach().requires_grad_(True)
        (out,) = torch.autograd.grad(through(x, t), t, grad)
    return out
