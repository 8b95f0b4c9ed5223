"""An attack on images with the same two bounds for all pixels, and the judge's measurements of its points."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from plica.api.progress import Progress
from plica.attacks.base import AttackInput, AttackOutput
from plica.attacks.levels import on_levels
from plica.attacks.own_precision import EXTRA, in_own_precision
from plica.core import validation
from plica.core.domain.levels import LevelGrid
from plica.core.formulations import Question
from plica.core.goals import Goal, finite
from plica.core.judging.best import BestPoints
from plica.core.judging.confirm import FOR_SECOND_RUN, confirm
from plica.core.judging.judge import Judge, Judgement, confirms, majority
from plica.core.judging.majority import beyond, settle
from plica.core.metric_checks import check_metric
from plica.core.model.counted import CountedModel
from plica.core.model.second_run import SecondRun
from plica.core.result import Result
from plica.core.status import Status
from plica.metrics import counts, fixed_pixels, lp_form
from plica.perturbations.base import ThetaDistance
from plica.solver.accelerator import is_accelerator

LEAST = 1e-38  # reported for a point other than the image at distance 0: 0 means that the image itself is misclassified


@dataclass(frozen=True)
class JudgedAttack:
    """One call of `attack`: its checked arguments, the same bounds for all pixels."""

    model: CountedModel
    x: Float[Tensor, "b *image"]
    goal: Goal
    question: Question
    radius: Float[Tensor, " b"] | None
    bounds: tuple[float, float]
    gradients: int
    seed: int
    batch_size: int
    on_progress: Callable[[Progress], None] | None
    levels: LevelGrid | None = None
    precision: str | None = None  # of the search, where it is not the model's own

    def answer(self, method: Callable[[AttackInput], AttackOutput] | None) -> Result:
        """Attack the images that the model gets right, and judge the points found. method: None if no pixel may change,
        so that there is nothing to search."""
        start = time.perf_counter()
        x, metric = self.x, self.question.metric
        if not isinstance(metric, ThetaDistance) and method is not None:
            check_metric(metric, x, self.bounds)
        logits = self.model.first_logits(x, self.goal.has_classes, second_run=self.gradients // 5 > FOR_SECOND_RUN)
        if is_accelerator(x.device) and not self.model.half and self.model.mean is None:
            self.model.beside(SecondRun(self.model, x.dtype), x)
        validation.output(logits, self.goal, self.question, everything=self.model.mean is None)
        result = self._unattacked(logits)
        attacked = finite(logits) & ~result.margin.isnan() & ~result.success
        fixed = attacked & self._fixed if method is not None else attacked
        for row in fixed.nonzero()[:, 0].tolist():
            result.status[row] = Status.FIXED
        rows = (attacked & ~fixed).nonzero()[:, 0]
        if method is not None and len(rows):
            result = self._solve(method, rows, logits[rows], result)
        if self.model.mean is not None:
            draws, runs = self.model.mean.draws, self.model.mean.runs
            result = replace(result, gradients=draws * result.gradients, forwards=draws * result.forwards + runs)
        spent = (3 * result.gradients + result.forwards).double()
        result.seconds.copy_(spent / spent.sum() * (time.perf_counter() - start))
        return result

    @property
    def _fixed(self) -> Bool[Tensor, " b"]:
        """Whether an image is the only point of its ball: the radius is 0 under an l_p norm, or below 1 under a
        count."""
        metric, none = self.question.metric, torch.zeros(len(self.x), dtype=torch.bool, device=self.x.device)
        if self.radius is None or self.question.through is not None:
            return none
        if counts(metric) is not None:
            return self.radius < 1
        return self.radius == 0 if lp_form(metric) is not None else none

    def _unattacked(self, logits: Float[Tensor, "b *output"]) -> Result:
        """The result before any attack, from the logits at x: images that are misclassified from the start have
        succeeded; all others have the status NOT_FINITE, which an attack replaces."""
        x, margin, device = self.x, self.goal.margin(logits), self.x.device
        prediction, share = self.goal.prediction(logits), None
        if self.model.mean is None:
            success, margin = self._reached(logits, margin), self.goal.margin(self.model.reported(logits))
        else:
            margin, prediction, share = majority(self.goal, self.model.mean.fresh(x))
            success = margin > 0
        return Result(
            x_adv=x.clone(),
            success=success,
            distance=torch.where(success, 0.0, torch.inf).double(),
            violation=torch.where(success, 0, (-margin).clamp(min=0)).double(),
            stationarity=torch.full_like(margin, torch.nan).double(),
            gradients=self.model.gradients.to(device),
            forwards=self.model.forwards.to(device),
            margin=margin.double(),
            prediction=prediction,
            seconds=torch.zeros_like(margin).double(),
            metric_gradients=torch.zeros_like(self.model.gradients.to(device)),
            status=[Status.MISCLASSIFIED if s else Status.NOT_FINITE for s in success.tolist()],
            theta=None if self.question.through is None else self.question.through.start(x),
            share=share,
        )

    @torch.no_grad()
    def _reached(self, logits: Float[Tensor, "b *output"], margin: Float[Tensor, " b"]) -> Bool[Tensor, " b"]:
        """Whether each image reaches the goal without a perturbation. Margins that rounding could explain are checked
        in a second run."""
        model, every = self.model, torch.arange(len(self.x), device=self.x.device)
        success = finite(logits) & (margin > model.least_margin(logits, every))
        doubtful = (finite(logits) & ~success & (margin > 0) & model.few(every)).nonzero()[:, 0]
        output = SecondRun(model, self.x.dtype)(self.x[doubtful].double()) if len(doubtful) else None
        if output is not None:
            model.charge_forwards(doubtful)
            again = self.goal[doubtful].margin(output)
            success[doubtful] = confirms(again, margin[doubtful].double(), model.few(doubtful))
        return success

    def _solve(
        self,
        method: Callable[[AttackInput], AttackOutput],
        rows: Int[Tensor, " i"],
        logits: Float[Tensor, "i *output"],
        result: Result,
    ) -> Result:
        """Attack the images `rows` and write what the judge measures into `result`."""
        task = self._task(rows, logits)
        if self.precision is not None:
            output = self._under_autocast(method, task, self.precision)
        elif self.levels is None:
            output = method(task)
        else:
            task, output = on_levels(method, task, self.levels.rows(rows))
        x_adv, theta, judgement = self._judge(task, result.forwards[rows] - (0 if self.precision is None else EXTRA))
        result.x_adv[rows] = torch.where(judgement.sure.view(-1, *[1] * (task.x.ndim - 1)), x_adv, task.x)
        if result.theta is not None and theta is not None:
            result.theta[rows] = torch.where(judgement.sure[:, None], theta, result.theta[rows])
        names = ("margin", "distance", "violation", "prediction", *["share"] * (result.share is not None))
        for name in names:  # where the point was refused, the values of the image itself stay
            column = getattr(result, name)
            column[rows] = torch.where(judgement.sure, getattr(judgement, name), column[rows])
        free = judgement.sure & (judgement.distance == 0) & (x_adv != task.x).flatten(1).any(1)
        result.distance[rows] = result.distance[rows].masked_fill(free, LEAST)
        result.success[rows] = judgement.sure
        result.stationarity[rows] = output.stationarity.double()
        result.gradients[rows] += task.model.gradients.to(rows.device)
        result.forwards[rows] += task.model.forwards.to(rows.device)
        if output.metric_gradients is not None and result.metric_gradients is not None:
            result.metric_gradients[rows] = output.metric_gradients.to(rows.device)
        for row, status in zip(rows.tolist(), output.status, strict=True):
            result.status[row] = status
        return result if output.end is None else replace(result, end=self.x.index_copy(0, rows, output.end))

    def _under_autocast(
        self, method: Callable[[AttackInput], AttackOutput], task: AttackInput, precision: str
    ) -> AttackOutput:
        """Search under autocast, then offer the points found to the judge in the model's own precision."""
        model = task.model.under_autocast(precision, task.x, task.goal.margin)
        found = BestPoints(task.question.metric, task.x, task.goal, task.radius, task.question.through, model)
        output = method(replace(task, model=model, best=found, progress=self._progress(model, found)))
        task.model.gradients += model.gradients
        task.model.forwards += model.forwards
        in_own_precision(task, found)
        return output

    def _judge(self, task: AttackInput, spent: Int[Tensor, " i"]) -> tuple[Tensor, Tensor | None, Judgement]:
        """The best points, their theta, and the judgement on them (judging/confirm.py). spent: forward runs of each
        image before the attack."""
        runs = self.gradients // 5
        left = runs - spent - task.model.forwards.to(task.x.device)
        if runs > FOR_SECOND_RUN:  # methods may exceed the budget; their points get two runs too
            left = left.clamp(min=FOR_SECOND_RUN)
        images = torch.arange(len(task.x), device=task.x.device)
        second = SecondRun(task.model, task.x.dtype) if bool((left >= FOR_SECOND_RUN).any()) else None
        judge = Judge(
            model=task.model,
            second=second,
            metric=self.question.metric,
            x=task.x,
            goal=task.goal,
            radius=task.radius,
            bounds=self.bounds,
            image=images,
            mean=task.model.mean,
        )
        best = task.best
        end = best.x_adv if best.theta is None else best.theta
        if judge.mean is not None:
            if best.theta is None and bool(best.distance == 0):
                end = beyond(judge)
            return settle(judge, self.question.through, end)
        margins = task.goal.margin(task.logits), best.margin
        return confirm(judge, self.question.through, end, margins, left)

    def _task(self, rows: Int[Tensor, " i"], logits: Float[Tensor, "i *output"]) -> AttackInput:
        """The input of the attack on the images `rows`."""
        x, goal, question = self.x[rows], self.goal[rows], self.question
        radius = None if self.radius is None else self.radius[rows]
        fixed = fixed_pixels(question.metric, x) if question.through is None else None
        model = self.model.of(rows, fixed)
        best = BestPoints(question.metric, x, goal, radius, question.through, model)
        return AttackInput(
            model=model,
            best=best,
            x=x,
            goal=goal,
            logits=logits,
            question=question,
            radius=radius,
            gradients=self.gradients,
            seed=self.seed,
            bounds=self.bounds,
            batch_size=self.batch_size,
            progress=self._progress(model, best),
            fixed=fixed,
        )

    def _progress(self, model: CountedModel, best: BestPoints) -> Callable[[int], None]:
        """A function report(done) for the method to call: it passes the number of finished images, the gradients spent
        and the median distance so far on to on_progress."""
        unattacked, runs = len(self.x) - len(best.x), 1 if model.mean is None else model.mean.draws

        def report(done: int) -> None:
            if self.on_progress is not None:
                d = best.distance[best.distance.isfinite()]
                radius = float(d.median()) if len(d) else float("nan")
                spent = runs * int(model.gradients.sum())
                self.on_progress(Progress(unattacked + done, len(self.x), spent, radius))

        return report
