"""Perturbations x' = T(x, theta) as PWCF poses them: unknowns theta, the distance on theta or on the image.

Where a search starts: at the step towards the boundary that the linear model takes in theta, and at random further out.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from plica import metrics
from plica.attacks.classes import Aims, shortest
from plica.attacks.task import Task
from plica.folding import Term
from plica.metrics import Lp, Metric
from plica.perturbations.perturbation import Own, Through, moved, pulled
from plica.solver.rows import take

FAR = (2.0, 4.0, 8.0)  # further starts, so many times the first step away in a random direction
OVERSHOOT = 1.1  # of the first step
NOISE = 1e-3  # of the start, in the perturbation's units: bilinear interpolation has a kink at every pixel


@dataclass(frozen=True)
class Moved:
    """Unknowns theta of a perturbation of images x (r, n); a `Posing`. scale (r,) brings the distance to units of theta."""

    through: Through
    metric: Metric
    shape: tuple[int, ...]
    bounds: tuple[float, float]
    x: Float[Tensor, "r n"]
    scale: Float[Tensor, " r"]

    def start(self, x: Tensor, z: Tensor) -> Tensor:
        return self.through.start(self._images(x))

    def image(self, u: Tensor, x: Tensor) -> Tensor:
        with torch.no_grad():
            return self.through(self._images(x), u).flatten(1)

    def pull(self, u: Tensor, grad: Tensor) -> Tensor:
        return pulled(self.through, self._images(self.x), u, self._images(grad))

    def size(self, u: Tensor, x: Tensor) -> Term:
        value, grad = metrics.gradient(self._measure, self._images(x), u)
        return value * self.scale, grad * self.scale[:, None]

    def excess(self, u: Tensor, x: Tensor, radius: Tensor) -> Term:
        value, grad = self.size(u, x)
        return value - radius * self.scale, grad

    def _measure(self, x: Tensor, theta: Tensor) -> Float[Tensor, " r"]:
        if isinstance(self.metric, Own):
            return self.metric(x, theta)
        return self.metric(x, moved(self.through, x, theta, self.bounds))

    def _images(self, flat: Tensor) -> Tensor:
        return flat.view(-1, *self.shape)


def begin(task: Task, near: Aims, images: int, rows: int) -> tuple[Aims, Moved, Tensor, Tensor]:
    """`rows` rows for each image: what they aim at, the posing, the starts theta, and the unit of margins.

    near: the classes aimed at, with gradients with respect to the image; the nearest also gets the starts further out.
    """
    question, shape = task.question, tuple(task.x.shape[1:])
    through, x = question.through, task.x[near.image]
    assert through is not None
    theta = through.start(x)
    size, k = theta.shape[1], len(near.image) // images
    noise = NOISE * through.unit * task.noise(size)
    grad = pulled(through, x, theta + noise, near.grad.view_as(x))
    step = shortest(Lp(2), grad, OVERSHOOT * -near.margin)
    step = step * (through.unit / step.abs().amax(1, keepdim=True).clamp(min=1e-30)).clamp(max=1)
    pick = torch.tensor([*range(k), *[0] * min(rows - k, len(FAR))], device=x.device)
    index = (torch.arange(images, device=x.device)[:, None] * k + pick).flatten()
    aims, theta, step, grad = take(near, index), theta[index], step[index].view(images, len(pick), size), grad[index]
    length = torch.linalg.vector_norm(step[:, 0], dim=1, keepdim=True)
    for j in range(len(pick) - k):
        step[:, k + j] = (FAR[j] * length).clamp(max=through.unit * size**0.5) * task.direction(j, size)
    start = theta + step.flatten(0, 1) + noise
    posing = Moved(through, question.metric, shape, task.bounds, x[index].flatten(1), torch.ones_like(aims.margin))
    far, _ = posing.size(start, posing.x)
    scale = torch.linalg.vector_norm(start - theta, dim=1) / far
    posing.scale.copy_(torch.where(scale.isfinite() & (scale > 0), scale, 1.0))
    return aims, posing, start, 1 / torch.linalg.vector_norm(grad, dim=1).clamp(min=1e-12)
