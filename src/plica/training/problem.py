"""One batch of the inner problem, and its solution."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from plica.core.formulations import Question
from plica.core.losses import LOSSES, margin
from plica.metrics import Metric, differentiable_value
from plica.perturbations.base import ParametricPerturbation, ThetaDistance, apply, transform
from plica.training.network import Network

NOISE = 1e-2  # standard deviation, in widths of the box, at the start of an ascent if d has no gradient at the image
NOISE_THETA = 1e-2  # the same for theta, in the perturbation's units


@dataclass(frozen=True)
class Batch:
    """Images x (b, *image) in float32 or float64 with labels y, one question about them, and the budget.

    Attributes:
        radius: of each image: the radius of the ball for MaxLoss, the cap for MinRadius (inf if there is none).
        gradients: budget per image.
        generator: of all noise, on the CPU; different on each rank.
        shared: a generator that is the same on all ranks.
    """

    network: Network
    x: Float[Tensor, "b *image"]
    y: Int[Tensor, " b"]
    question: Question
    radius: Float[Tensor, " b"]
    gradients: int
    bounds: tuple[float, float]
    generator: torch.Generator
    shared: torch.Generator

    def __len__(self) -> int:
        return len(self.x)

    def rows(self, index: Tensor) -> Batch:
        """The problem of some of the images."""
        return replace(self, x=self.x[index], y=self.y[index], radius=self.radius[index])

    def margin(self, logits: Float[Tensor, "b classes"]) -> Float[Tensor, " b"]:
        """Positive where misclassified."""
        return margin(logits, self.y)

    def loss(self, logits: Float[Tensor, "b classes"]) -> Float[Tensor, " b"]:
        """The loss that MaxLoss maximises; the margin for MinRadius."""
        return LOSSES[getattr(self.question, "loss", "margin")](logits, self.y, None)

    def noise(self, like: Tensor) -> Tensor:
        """Standard normal numbers of the shape of `like`."""
        return torch.randn(like.shape, generator=self.generator, dtype=torch.float32, device="cpu").to(like)

    @cached_property
    def unknowns(self) -> Unknowns:
        through = self.question.through
        if through is None:
            return Pixels(self.x, self.question.metric, self.bounds)
        return Theta(through.start(self.x), self.question.metric, (-torch.inf, torch.inf), self.x, through, self.bounds)


@dataclass(frozen=True)
class Answer:
    """The solution for each image of a batch; all fields but x_adv have shape (b,).

    Attributes:
        x_adv: the point at which the network is to be trained; the image itself if nothing was searched.
        distance: of x_adv from the image.
        radius: the robustness radius to first order for MinRadius; the radius of the ball for MaxLoss.
        multiplier: of m >= 0 at the solution of MinRadius, in distance per unit of margin; nan for MaxLoss.
        correct: whether the image itself is classified correctly.
        gradients: of the network that were spent.
    """

    x_adv: Float[Tensor, "b *image"]
    distance: Float[Tensor, " b"]
    radius: Float[Tensor, " b"]
    multiplier: Float[Tensor, " b"]
    correct: Bool[Tensor, " b"]
    gradients: Int[Tensor, " b"]


@dataclass(frozen=True)
class Pixels:
    """The pixels of x themselves. z has the shape of x."""

    origin: Float[Tensor, "b *image"]
    metric: Metric
    bounds: tuple[float, float]

    def image(self, z: Tensor) -> Tensor:
        return z

    def pull(self, z: Tensor, grad: Tensor) -> Tensor:
        """The gradient with respect to z, from one with respect to the image."""
        return grad

    def beside(self, noise: Tensor) -> Tensor:
        """Points beside the images, at which the distance has a gradient."""
        low, high = self.bounds
        return (self.origin + NOISE * (high - low) * noise).clamp(low, high)


@dataclass(frozen=True)
class Theta:
    """theta (b, k) of a perturbation of the images x."""

    origin: Float[Tensor, "b k"]
    distance: Metric
    bounds: tuple[float, float]
    x: Float[Tensor, "b *image"]
    through: ParametricPerturbation
    pixel_bounds: tuple[float, float]

    def metric(self, a: Tensor, z: Tensor) -> Float[Tensor, " b"]:
        """d of origin + z - a: between two thetas to first order, exact from the origin."""
        theta = self.origin + (z - a)
        if isinstance(self.distance, ThetaDistance):
            return self.distance(self.x, theta)
        return differentiable_value(self.distance, self.x, apply(self.through, self.x, theta, self.pixel_bounds))

    def image(self, z: Tensor) -> Tensor:
        with torch.no_grad():
            return apply(self.through, self.x, z, self.pixel_bounds)

    def pull(self, z: Tensor, grad: Tensor) -> Tensor:
        with torch.enable_grad():
            theta = z.detach().requires_grad_(True)
            free = transform(self.through, self.x, theta)
            grad = grad.masked_fill(free != free.clamp(*self.pixel_bounds), 0)
            return torch.autograd.grad(free, theta, grad)[0]

    def beside(self, noise: Tensor) -> Tensor:
        return self.origin + NOISE_THETA * self.through.unit * noise


def finite_rows(t: Float[Tensor, "r *point"]) -> Bool[Tensor, " r"]:
    """Whether all numbers of a row are finite. Their sums are tested first, at a tenth of the cost; the numbers only if
    a sum is not finite, since a sum of finite numbers may overflow."""
    flat = t.flatten(1)
    finite = flat.sum(1).isfinite()
    return finite if bool(finite.all()) else flat.isfinite().all(1)


def put_fine(
    whole: Float[Tensor, "b *point"],
    rows: Int[Tensor, " r"],
    values: Float[Tensor, "r *point"],
    fine: Bool[Tensor, " r"],
) -> Float[Tensor, "b *point"]:
    """`whole` with these values in its rows (indices in ascending order), where they are fine. `whole` itself is not
    changed."""
    if not bool(fine.all()):
        rows, values = rows[fine], values[fine]
    return values if len(rows) == len(whole) else whole.index_put((rows,), values)


Unknowns = Pixels | Theta
