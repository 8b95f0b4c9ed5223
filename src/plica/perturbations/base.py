"""Perturbations other than x' = x + delta: x' = T(x, theta) with parameters theta (b, k) in place of the pixels.

A question takes one as `through`. Its distance is then a metric between the images x and x', or, written "theta", the
perturbation's own distance of theta from the theta that leaves x unchanged. Pixels of x' are clamped into the bounds.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from plica.metrics import Lp, Metric, differentiable_value
from plica.utils.messages import shown

L2 = Lp(2)


@runtime_checkable
class ParametricPerturbation(Protocol):
    """The methods of a perturbation. Rows are independent; x' is differentiable almost everywhere in theta. With few
    parameters it may also have `grid(most) -> (g, k)`, at most `most` values of theta to be tried."""

    @property
    def unit(self) -> float:
        """The largest change of an entry of theta in a search's first step."""
        ...

    def start(self, x: Float[Tensor, "b *image"]) -> Float[Tensor, "b k"]:
        """The theta with T(x, theta) = x."""
        ...

    def __call__(self, x: Float[Tensor, "b *image"], theta: Float[Tensor, "b k"]) -> Float[Tensor, "b *image"]:
        """x' = T(x, theta)."""
        ...

    def distance(self, x: Float[Tensor, "b *image"], theta: Float[Tensor, "b k"]) -> Float[Tensor, " b"]:
        """The distance of theta from start(x): 0 there, >= 0 elsewhere."""
        ...


def check_positive(perturbation: object, *names: str) -> None:
    """Raises ValueError unless these attributes are finite numbers above 0."""
    for name in names:
        value = getattr(perturbation, name)
        if isinstance(value, bool) or not isinstance(value, Real) or not 0 < float(value) < math.inf:
            raise ValueError(f"{type(perturbation).__name__}({name}=...) must be a number above 0, got {shown(value)}.")


def check_interval(perturbation: object, bounds: tuple[float, float]) -> None:
    """Raises ValueError unless bounds are two finite numbers, the lower one first."""
    fine = isinstance(bounds, tuple | list) and len(bounds) == 2 and all(isinstance(end, Real) for end in bounds)
    if not (fine and -math.inf < float(bounds[0]) < float(bounds[1]) < math.inf):
        raise ValueError(
            f"{type(perturbation).__name__}(bounds=...) must be two numbers (low, high) with low < high, "
            f"got {shown(bounds)}."
        )


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
    """A perturbation made from a function.

    Args:
        move: x (b, *image), theta (b, k) -> x' (b, *image), differentiable almost everywhere in theta.
        origin: (k,), the theta with T(x, theta) = x.
        metric: the distance between the origin and theta, both (b, k).
        unit: the largest change of an entry of theta in a search's first step.
    """

    move: Callable[[Tensor, Tensor], Tensor]
    origin: Tensor
    metric: Metric = L2
    unit: float = 1.0

    def __post_init__(self):
        if not isinstance(self.origin, Tensor) or self.origin.ndim != 1 or not self.origin.is_floating_point():
            got = tuple(self.origin.shape) if isinstance(self.origin, Tensor) else type(self.origin).__name__
            raise ValueError(f"Perturbation(origin=...) is one theta, a float tensor of shape (k,), got {got}.")
        check_positive(self, "unit")

    def start(self, x: Float[Tensor, "b *image"]) -> Float[Tensor, "b k"]:
        return self.origin.to(x).expand(len(x), -1).clone()

    def __call__(self, x: Float[Tensor, "b *image"], theta: Float[Tensor, "b k"]) -> Tensor:
        return self.move(x, theta)

    def distance(self, x: Float[Tensor, "b *image"], theta: Float[Tensor, "b k"]) -> Tensor:
        return differentiable_value(self.metric, self.start(x), theta)


def transform(
    through: ParametricPerturbation, x: Float[Tensor, "b *image"], theta: Float[Tensor, "b k"]
) -> Float[Tensor, "b *image"]:
    """T(x, theta), nan for a row whose theta is not finite: it is not handed on, since kernels that read an image at
    such a place end the process."""
    finite = theta.isfinite().all(1)
    if bool(finite.all()):
        return through(x, theta)
    image = through(x, torch.where(finite[:, None], theta, through.start(x)))
    return image.masked_fill(~finite.view(-1, *[1] * (image.ndim - 1)), torch.nan)


def apply(
    through: ParametricPerturbation,
    x: Float[Tensor, "b *image"],
    theta: Float[Tensor, "b k"],
    bounds: tuple[float, float],
) -> Float[Tensor, "b *image"]:
    """T(x, theta) clamped into the bounds; every image that is evaluated or returned comes from here."""
    return transform(through, x, theta).clamp(*bounds)


def interpolate(
    through: ParametricPerturbation | None,
    x: Float[Tensor, "b *image"],
    end: Float[Tensor, "b *point"],
    fraction: float | Float[Tensor, " b"],
    bounds: tuple[float, float],
) -> tuple[Float[Tensor, "b k"] | None, Float[Tensor, "b *image"]]:
    """The theta and the image at a fraction of the straight line from x to an end point.

    Args:
        through: the perturbation; None for x' = x + delta, and then the theta returned is None.
        x: images.
        end: of the line: theta (b, k), or images if there is no perturbation.
        fraction: 0 at x, 1 at the end, above 1 beyond it; a number, or one for each row.
        bounds: of the pixels.
    """
    first = x if through is None else through.start(x)
    if isinstance(fraction, Tensor):
        fraction = fraction.view(-1, *[1] * (end.ndim - 1))
    point = torch.lerp(first, end, fraction)
    return (None, point.clamp(*bounds)) if through is None else (point, apply(through, x, point, bounds))


def theta_gradient(
    through: ParametricPerturbation,
    x: Float[Tensor, "b *image"],
    theta: Float[Tensor, "b k"],
    grad: Float[Tensor, "b *image"],
) -> Float[Tensor, "b k"]:
    """The gradient with respect to theta of a function whose gradient with respect to x' is `grad` (chain rule)."""
    with torch.enable_grad():
        t = theta.detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(transform(through, x, t), t, grad)
    return gradient


def check(through: ParametricPerturbation, x: Float[Tensor, "b *image"]) -> None:
    """Try the perturbation on the first two images at its start.

    Raises:
        ValueError: T(x, start) is not x, a shape is wrong, or the distance there is not 0.
    """
    part, name = x[:2], type(through).__name__
    try:
        theta = through.start(part)
        image, distance = through(part, theta), through.distance(part, theta)
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
    difference = float((image - part).abs().max())
    if not difference <= 1e-3 * max(1.0, float(part.abs().max())):  # bilinear sampling and colour spaces round
        raise ValueError(f"{name}(x, theta) must give x at its start, but a pixel there differs by {difference:.3g}.")
    if tuple(distance.shape) != (len(part),) or not bool((distance.abs() <= 1e-4).all()):
        got = distance.tolist() if distance.ndim < 2 else tuple(distance.shape)
        raise ValueError(f"{name}.distance(x, theta) must be one number for each image and 0 at the start, got {got}.")
