"""PWCF: the papers' method. The question is folded into few constraints (parametrization.py) and BFGS-SQP solves it.

Each image becomes a few rows, one per class aimed at: f_class - f_y has fewer kinks than the margin, and several end
points guard against a poor local minimum. Classes are those nearest by the linear model; all rows share the image's
budget.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from plica.attacks.base import AttackOutput, Task
from plica.attacks.boundary_search import affordable, boundary_search
from plica.attacks.pwcf.parametric import begin
from plica.attacks.pwcf.parametrization import Parametrization, Plain, Sine, pose, within
from plica.attacks.target_classes import TargetRows, nearest, shortest
from plica.core.formulations import MaxLoss
from plica.core.losses import LOSSES, margin, spread
from plica.core.status import Status
from plica.metrics import plain_p
from plica.solver import BFGSSQP, Evaluation, Solution, Stop
from plica.solver.bfgs_sqp.stationarity import Stationarity
from plica.solver.rows import pick, take

ROW = 30  # gradients that a row needs before a second row is worth having
LONGEST = 80  # gradients after which a row has nothing to gain, as a rule
NEAR = 2  # classes aimed at, at most
FAR = (4.0, 2.0, 4.0, 8.0, 2.0, 4.0)  # further starts, so many times the first step away in a random direction
SHARED = 3  # of them that share a budget with the classes; the others come on top of rows as long as can be
TRIED = 10  # budget per class tried with one gradient each
STIFF = 2  # weight of the margin against the distance where the perturbation is written anew: mu seldom has to fall
OVERSHOOT = 1.1  # of the first step: a start just inside the boundary is worth less than one just past it
NOISE = 1e-3  # of the start, in pixel units: breaks ties and gives the distance a gradient
AIM = 1e-4  # share of the first margin by which the boundary is to be passed, so that the end point is surely past it
CLIP = 1e-2  # share of the first margin past which a larger loss is no better (section 3.2)
LANDINGS = 6  # forward runs at the end towards the boundary
CLOSER, DRAWN = 0.7, 20  # share of the way that a start too far out keeps, at most so many times
BATCHES = 4  # of rows whose starts are held at once
INSIDE = 0.999  # share of the radius that MaxLoss may use: a violation within the tolerance stays inside the radius
SOLVER = BFGSSQP(tol=1e-5, memory=5, patience=60, progress=1e-4, insist=3, measure=Stationarity(keep=0))


def pwcf(task: Task) -> AttackOutput:
    """Solve MinRadius or MaxLoss by BFGS-SQP with folded constraints; any metric."""
    every = torch.arange(len(task.x), device=task.x.device)
    # starts are made for a few batches of rows at a time, so that memory does not grow with the number of images
    parts = [_solve(task, images) for images in every.split(max(1, BATCHES * task.batch_size // (NEAR + len(FAR))))]
    boundary_search(task, every, min(LANDINGS, affordable(task.gradients)))
    status = [status for part in parts for status in part.status]
    if task.radius is not None:
        broken = task.best.distance.isfinite().tolist()
        status = [Status.SUCCEEDED if done else why for done, why in zip(broken, status, strict=True)]
    end = torch.cat([part.end for part in parts if part.end is not None])
    done = task.best.distance.isfinite().view(-1, *[1] * (end.ndim - 1))
    return AttackOutput(
        torch.cat([part.stationarity for part in parts]), status, end=torch.where(done, task.best.x_adv, end)
    )


def _solve(task: Task, images: Int[Tensor, " i"]) -> AttackOutput:
    """All rows of the given images, a sequence of neighbours."""
    tried = max(1, task.gradients // TRIED)
    left = task.gradients - tried
    rows = max(1, min(NEAR + SHARED, left // ROW), min(NEAR + len(FAR), left // LONGEST))
    near = nearest(task, images, tried, min(NEAR, rows))
    if task.question.through is not None:
        aims, posing, start, unit = begin(task, near, len(images), rows)
    else:
        aims, posing, start, unit = _begin(task, near, len(images), rows)
    if isinstance(task.question, MaxLoss) and task.question.loss == "dlr":
        unit = unit * spread(task.logits[aims.image], task.targets is not None)
    left = task.gradients - int(task.model.gradients[images.cpu()].max())
    if left < len(start) // len(images):
        return AttackOutput(
            torch.full_like(near.margin[: len(images)], torch.nan), [Status.BUDGET] * len(images), end=task.x[images]
        )
    memory = None if start.shape[1] < task.x[0].numel() else SOLVER.memory  # few unknowns: dense
    solver = replace(SOLVER, memory=memory, max_evaluations=min(LONGEST, left // (len(start) // len(images))))
    problem = PWCFProblem(task, posing, aims, unit)
    solution = solver.solve(problem, start, task.batch_size, partial(_tell, task, aims.image, int(images[-1]) + 1))
    return _found(solution, len(images), problem)


def _begin(task: Task, near: TargetRows, images: int, rows: int) -> tuple[TargetRows, Parametrization, Tensor, Tensor]:
    """`rows` rows for each image: what they aim at, the posing, the starts, and the unit of margins."""
    aims, reach = _with_far(near, _reach(task, near), images, rows, task.direction)
    x = task.x.flatten(1)[aims.image]
    radius = None if task.radius is None else INSIDE * task.radius[aims.image].to(x.dtype)
    posing = pose(task.question.metric, tuple(task.x.shape[1:]), task.bounds, reach, radius)
    start = posing.start(x, (x + reach + NOISE * task.noise()).clamp(*task.bounds))
    if isinstance(posing, Plain) and plain_p(posing.metric) is None:
        start = start if radius is None else _inside(posing, x, start, radius)
        away, units = torch.linalg.vector_norm(start - x, dim=1), posing.size(start, x)[0]
        posing = replace(posing, units=torch.where(units > 0, away / units, 1.0))
    stiff = 1 if isinstance(posing, Plain) else STIFF
    return aims, posing, start, stiff / torch.linalg.vector_norm(posing.pull(start, aims.grad), dim=1).clamp(min=1e-12)


def _inside(posing: Plain, x: Tensor, start: Tensor, radius: Float[Tensor, " r"]) -> Tensor:
    """Starts drawn towards the image until they are within the radius: the search then has a feasible point to return,
    and gets as far (docs/design/pwcf.md)."""
    for _ in range(DRAWN):
        far = posing.size(start, x)[0] > radius
        start = torch.where(far[:, None], torch.lerp(x, start, CLOSER), start)
    return start


def _tell(task: Task, image: Int[Tensor, " r"], begun: int, rows: Int[Tensor, " s"]) -> None:
    task.progress(begun - len(image[rows].unique()))


def _reach(task: Task, aims: TargetRows) -> Tensor:
    return OVERSHOOT * shortest(task.question.metric, aims.grad, -aims.margin)


def _with_far(
    near: TargetRows, reach: Tensor, images: int, rows: int, directions: Callable[[int], Tensor]
) -> tuple[TargetRows, Tensor]:
    """`rows` rows per image: the near ones, then starts from far outside towards the nearest class.

    What a search from the linear model's step misses is mostly another local minimum of the same class, and noise
    around the step falls back to the same one (docs/design/pwcf.md).
    """
    k = len(near.image) // images
    far = min(rows - k, len(FAR)) if rows > k else 0
    pick = torch.tensor([*range(k), *[0] * far], device=near.image.device)
    index = (torch.arange(images, device=pick.device)[:, None] * k + pick).flatten()
    reach = reach[index].view(images, k + far, -1)
    length = torch.linalg.vector_norm(reach[:, 0], dim=1, keepdim=True)
    for j in range(far):
        reach[:, k + j] = FAR[j] * length * directions(j)
    return take(near, index), reach.flatten(0, 1)


def _found(solution: Solution, images: int, problem: PWCFProblem) -> AttackOutput:
    """Per image, what is known of the row that ended best: a feasible one of the least objective, else the least
    violated."""
    rows = solution.f.view(images, -1)
    feasible = solution.violation.view(images, -1) <= SOLVER.tol
    order = torch.where(feasible, rows, 1e30 * (1 + solution.violation.view(images, -1)))
    best = order.nan_to_num(nan=torch.inf).argmin(1) + torch.arange(images, device=rows.device) * rows.shape[1]
    assert isinstance(solution.status, list)
    x = problem.task.x[problem.aims.image[best]]
    end = take(problem.posing, best).image(solution.x[best], x.flatten(1)).clamp(*problem.task.bounds).view_as(x)
    return AttackOutput(solution.stationarity[best], [STATUS[solution.status[i]] for i in best.tolist()], end=end)


STATUS = {
    Stop.STATIONARY: Status.STATIONARY,
    Stop.ANSWERED: Status.SUCCEEDED,
    Stop.STALLED: Status.STALLED,
    Stop.LINE_SEARCH: Status.LINE_SEARCH,
    Stop.MAX_STEPS: Status.BUDGET,
    Stop.BUDGET: Status.BUDGET,
    Stop.INFEASIBLE: Status.INFEASIBLE,
    Stop.UNBOUNDED: Status.NOT_FINITE,
    Stop.NOT_FINITE: Status.NOT_FINITE,
}


@dataclass(frozen=True)
class PWCFProblem:
    """The question as a problem of the solver.

    Margins are divided by the norm of their gradient where the row starts, so that they too are distances and one
    penalty parameter suits every network.
    """

    task: Task
    posing: Parametrization
    aims: TargetRows
    unit: Float[Tensor, " r"]

    equalities = 0

    @property
    def constraints(self) -> int:
        return 0 if self.task.radius is not None and isinstance(self.posing, Sine) else 1

    def __call__(self, u: Tensor, rows: Tensor) -> Evaluation:
        """Values and gradients at the unknowns u; the point is offered to the archive."""
        task, image = self.task, self.aims.image[rows]
        x, posing = pick(task.x.flatten(1), image), take(self.posing, rows)
        free = posing.image(u, x)
        flat = free.clamp(*task.bounds)
        z = flat.view(-1, *task.x.shape[1:])
        loss, logits, grad = task.model.gradient(z, image, partial(self._loss, rows=rows))
        task.best.offer(z, image, logits, theta=None if task.best.theta is None else u)
        pull = posing.pull(u, within(task.bounds, free, grad.flatten(1)))
        unit = self.unit[rows]
        grads = u.new_empty(len(u), 1 + self.constraints, u.shape[1])
        if task.radius is None:
            size, grads[:, 0] = posing.size(u, x)
            torch.mul(pull, -unit[:, None], out=grads[:, 1])
            return Evaluation(torch.stack([size, unit * (AIM * self.aims.margin[rows].abs() - loss)], 1), grads)
        most = self._most(logits.shape[1], rows)
        torch.mul(pull, -torch.where(loss < most, unit, 0)[:, None], out=grads[:, 0])
        values = [-unit * torch.minimum(loss, most)]
        excess = posing.excess(u, x, INSIDE * task.radius[image].to(x.dtype))
        if excess is not None:
            values.append(excess[0])
            grads[:, 1] = excess[1]
        return Evaluation(torch.stack(values, 1), grads, done=task.best.distance[image].isfinite())

    def _loss(self, logits: Tensor, part: slice, rows: Tensor) -> Tensor:
        """f_class - f_y; for MaxLoss with another loss than the margin, that loss aimed at the class."""
        image, target = self.aims.image[rows[part]], self.aims.target[rows[part]]
        y = self.task.y[image]
        if self._name != "margin":
            return LOSSES[self._name](logits, y, None if self.task.targets is None else target)
        if self.task.targets is not None:
            return margin(logits, y, target)
        return (logits.gather(1, target[:, None]) - logits.gather(1, y[:, None]))[:, 0]

    @property
    def _name(self) -> str:
        return self.task.question.loss if isinstance(self.task.question, MaxLoss) else "margin"

    def _most(self, classes: int, rows: Tensor) -> Tensor:
        """The loss past which the attack has surely succeeded (section 3.2): a little past 0; for cross-entropy
        log(classes), with a target log(1/2)."""
        first = self.aims.margin[rows].abs()
        if self._name == "ce":
            return torch.full_like(first, math.log(0.55) if self.task.targets is not None else 1.05 * math.log(classes))
        return CLIP * first if self._name == "margin" else torch.full_like(first, CLIP)
