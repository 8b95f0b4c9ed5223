"""plica.attack: one question about one model and labelled images, asked of one method and answered by the judge."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from plica.attacks.base import AttackOutput, Task
from plica.attacks.registry import ATTACKS, check_treats_perturbations
from plica.core import validation
from plica.core.best import BestPoints
from plica.core.bounds import attack_in_box, read_box
from plica.core.fixed import Holding
from plica.core.formulations import Question
from plica.core.judge import Judge, Verdict, in_float64
from plica.core.losses import Targets, margin
from plica.core.model import CountedModel, rounding
from plica.core.result import Result
from plica.core.status import Status
from plica.metrics import Unsupported, fixed_pixels
from plica.perturbations.base import ThetaDistance, apply, check, interpolate
from plica.solver.rows import put, take

FLOATS = 2**28  # of memory that a batch of searches may take, about 1 GiB in float32
STRETCHES = (1.0003, 1.001, 1.003, 1.01)  # of a perturbation whose margin was made of rounding, until one counts
VECTORS = 64  # of image size that one row of a search holds


@dataclass(frozen=True)
class Progress:
    """Images done of total, gradients spent so far on all, median distance of the images with a point so far (nan
    before)."""

    done: int
    total: int
    gradients: int
    radius: float


def methods() -> tuple[str, ...]:
    """The names that `method` takes."""
    return tuple(ATTACKS)


def attack(
    model: Callable[[Tensor], Tensor],
    x: Float[Tensor, "b *image"],
    y: Int[Tensor, " b"],
    question: Question,
    *,
    method: str = "auto",
    gradients: int = 100,
    seed: int = 0,
    batch_size: int | None = None,
    bounds: tuple[float | Tensor, float | Tensor] = (0.0, 1.0),
    targets: Targets = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> Result:
    """Answer `question` about `model` for every image, and judge the answers.

    An image that is misclassified from the start costs one forward run, has distance 0 and x_adv = x. Images at which
    the model is not finite end with a status that says so, and the others still arrive.

    Args:
        model: any callable (b, *image) -> (b, classes) that gives logits; a module is run in eval mode, and its mode is
            restored.
        x: images, inside the bounds.
        y: labels, class numbers from 0.
        question: a MinRadius or a MaxLoss.
        method: a name out of `plica.methods()`; "auto" takes the best that the distance allows.
        gradients: budget of gradient evaluations per image; at most a fifth as many forward runs come on top.
        seed: the answer for an image depends on it and on the image alone, not on the other images or the batch size.
        batch_size: searches that are solved side by side; chosen by the memory they take if not given.
        bounds: two numbers, or two tensors of an image's shape, one bound for each feature. A feature whose bounds are
            equal stays as it is, and so does one that a WeightedLp weighs inf or a Held metric holds.
        targets: (b,) the only class that counts as a success, or None for any wrong class.
        on_progress: called now and then with a Progress.

    Raises:
        ValueError: an argument is wrong; said before any work, in one sentence that says what to do.
        TypeError: the same for an argument of the wrong type.
        Unsupported: the method cannot treat the metric; the message names those that can.
    """
    if isinstance(bounds, tuple | list) and any(isinstance(bound, Tensor) and bound.ndim for bound in bounds):
        validation.whole("gradients", gradients, least=1)
        box = read_box(bounds, x)
        if getattr(question, "through", None) is not None:
            raise Unsupported("Perturbations other than x + delta take bounds of two numbers, not of tensors.")
        with _Evaluating(model):
            return attack_in_box(
                attack, model, x.detach(), y, question, box, targets, method=method, gradients=gradients, seed=seed,
                batch_size=batch_size, on_progress=on_progress,
            )  # fmt: skip
    radius = validation.arguments(x, y, question, method, methods(), gradients, seed, batch_size, bounds, targets)
    if question.through is not None:
        check(question.through, x)
        check_treats_perturbations(method)
    if not isinstance(question.metric, ThetaDistance):
        validation.metric(question.metric, x, (float(bounds[0]), float(bounds[1])))
    x, y = x.detach(), y.detach()
    size = batch_size or fitting(x)
    with _Evaluating(model):
        ask = _Asked(model, x, y, question, radius, targets, bounds, gradients, seed, size, on_progress)
        return ask.answer(ATTACKS[method])


def fitting(x: Float[Tensor, "b *image"]) -> int:
    """Searches that are solved side by side where nobody says how many."""
    return max(16, min(256, FLOATS // (VECTORS * max(1, x[0].numel()))))


class _Asked:
    """One call of `attack`, its arguments checked."""

    def __init__(self, model, x, y, question, radius, targets, bounds, gradients, seed, size, on_progress):
        self.model, self.x, self.y, self.question, self.targets = model, x, y, question, targets
        self.radius, self.bounds, self.gradients, self.seed, self.size = radius, bounds, gradients, seed, size
        self.on_progress = on_progress

    def answer(self, method: Callable[[Task], AttackOutput]) -> Result:
        began = time.perf_counter()
        x, every = self.x, torch.arange(len(self.x), device=self.x.device)
        first = CountedModel(self.model, len(x), self.size)
        logits = validation.logits(first.logits(x, every), self.y, self.targets, self.question)
        self.multiple = first.multiple
        m = margin(logits, self.y, self.targets)
        finite = logits.isfinite().all(1)
        wrong = finite & (m > rounding(logits))
        result = Result(
            x_adv=x.clone(),
            success=wrong,
            distance=torch.where(wrong, 0.0, torch.inf).double(),
            violation=torch.where(wrong, 0, (-m).clamp(min=0)).double(),
            stationarity=torch.full_like(m, torch.nan).double(),
            gradients=first.gradients.to(x.device),
            forwards=first.forwards.to(x.device),
            margin=m.double(),
            prediction=logits.argmax(1),
            seconds=torch.zeros_like(m).double(),
            metric_gradients=torch.zeros_like(first.gradients.to(x.device)),
            status=[Status.MISCLASSIFIED if w else Status.NOT_FINITE for w in wrong.tolist()],
            theta=None if self.question.through is None else self.question.through.start(x),
        )
        rows = (finite & ~wrong).nonzero()[:, 0]
        if len(rows):
            result = self._solve(method, rows, logits[rows], result)
        spent = (3 * result.gradients + result.forwards).double()
        result.seconds.copy_(spent / spent.sum() * (time.perf_counter() - began))
        return result

    def _solve(self, method: Callable[[Task], AttackOutput], rows: Tensor, logits: Tensor, result: Result) -> Result:
        """Attack the given images and write what the judge finds into `result`."""
        task = self._task(rows, logits)
        found = method(task)
        x_adv, theta, verdict = self._judged(task)
        result.x_adv[rows] = torch.where(verdict.sure.view(-1, *[1] * (task.x.ndim - 1)), x_adv, task.x)
        if result.theta is not None and theta is not None:
            result.theta[rows] = torch.where(verdict.sure[:, None], theta, result.theta[rows])
        for name in ("margin", "distance", "violation", "prediction"):
            getattr(result, name)[rows] = getattr(verdict, name)
        result.success[rows] = verdict.sure
        result.stationarity[rows] = found.stationarity.double()
        result.gradients[rows] += task.model.gradients.to(rows.device)
        if found.metric_gradients is not None and result.metric_gradients is not None:
            result.metric_gradients[rows] = found.metric_gradients.to(rows.device)
        result.forwards[rows] += task.model.forwards.to(rows.device)
        for row, status in zip(rows.tolist(), found.status, strict=True):
            result.status[row] = status
        return result if found.end is None else replace(result, end=self.x.index_copy(0, rows, found.end))

    def _judged(self, task: Task) -> tuple[Tensor, Tensor | None, Verdict]:
        """The best points (and their theta) as the judge sees them; one that float64 undoes is stretched, as little as
        will do, and judged again. Of a perturbation theta alone is believed: the images are made of it anew."""
        left = self.gradients // 5 - 1 - int(task.model.forwards.max())  # after the clean look
        every = torch.arange(len(task.x), device=task.x.device)
        fine = in_float64(self.model, task.x) if left >= 3 else None
        if fine is not None:
            task.model.charge_forwards(every[:1])  # on which the copy was tried
        judge = Judge(
            queries=task.model,
            fine=fine,
            metric=self.question.metric,
            x=task.x,
            y=task.y,
            targets=task.targets,
            radius=task.radius,
            bounds=self.bounds,
            image=every,
        )
        through, theta = self.question.through, task.best.theta
        x_adv = task.best.x_adv.clone() if theta is None else apply(through, task.x, theta, self.bounds)
        verdict = judge(x_adv, theta)
        ends = x_adv.clone() if theta is None else theta.clone()
        for stretch in STRETCHES[-((left - 3) // 2) :] if left >= 5 else ():
            again = (~verdict.sure & task.best.distance.isfinite()).nonzero()[:, 0]
            if not len(again):
                break
            point, x_adv[again] = interpolate(through, task.x[again], ends[again], stretch, self.bounds)
            if theta is not None and point is not None:
                theta[again] = point
            put(verdict, again, take(judge, again)(x_adv[again], point))
        return x_adv, theta, verdict

    def _task(self, rows: Tensor, logits: Tensor) -> Task:
        x, y = self.x[rows], self.y[rows]
        targets = None if self.targets is None else self.targets[rows]
        radius = None if self.radius is None else self.radius[rows]
        stay = fixed_pixels(self.question.metric, x) if self.question.through is None else None
        asked = (self.model, len(rows), self.size, self.multiple)
        queries = CountedModel(*asked) if stay is None else Holding(*asked, stay)
        archive = BestPoints(self.question.metric, x, y, targets, radius, self.question.through)
        return Task(
            model=queries,
            best=archive,
            x=x,
            y=y,
            logits=logits,
            targets=targets,
            question=self.question,
            radius=radius,
            gradients=self.gradients,
            seed=self.seed,
            bounds=self.bounds,
            batch_size=self.size,
            progress=self._notifier(queries, archive),
            fixed=stay,
        )

    def _notifier(self, queries: CountedModel, archive: BestPoints) -> Callable[[int], None]:
        done_before = len(self.x) - len(archive.x)

        def notify(done: int) -> None:
            if self.on_progress is not None:
                d = archive.distance[archive.distance.isfinite()]
                radius = float(d.median()) if len(d) else float("nan")
                self.on_progress(Progress(done_before + done, len(self.x), int(queries.gradients.sum()), radius))

        return notify


class _Evaluating:
    """Eval mode for a module, and its modes (each submodule's own) restored afterwards; nothing for other callables."""

    def __init__(self, model):
        self.modules = list(model.modules()) if isinstance(model, torch.nn.Module) else []

    def __enter__(self):
        self.modes = [m.training for m in self.modules]
        for m in self.modules:
            m.training = False

    def __exit__(self, *_):
        for m, mode in zip(self.modules, self.modes, strict=True):
            m.training = mode
