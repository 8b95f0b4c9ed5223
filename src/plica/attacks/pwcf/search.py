"""PWCF, the papers' method: constraints are folded into few (parametrization.py), and BFGS-SQP solves the problem.

Each image becomes a few rows, one per target class, since f_class - f_y has fewer kinks than the margin and several
end points guard against a poor local minimum. The classes (in general, alternatives of the goal) are those with the
nearest boundaries by the linear model. All rows share the image's budget.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from plica.attacks.base import AttackInput, AttackOutput, refuse_counts, treats_perturbations
from plica.attacks.boundary_search import FEW, boundary_search, box_search
from plica.attacks.pwcf.parametric import theta_rows
from plica.attacks.pwcf.parametrization import Parametrization, Plain, parametrize
from plica.attacks.pwcf.problem import PWCFProblem
from plica.attacks.pwcf.settings import SETTINGS
from plica.attacks.target_classes import TargetRows, nearest, shortest
from plica.core.formulations import MaxLoss
from plica.core.losses import spread
from plica.core.status import Status
from plica.metrics import plain_p
from plica.solver import BFGSSQP, Solution, Stop
from plica.solver.bfgs_sqp.linesearch import WeakWolfe
from plica.solver.bfgs_sqp.stationarity import Stationarity
from plica.solver.rows import take

SOLVER = BFGSSQP(
    tol=1e-5, memory=5, patience=60, progress=1e-4, insist=3, retreat=True,
    search=WeakWolfe(at_wall=4), measure=Stationarity(keep=0),
)  # fmt: skip


@treats_perturbations
def pwcf(task: AttackInput) -> AttackOutput:
    """Solve MinRadius or MaxLoss by BFGS-SQP with folded constraints; any metric."""
    refuse_counts("pwcf", task.question)
    every = torch.arange(len(task.x), device=task.x.device)
    # starts are made for a few batches of rows at a time, so that memory does not grow with the number of images
    parts = [
        _solve(task, images)
        for images in every.split(max(1, SETTINGS.batches * task.batch_size // (SETTINGS.classes + len(SETTINGS.far))))
    ]
    forwards = task.affordable(task.gradients)
    if task.question.through is None:
        if task.radius is None:
            _last_starts(task)
            _restarts(task)
        box_search(task, every, min(forwards - SETTINGS.boundary_forwards, SETTINGS.box_forwards))
    boundary_search(task, every, min(SETTINGS.boundary_forwards, forwards))
    status = [status for part in parts for status in part.status]
    if task.radius is not None:
        broken = task.best.distance.isfinite().tolist()
        status = [Status.SUCCEEDED if done else why for done, why in zip(broken, status, strict=True)]
    end = torch.cat([part.end for part in parts if part.end is not None])
    done = task.best.distance.isfinite().view(-1, *[1] * (end.ndim - 1))
    return AttackOutput(
        torch.cat([part.stationarity for part in parts]), status, end=torch.where(done, task.best.x_adv, end)
    )


def _shares(gradients: int) -> tuple[int, int]:
    """The number of classes that are tried with one gradient each, and the number of searches that share the rest."""
    tried = max(1, gradients // SETTINGS.gradients_per_class)
    left = gradients - tried
    shared = min(SETTINGS.classes + SETTINGS.shared, left // SETTINGS.gradients_per_row)
    return tried, max(1, shared, min(SETTINGS.classes + len(SETTINGS.far), left // SETTINGS.longest))


def _solve(task: AttackInput, images: Int[Tensor, " i"]) -> AttackOutput:
    """Search all rows of the given images, whose indices are consecutive."""
    classes_tried, rows = _shares(task.gradients)
    left = task.gradients - classes_tried
    nearest_rows = nearest(task, images, classes_tried, min(SETTINGS.classes, rows))
    flat = (nearest_rows.grad == 0).all(1).view(len(images), -1).all(1)
    if task.question.through is not None or not bool(flat.any()):
        return _search(task, images, nearest_rows, None, rows)
    # images where the gradient is zero are solved separately: half of their budget is spent on finding a start
    k, order = len(nearest_rows.image) // len(images), torch.arange(len(images), device=images.device)
    parts, positions = [], []
    for position in (order[~flat], order[flat]):
        if len(position):
            own = take(nearest_rows, (position[:, None] * k + torch.arange(k, device=order.device)).flatten())
            start = None
            if bool(flat[position[0]]):
                rows = max(1, min(SETTINGS.classes + len(SETTINGS.far), (left - left // 2) // SETTINGS.longest))
                start = _in_box(task, images[position], left // 2, rows)
                own = start[0]
            parts.append(_search(task, images[position], own, None if start is None else start[1], rows))
            positions.append(position)
    back = torch.cat(positions).argsort()
    status = [status for part in parts for status in part.status]
    return AttackOutput(
        torch.cat([part.stationarity for part in parts])[back],
        [status[i] for i in back.tolist()],
        end=torch.cat([part.end for part in parts if part.end is not None])[back],
    )


def _last_starts(task: AttackInput) -> None:
    """For images without a point, spend the rest of the budget on random points of the box and on searches from
    them."""
    kept = _left(task) * 2 // 3 // SETTINGS.longest
    for images, rows in _alike(task, kept * task.best.distance.isinf()):
        _search(task, images, *_in_box(task, images, rows * SETTINGS.longest // 2, rows), rows)


def _restarts(task: AttackInput) -> None:
    """In few dimensions searches end early. Spend the rest of the budget on further ones, which start in random
    directions, about as far away as the best point."""
    for number in range(0, task.gradients if task.x[0].numel() <= FEW else 0, len(SETTINGS.around)):
        kept = (_left(task) // (SETTINGS.longest + 1)).clamp(max=len(SETTINGS.around))
        kept *= task.best.distance.isfinite() & (task.best.distance > 0)
        if not bool(kept.any()):
            return
        for images, rows in _alike(task, kept):
            _search(task, images, *_around(task, images, range(number, number + rows)), rows)


def _left(task: AttackInput) -> Int[Tensor, " b"]:
    return task.gradients - task.model.gradients


def _alike(task: AttackInput, rows: Int[Tensor, " b"]) -> Iterator[tuple[Int[Tensor, " i"], int]]:
    """Groups of images with the same number of rows, and that number; a few batches of rows at a time. rows: of each
    image. Images are grouped so that the number of rows of one image does not depend on the others."""
    for number in rows.unique().tolist():
        images = (rows == number).nonzero()[:, 0]
        for part in images.split(max(1, SETTINGS.batches * task.batch_size // max(1, number))) if number else ():
            yield part, number


def _around(task: AttackInput, images: Int[Tensor, " i"], numbers: range) -> tuple[TargetRows, Tensor]:
    """Starts in random directions, at multiples (SETTINGS.around) of the distance of the best point, aimed at the
    alternative that is nearest there; one gradient each."""
    x, goal = task.x[images], task.goal[images]
    length = torch.linalg.vector_norm((task.best.x_adv[images] - x).flatten(1), dim=1, keepdim=True)
    starts = []
    for number in numbers:
        away = SETTINGS.around[number % len(SETTINGS.around)] * length * task.direction(number)
        z = (x + away.view_as(x)).clamp(*task.bounds)
        m, output, grad = task.model.gradient(z, images, lambda out, rows: goal[rows].margin(out))
        task.best.offer(z, images, output)
        starts.append((goal.alternatives(output).argmax(1), m, grad.flatten(1), (z - x).flatten(1)))
    target, margin, grad, step = (torch.stack(values, 1).flatten(0, 1) for values in zip(*starts, strict=True))
    return TargetRows(images.repeat_interleave(len(numbers)), target, margin, grad), step


def _in_box(task: AttackInput, images: Int[Tensor, " i"], points: int, kept: int) -> tuple[TargetRows, Tensor]:
    """Starts at random points of the box, for images without a useful gradient.

    `points` random points are divided into `kept` parts. Each part gives one start: its nearest point that reaches the
    goal with a gradient that is not zero. A point farther away than the nearest one so far is first moved towards the
    image, to less than that distance. One gradient per point.

    Returns the rows, each with the alternative that is nearest at its start, and the steps from the images to the
    starts.
    """
    x, goal = task.x[images], task.goal[images]
    size = task.best.distance.new_full((len(images), kept), torch.inf)
    step = x.new_zeros(len(images), kept, x[0].numel())
    grad, margin, target = torch.zeros_like(step), size.clone(), torch.zeros_like(size, dtype=torch.long)
    for number in range(points):
        z, part = task.box_point(points + number, images), number % kept
        away = torch.linalg.vector_norm((z - x).flatten(1), dim=1)
        share = (SETTINGS.nearer * size.amin(1) / away.clamp(min=1e-30)).clamp(max=1)
        z = torch.lerp(x, z, share.view(-1, *[1] * (x.ndim - 1)))
        m, output, g = task.model.gradient(z, images, lambda out, rows: goal[rows].margin(out))
        task.best.offer(z, images, output)
        d = share * away
        d = torch.where((m > 0) & (g != 0).flatten(1).any(1), d, 1e3 * d + 1e3)
        nearer = d < size[:, part]
        size[:, part], margin[:, part] = torch.where(nearer, d, size[:, part]), torch.where(nearer, m, margin[:, part])
        step[:, part] = torch.where(nearer[:, None], (z - x).flatten(1), step[:, part])
        grad[:, part] = torch.where(nearer[:, None], g.flatten(1), grad[:, part])
        target[:, part] = torch.where(nearer, goal.alternatives(output).argmax(1), target[:, part])
    rows = TargetRows(images.repeat_interleave(kept), target.flatten(), margin.flatten(), grad.flatten(0, 1))
    return rows, step.flatten(0, 1)


def _search(
    task: AttackInput, images: Int[Tensor, " i"], nearest_rows: TargetRows, step: Tensor | None, rows: int
) -> AttackOutput:
    """BFGS-SQP from `rows` starts of each image. step: from the image to each start; None for the steps to the
    boundaries of the linear models."""
    if task.question.through is not None:
        target_rows, parametrization, start, unit = theta_rows(task, nearest_rows, len(images), rows)
    else:
        target_rows, parametrization, start, unit = _pixel_rows(task, nearest_rows, step, len(images), rows)
    if isinstance(task.question, MaxLoss) and task.question.loss == "dlr":
        unit = unit * spread(task.logits[target_rows.image], task.targets is not None)
    left = task.gradients - int(task.model.gradients[images].max())
    if left < len(start) // len(images):
        return AttackOutput(
            torch.full_like(nearest_rows.margin[: len(images)], torch.nan),
            [Status.BUDGET] * len(images),
            end=task.x[images],
        )
    memory = None if start.shape[1] < task.x[0].numel() else SOLVER.memory  # few unknowns: dense
    solver = replace(SOLVER, memory=memory, max_evaluations=min(SETTINGS.longest, left // (len(start) // len(images))))
    problem = PWCFProblem(task, parametrization, target_rows, unit, torch.zeros_like(unit, dtype=torch.bool))
    solution = solver.solve(
        problem, start, task.batch_size, partial(_report_progress, task, target_rows.image, int(images[-1]) + 1)
    )
    return _best_rows(solution, len(images), problem)


def _pixel_rows(
    task: AttackInput, nearest_rows: TargetRows, step: Tensor | None, images: int, rows: int
) -> tuple[TargetRows, Parametrization, Tensor, Tensor]:
    """`rows` rows for each image: their target classes, the parametrization, the starts, and the unit of margins. step:
    as in _search."""
    step = _first_step(task, nearest_rows) if step is None else step
    target_rows, step = _with_far(nearest_rows, step, images, rows, task.direction)
    x = task.x.flatten(1)[target_rows.image]
    radius = None if task.radius is None else SETTINGS.inside * task.radius[target_rows.image].to(x.dtype)
    parametrization = parametrize(task.question.metric, tuple(task.x.shape[1:]), task.bounds, step, radius)
    noise = (SETTINGS.noise_share * step.abs().amax(1, keepdim=True)).clamp(max=SETTINGS.noise) * task.noise()
    start = parametrization.start(x, (x + step + noise).clamp(*task.bounds))
    if isinstance(parametrization, Plain) and plain_p(parametrization.metric) is None:
        start = start if radius is None else _towards_image(parametrization, x, start, radius)
        away, units = torch.linalg.vector_norm(start - x, dim=1), parametrization.size(start, x)[0]
        parametrization = replace(parametrization, units=torch.where(units > 0, away / units, 1.0))
    stiff = 1 if isinstance(parametrization, Plain) else SETTINGS.stiffness
    return (
        target_rows,
        parametrization,
        start,
        stiff / torch.linalg.vector_norm(parametrization.pull(start, target_rows.grad), dim=1).clamp(min=1e-12),
    )


def _towards_image(parametrization: Plain, x: Tensor, start: Tensor, radius: Float[Tensor, " r"]) -> Tensor:
    """Starts moved towards the image until they lie within the radius, so that the search has a feasible point to
    return. The losses reached are as large as without (docs/design/pwcf.md)."""
    for _ in range(SETTINGS.shrinks):
        far = parametrization.size(start, x)[0] > radius
        start = torch.where(far[:, None], torch.lerp(x, start, SETTINGS.shrink), start)
    return start


def _report_progress(task: AttackInput, image: Int[Tensor, " r"], images_before: int, rows: Int[Tensor, " s"]) -> None:
    task.progress(images_before - len(image[rows].unique()))


def _first_step(task: AttackInput, target_rows: TargetRows) -> Tensor:
    return SETTINGS.overshoot * shortest(task.question.metric, target_rows.grad, -target_rows.margin)


def _with_far(
    nearest_rows: TargetRows, step: Tensor, images: int, rows: int, directions: Callable[[int], Tensor]
) -> tuple[TargetRows, Tensor]:
    """`rows` rows per image: the given ones, then starts far away in random directions, aimed at the nearest class.

    If a search that starts with the linear model's step misses the global minimum, this is mostly another local minimum
    for the same class, and starts near that step lead to the same point again (docs/design/pwcf.md).
    """
    k = len(nearest_rows.image) // images
    far = min(rows - k, len(SETTINGS.far)) if rows > k else 0
    pick = torch.tensor([*range(k), *[0] * far], device=nearest_rows.image.device)
    index = (torch.arange(images, device=pick.device)[:, None] * k + pick).flatten()
    step = step[index].view(images, k + far, -1)
    length = torch.linalg.vector_norm(step[:, 0], dim=1, keepdim=True)
    for j in range(far):
        step[:, k + j] = SETTINGS.far[j] * length * directions(j)
    return take(nearest_rows, index), step.flatten(0, 1)


def _best_rows(solution: Solution, images: int, problem: PWCFProblem) -> AttackOutput:
    """The best row of each image: the feasible one with the smallest objective, else the one with the smallest
    violation."""
    rows = solution.f.view(images, -1)
    feasible = solution.violation.view(images, -1) <= SOLVER.tol
    order = torch.where(feasible, rows, 1e30 * (1 + solution.violation.view(images, -1)))
    best = order.nan_to_num(nan=torch.inf).argmin(1) + torch.arange(images, device=rows.device) * rows.shape[1]
    assert isinstance(solution.status, list)
    # the solver reports a start at a flat margin as not finite (PWCFProblem), but the model is finite there
    status = [
        Status.LINE_SEARCH if blind else STATUS[solution.status[i]]
        for i, blind in zip(best.tolist(), problem.blind[best].tolist(), strict=True)
    ]
    x = problem.task.x[problem.target_rows.image[best]]
    end = (
        take(problem.parametrization, best).image(solution.x[best], x.flatten(1)).clamp(*problem.task.bounds).view_as(x)
    )
    return AttackOutput(solution.stationarity[best], status, end=end)


STATUS = {
    Stop.STATIONARY: Status.STATIONARY,
    Stop.DONE: Status.SUCCEEDED,
    Stop.STALLED: Status.STALLED,
    Stop.LINE_SEARCH: Status.LINE_SEARCH,
    Stop.MAX_STEPS: Status.BUDGET,
    Stop.BUDGET: Status.BUDGET,
    Stop.INFEASIBLE: Status.INFEASIBLE,
    Stop.UNBOUNDED: Status.NOT_FINITE,
    Stop.NOT_FINITE: Status.NOT_FINITE,
}
