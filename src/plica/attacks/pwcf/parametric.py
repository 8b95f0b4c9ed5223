"""Perturbations x' = T(x, theta) for PWCF: the unknowns are theta, the distance is that of theta or of the image.

A search starts from the step in theta that reaches the boundary of the linear model, from longer steps in the same
direction, and from random points or, if the unknowns are few, the best nodes of a grid.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from plica import metrics
from plica.attacks.base import AttackInput
from plica.attacks.pwcf.parametrization import Term
from plica.attacks.target_classes import TargetRows, shortest
from plica.metrics import Lp, Metric, differentiable_value
from plica.perturbations.base import ParametricPerturbation, ThetaDistance, apply, theta_gradient, transform
from plica.solver.rows import WHOLE, join, take


@dataclass(frozen=True)
class ThetaSettings:
    """Where searches for theta start.

    Attributes:
        far: lengths of further starts in random directions, in lengths of the first step.
        overshoot: length of the first step, over that of the step to the boundary of the linear model.
        stiffness: weight of the margin against the distance.
        gradients_per_row: gradients reserved for a search from a node of a grid.
        most_rows: most rows of an image, if the perturbation has a grid.
        noise: added to the start, in units of the perturbation, since bilinear interpolation has a kink at every pixel.
    """

    far: tuple[float, ...] = (2.0, 4.0, 8.0)
    overshoot: float = 1.1
    stiffness: float = 3
    gradients_per_row: int = 12
    most_rows: int = 10
    noise: float = 1e-3


SETTINGS = ThetaSettings()


@dataclass(frozen=True)
class ThetaUnknowns:
    """The parametrization whose unknowns are theta, for images x (r, n). scale: the solver's units per unit of the
    distance, (r,)."""

    through: ParametricPerturbation = field(metadata=WHOLE)
    metric: Metric = field(metadata=WHOLE)
    shape: tuple[int, ...]
    bounds: tuple[float, float]
    x: Float[Tensor, "r n"]
    scale: Float[Tensor, " r"]

    def start(self, x: Tensor, z: Tensor) -> Tensor:
        return self.through.start(self._images(x))

    def image(self, u: Tensor, x: Tensor) -> Tensor:
        with torch.no_grad():
            return transform(self.through, self._images(x), u).flatten(1)

    def pull(self, u: Tensor, grad: Tensor) -> Tensor:
        return theta_gradient(self.through, self._images(self.x), u, self._images(grad))

    def size(self, u: Tensor, x: Tensor) -> Term:
        value, grad = metrics.gradient(self._measure, self._images(x), u)
        return value * self.scale, grad * self.scale[:, None]

    def excess(self, u: Tensor, x: Tensor, radius: Tensor) -> Term:
        value, grad = self.size(u, x)
        return value - radius * self.scale, grad

    def _measure(self, x: Tensor, theta: Tensor) -> Float[Tensor, " r"]:
        if isinstance(self.metric, ThetaDistance):
            return self.metric(x, theta)
        return differentiable_value(self.metric, x, apply(self.through, x, theta, self.bounds))

    def _images(self, flat: Tensor) -> Tensor:
        return flat.view(-1, *self.shape)


def theta_rows(
    task: AttackInput, nearest_rows: TargetRows, images: int, rows: int
) -> tuple[TargetRows, ThetaUnknowns, Tensor, Tensor]:
    """`rows` rows for each image: their target classes, the parametrization, the starts theta, and the unit of margins.

    If the perturbation has a grid, up to half of the gradients is spent on its nodes, and the rest determines the
    number of rows.

    nearest_rows: the classes to aim at, with gradients with respect to the image. The nearest class also gets the
        starts that are farther away.
    """
    through, x = task.question.through, task.x[nearest_rows.image]
    assert through is not None
    first, k = through.start(x), len(nearest_rows.image) // images
    size = first.shape[1]
    noise = SETTINGS.noise * through.unit * task.noise(size)
    nearest_rows = replace(nearest_rows, grad=theta_gradient(through, x, first + noise, nearest_rows.grad.view_as(x)))
    step = shortest(Lp(2), nearest_rows.grad, SETTINGS.overshoot * -nearest_rows.margin)
    step = step * (through.unit / step.abs().amax(1, keepdim=True).clamp(min=1e-30)).clamp(max=1)
    if hasattr(through, "grid"):
        far, start = _grid_rows(task, nearest_rows.image[::k], k)
    else:
        far, start = _random_rows(
            task,
            take(nearest_rows, torch.arange(0, len(nearest_rows.image), k, device=nearest_rows.image.device)),
            step[::k],
            min(rows - k, len(SETTINGS.far)),
        )
    # the rows of an image next to each other, as in nearest_rows
    order = torch.cat([nearest_rows.image, far.image]).argsort(stable=True)
    target_rows, start = take(join(nearest_rows, far), order), torch.cat([first + step, start])[order] + noise
    x = task.x[target_rows.image]
    metric, shape = task.question.metric, tuple(task.x.shape[1:])
    parametrization = ThetaUnknowns(
        through, metric, shape, task.bounds, x.flatten(1), torch.ones_like(target_rows.margin)
    )
    scale = (
        torch.linalg.vector_norm(start - through.start(x), dim=1) / parametrization.size(start, parametrization.x)[0]
    )
    parametrization.scale.copy_(torch.where(scale.isfinite() & (scale > 0), scale, 1.0))
    return (
        target_rows,
        parametrization,
        start,
        SETTINGS.stiffness / torch.linalg.vector_norm(target_rows.grad, dim=1).clamp(min=1e-12),
    )


def _random_rows(
    task: AttackInput, nearest_rows: TargetRows, step: Float[Tensor, "i k"], more: int
) -> tuple[TargetRows, Float[Tensor, "m k"]]:
    """`more` starts for each image in random directions, each aimed at the nearest class."""
    through, size = task.question.through, step.shape[1]
    assert through is not None
    length, limit = torch.linalg.vector_norm(step, dim=1, keepdim=True), through.unit * size**0.5
    first = through.start(task.x[nearest_rows.image])
    starts = [
        first + (SETTINGS.far[j] * length).clamp(max=limit) * task.direction(j, size) for j in range(max(0, more))
    ]
    index = torch.arange(len(step), device=step.device).repeat(len(starts))
    return take(nearest_rows, index), torch.cat([*starts, step[:0]])


def _grid_rows(task: AttackInput, images: Int[Tensor, " i"], rows: int) -> tuple[TargetRows, Float[Tensor, "m k"]]:
    """The best nodes of the grid for each image, and the nearest class at each; one gradient per node. `rows` rows of
    each image are taken already.

    The best nodes are those with the smallest sum of the distance and of the way that is left to the boundary by the
    linear model at the node.
    """
    through, x, goal = task.question.through, task.x[images], task.goal[images]
    assert through is not None
    left = task.gradients - int(task.model.gradients[images].max())
    nodes = through.grid(max(1, left // 2)).to(x)  # type: ignore[attr-defined]
    kept = max(0, min(SETTINGS.most_rows, (left - len(nodes)) // SETTINGS.gradients_per_row) - rows)
    if kept == 0:
        nodes = nodes[:0]
    candidates = []
    for node in nodes:
        theta = node.expand(len(x), -1)
        free = transform(through, x, theta)
        z = free.clamp(*task.bounds)
        m, logits, grad = task.model.gradient(z, images, lambda logits, part: goal[part].margin(logits))
        task.best.offer(z, images, logits, theta=theta)
        grad = theta_gradient(through, x, theta, grad.masked_fill(free != z, 0))
        target = goal.alternatives(logits).argmax(1)
        far = through.distance(x, theta) + (-m).clamp(min=0) / torch.linalg.vector_norm(grad, dim=1).clamp(min=1e-12)
        candidates.append((TargetRows(images, target, m, grad), theta, far.nan_to_num(nan=torch.inf)))
    if not candidates:
        return TargetRows(images[:0], images[:0], x.new_zeros(0), x.new_zeros(0, nodes.shape[1])), nodes
    every, thetas = (
        TargetRows(*(torch.cat([getattr(a, f.name) for a, _, _ in candidates]) for f in fields(TargetRows))),
        torch.cat([t for _, t, _ in candidates]),
    )
    best = torch.stack([far for _, _, far in candidates]).argsort(dim=0, stable=True)[:kept]
    index = (best * len(x) + torch.arange(len(x), device=x.device)).flatten()
    return take(every, index), thetas[index]
