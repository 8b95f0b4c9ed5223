"""PPGD, LPA and Fast-LPA: attacks inside a ball of a distance between features (Laidlaw, Singla, Feizi, ICLR 2021).

    PPGD      steps argmax g.delta s.t. ||J delta|| <= eta, that is delta ~ (J'J)^-1 g, J the Jacobian of the features
    LPA       ascent of loss - lam max(0, d - radius); lam grows tenfold after each round that ends outside; projected
    Fast-LPA  the same with lam growing from 1 to 10 during one round; not projected, so it may end outside

For MaxLoss; written from the paper. Gradients of the distance are not part of the budget. Each attack uses its whole
budget even if an image is broken early. If the distance is a square (LPIPS), they use its root.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from plica import metrics
from plica.attacks.base import AttackInput, AttackOutput, refuse_counts, unmeasured
from plica.core.formulations import MaxLoss
from plica.metrics import Embedding, Metric, Unsupported
from plica.metrics.lp import norm
from plica.solver.rows import dot

TINY = 1e-12  # in place of 0 under a fraction


@dataclass(frozen=True)
class PerceptualSettings:
    """Settings of all attacks of this file: the published values, where the papers state them.

    Attributes:
        start: standard deviation of the noise added at the start, in ranges of a pixel; d has no gradient at the image.
        probe: length of the step with which the growth of d along a direction is measured.
        projection_steps: bisections of a projection, or Newton steps.
        inside: share of the radius that a projection aims at, since the judge measures in float64.
        pace: the change of d by the last step, in radii; it decreases geometrically from one radius at the first step.
        multiplier: of LPA in its first round; that of Fast-LPA grows from 1 to `growth`.
        growth: factor of the multiplier from round to round.
        difference: length of the finite difference that approximates J v.
    """

    start: float = 0.01
    probe: float = 0.1
    projection_steps: int = 10
    inside: float = 1 - 1e-6
    pace: float = 0.1
    multiplier: float = 0.01
    growth: float = 10
    difference: float = 1e-3


SETTINGS = PerceptualSettings()


@dataclass(frozen=True)
class Ball:
    """The images z (r, *image) with root(d(x, z)) <= radius, for the images of some rows.

    Between features, phi(x) is computed once.
    """

    metric: Metric
    x: Float[Tensor, "r *image"]
    radius: Float[Tensor, " r"]
    bounds: tuple[float, float]

    @property
    def exponent(self) -> int:
        return getattr(self.metric, "exponent", 1)

    @cached_property
    def phi(self) -> Float[Tensor, "r features"]:
        assert isinstance(self.metric, Embedding)
        with torch.no_grad():
            return self.metric.embed(self.x)

    @torch.no_grad()
    def distance(self, z: Tensor) -> Float[Tensor, " r"]:
        if isinstance(self.metric, Embedding):
            return norm(self.metric.embed(z) - self.phi, self.metric.p)
        return self.metric(self.x, z).clamp(min=0) ** (1 / self.exponent)

    @torch.no_grad()
    def growth(self, z: Tensor, way: Tensor, phi: Tensor | None) -> Float[Tensor, " r"]:
        """The distance between z and z + probe * way, over probe. phi: the features of z, if they are known."""
        if isinstance(self.metric, Embedding) and phi is not None:
            return norm(self.metric.embed(z + SETTINGS.probe * way) - phi, self.metric.p) / SETTINGS.probe
        return self.metric(z, z + SETTINGS.probe * way).clamp(min=0) ** (1 / self.exponent) / SETTINGS.probe

    def gradient(self, z: Tensor) -> tuple[Float[Tensor, " r"], Float[Tensor, "r *image"], Tensor | None]:
        """The root of d, its gradient, and for distances between features phi(z)."""
        if isinstance(self.metric, Embedding):
            with torch.enable_grad():
                z = z.detach().requires_grad_(True)
                phi = self.metric.embed(z)
                root = norm(phi - self.phi, self.metric.p)
                (grad,) = torch.autograd.grad(root.sum(), z)
            return root.detach(), grad, phi.detach()
        value, grad = metrics.gradient(self.metric, self.x, z)
        root = value.clamp(min=0) ** (1 / self.exponent)
        return root, _rows(root / (self.exponent * value.clamp(min=TINY)), grad) if self.exponent > 1 else grad, None

    def nearer(self, z: Tensor) -> Tensor:
        """The last point of the line from x to z that lies inside the ball, by bisection."""
        inside, outside = torch.zeros_like(self.radius), torch.ones_like(self.radius)
        inside = torch.where(self.distance(z) <= SETTINGS.inside * self.radius, outside, inside)
        for _ in range(SETTINGS.projection_steps):
            middle = (inside + outside) / 2
            fine = self.distance(torch.lerp(self.x, z, _wide(middle, z))) <= SETTINGS.inside * self.radius
            inside, outside = torch.where(fine, middle, inside), torch.where(fine, outside, middle)
        return torch.lerp(self.x, z, _wide(inside, z)).clamp(*self.bounds)

    def newton(self, z: Tensor) -> Tensor:
        """Newton steps from z, outside the ball, towards d = radius along the gradient of d. They may end outside."""
        for _ in range(SETTINGS.projection_steps):
            d, grad, _ = self.gradient(z)
            over = d - SETTINGS.inside * self.radius
            if not bool((over > 0).any()):
                break
            step = over.clamp(min=0) / dot(grad.flatten(1), grad.flatten(1)).clamp(min=TINY)
            z = (z - _rows(step, grad)).clamp(*self.bounds)
        return z


@dataclass(frozen=True)
class LPA:
    """`rounds` rounds of `iterations` gradients each, fewer if the budget is smaller."""

    name: str
    iterations: int
    rounds: int
    project: Callable[[Ball, Tensor], Tensor] | None

    def __call__(self, task: AttackInput) -> AttackOutput:
        return _each_batch(task, self.name, self._search)

    def _search(self, task: AttackInput, images: Int[Tensor, " i"], ball: Ball) -> Tensor:
        return self.search(ball, _start(task, images), task.gradients, partial(_climb, task, images))

    def search(self, ball: Ball, start: Tensor, gradients: int, climb: Callable[[Tensor], Tensor]) -> Tensor:
        """The end point of the search from `start` inside the ball.

        Args:
            ball: where to search.
            start: a point near each image, at which itself the distance has no gradient.
            gradients: most calls of `climb`.
            climb: z -> the gradient of the loss there.
        """
        z = start
        rounds = min(self.rounds, gradients)
        iterations = min(self.iterations, gradients // rounds)
        fast = self.rounds == 1
        lam = torch.full_like(ball.radius, SETTINGS.multiplier)
        for _ in range(rounds):
            z = start  # a search with too small a multiplier ends so far outside that the next one starts anew
            for t in range(iterations):
                grad = climb(z)
                d, away, phi = ball.gradient(z)
                weight = torch.full_like(lam, SETTINGS.growth ** (t / iterations)) if fast else lam
                z = _pace(
                    ball, z, phi, grad - _rows(weight * (d > ball.radius), away), SETTINGS.pace ** (t / iterations)
                )
            lam = torch.where(ball.distance(z) > ball.radius, SETTINGS.growth * lam, lam)
        return z if self.project is None else self.project(ball, z)


@dataclass(frozen=True)
class PPGD:
    """`iterations` gradients of the model, each step by `inner` conjugate-gradient steps, then a projection."""

    name: str
    iterations: int
    inner: int
    project: Callable[[Ball, Tensor], Tensor]

    def __call__(self, task: AttackInput) -> AttackOutput:
        metric = task.question.metric
        if not isinstance(metric, Embedding) or metric.p != 2:
            raise Unsupported(f"{self.name} needs an l2 distance between features, plica.Perceptual(features) or "
                              f'plica.LPIPS(), which {metric} is not; use "lpa" or "auto".')  # fmt: skip
        return _each_batch(task, self.name, partial(self._search, metric=metric))

    def _search(self, task: AttackInput, images: Int[Tensor, " i"], ball: Ball, metric: Embedding) -> Tensor:
        z = _start(task, images)
        iterations = min(self.iterations, task.gradients)
        for t in range(iterations):
            step, length = self._solve(metric, z, _climb(task, images, z))
            eta = SETTINGS.pace ** (t / iterations) * ball.radius
            z = self.project(ball, (z + _rows(eta / length.clamp(min=TINY), step)).clamp(*task.bounds))
        return z

    def _solve(self, metric: Embedding, z: Tensor, grad: Tensor) -> tuple[Tensor, Float[Tensor, " r"]]:
        """v with J'J v = grad, by conjugate gradients, and ||J v||. J v is a finite difference, J'u a backward pass."""
        with torch.enable_grad():
            at = z.detach().requires_grad_(True)
            phi = metric.embed(at)

        def along(v: Tensor) -> Tensor:
            h = SETTINGS.difference / torch.linalg.vector_norm(v.flatten(1), dim=1).clamp(min=TINY)
            with torch.no_grad():
                return (metric.embed(z + _rows(h, v)) - phi) / h[:, None]

        v, rest, way = torch.zeros_like(grad), grad, grad
        size, total = dot(rest.flatten(1), rest.flatten(1)), torch.zeros_like(phi)
        for _ in range(self.inner):
            image = along(way)
            (curved,) = torch.autograd.grad(phi, at, image, retain_graph=True)
            share = size / dot(image, image).clamp(min=TINY)
            v, total, rest = v + _rows(share, way), total + share[:, None] * image, rest - _rows(share, curved)
            old, size = size, dot(rest.flatten(1), rest.flatten(1))
            way = rest + _rows(size / old.clamp(min=TINY), way)
        return v, torch.linalg.vector_norm(total.detach(), dim=1)


def _each_batch(task: AttackInput, name: str, search: Callable[[AttackInput, Tensor, Ball], Tensor]) -> AttackOutput:
    """Search batch by batch; the end points are evaluated once more and offered."""
    if task.radius is None:
        raise Unsupported(f'{name} maximises a loss inside a given radius; for MinRadius use method="auto".')
    end, metric = task.x.clone(), task.question.metric
    refuse_counts(name, task.question)
    exponent = getattr(metric, "exponent", 1)
    for images in torch.arange(len(task.x), device=task.x.device).split(max(1, task.batch_size)):
        radius = (task.radius[images] ** (1 / exponent)).to(task.x.dtype)
        z = search(task, images, Ball(metric, task.x[images], radius, task.bounds))
        task.best.offer(z, images, task.model.logits(z, images))
        end[images] = z
        task.progress(int(images[-1]) + 1)
    return unmeasured(task, end)


def _start(task: AttackInput, images: Int[Tensor, " i"]) -> Tensor:
    span, n = task.bounds[1] - task.bounds[0], task.x[0].numel()
    span = span if span < math.inf else 1.0
    noise = SETTINGS.start * span * n**0.5 * task.direction(0)
    return (task.x[images] + noise.view_as(task.x[0])).clamp(*task.bounds)


def _climb(task: AttackInput, images: Int[Tensor, " i"], z: Tensor) -> Tensor:
    """The gradient of the loss at z; z is offered to the best points."""
    assert isinstance(task.question, MaxLoss)
    loss, goal = task.question.loss, task.goal[images]
    _, logits, grad = task.model.gradient(z, images, lambda logits, rows: goal[rows].loss(loss, logits))
    task.best.offer(z, images, logits)
    return grad


def _pace(ball: Ball, z: Tensor, phi: Tensor | None, grad: Tensor, share: float) -> Tensor:
    """The step along grad that changes d by `share` of the radius, as measured with a small step. phi: features of
    z."""
    size = torch.linalg.vector_norm(grad.flatten(1), dim=1)
    way = _rows(1 / size.clamp(min=TINY), grad)
    growth = ball.growth(z, way, phi).clamp(min=TINY)
    return (z + _rows(share * ball.radius / growth, way)).clamp(*ball.bounds)


def _wide(scalars: Float[Tensor, " r"], like: Tensor) -> Tensor:
    return scalars.view(-1, *[1] * (like.ndim - 1))


def _rows(scalars: Float[Tensor, " r"], t: Tensor) -> Tensor:
    return _wide(scalars, t) * t


PERCEPTUAL = (
    PPGD("ppgd", 40, 5, Ball.nearer),
    PPGD("ppgd-newton", 40, 5, Ball.newton),
    LPA("lpa", 40, 5, Ball.nearer),
    LPA("lpa-newton", 40, 5, Ball.newton),
    LPA("fast-lpa", 20, 1, None),
)
