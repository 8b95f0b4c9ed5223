"""plica.attack: answers one question about a model, for each of some labelled images, by one method; the judge measures
the answers."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from plica.attacks.base import AttackInput, AttackOutput
from plica.attacks.levels import on_levels
from plica.attacks.registry import ATTACKS, check_treats_perturbations
from plica.core import validation
from plica.core.domain.bounds import Bounds
from plica.core.domain.groups import Group, each, groups, in_company, join_results
from plica.core.domain.half import SLACK, HalfGrid, HalfModel, UnitGrid, half_dtype
from plica.core.domain.levels import LevelGrid, check_levels, level_grid, pixel_rounding
from plica.core.domain.units import UNITS, UnitModel, judge_at_x, unit_question
from plica.core.formulations import Question
from plica.core.goals import MISCLASSIFIED, Goal, finite
from plica.core.judging.best import BestPoints
from plica.core.judging.confirm import LOOKS, confirm
from plica.core.judging.judge import Judge, Judgement, confirms, majority
from plica.core.judging.majority import beyond, settle
from plica.core.losses import Targets
from plica.core.metric_checks import check_metric
from plica.core.model.counted import CountedModel
from plica.core.model.draws import MeanOfDraws
from plica.core.model.eval_mode import eval_mode
from plica.core.model.fitting import fitted
from plica.core.model.randomness import randomness_of, seeded
from plica.core.model.second_run import SecondRun
from plica.core.result import Result
from plica.core.status import Status
from plica.goals import GoalFunction
from plica.metrics import Unsupported, fixed_pixels
from plica.perturbations.base import ThetaDistance, check

FLOATS = 2**28  # of memory that a batch of searches may take, about 1 GiB in float32
VECTORS = 64  # of image size that one row of a search keeps
NOT_REPEATABLE = (
    "The model draws random numbers that no seed of torch, numpy or random reaches, so that its answer cannot be "
    "repeated; draw from torch's global generator."
)


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


@torch.inference_mode(False)
def attack(
    model: Callable[[Tensor], Tensor],
    x: Float[Tensor, "b *image"],
    y: Shaped[Tensor, "b *label"],
    question: Question,
    *,
    method: str = "auto",
    gradients: int = 100,
    seed: int = 0,
    batch_size: int | None = None,
    bounds: tuple[float | Tensor, float | Tensor] = (0.0, 1.0),
    targets: Targets = None,
    goal: GoalFunction | None = None,
    levels: int | None = None,
    draws: int | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> Result:
    """Answer `question` about `model` for every image, and judge the answers.

    An image that is misclassified from the start costs one forward run, has distance 0 and x_adv = x. Images at which
    the model is not finite end with a status that says so, and the others still arrive.

    Args:
        model: any callable (b, *image) -> (b, classes) that gives logits, or one logit for two classes, (b, 1) or (b,);
            with a goal, (b, ...). A module is run in eval mode, and its mode is restored.
        x: images, inside the bounds.
        y: labels, class numbers from 0; with a goal, whatever tensor (b, ...) belongs to the images.
        question: a MinRadius or a MaxLoss.
        method: a name out of `plica.methods()`; "auto" takes the best that the distance allows.
        gradients: budget of gradient evaluations per image; at most a fifth as many forward runs come on top, and up to
            three more with bounds for each feature, whose points are measured at x again.
        seed: the answer for an image depends on it and on the image alone, not on the other images or the batch size.
        batch_size: searches that are solved side by side; chosen by the memory they take if not given.
        bounds: two numbers, or two tensors of an image's shape, one bound for each feature. A feature whose bounds are
            equal stays as it is, and so does one that a WeightedLp weighs inf or a Held metric holds. With a leading
            axis b each image has its own, as have the pixels of a Held; images with equal ones are attacked together.
        targets: (b,) the only class that counts as a success, or None for any wrong class.
        goal: goal(output, y) -> (b,), positive where the model misbehaves and differentiable almost everywhere: one of
            plica.goals or any function. None: misclassification.
        levels: the answer lies on the grid of so many levels, evenly spaced between the bounds, each feature's own, and
            is searched and judged there: 256 for images of 8 bits, 11 for whole numbers between 0 and 10. A pixel that
            moves, and every one of an x off the grid, goes to a level; one that is fixed stays. What is misclassified
            from the start has x_adv = x in any case. A radius in l_inf holds up to the rounding of pixels: 8/255
            includes what is 8 levels away. None: any numbers.
        draws: of a model that answers at random, the mean over so many draws is attacked: of the probabilities of
            classes, or with another goal of the output. A gradient of the budget is then one of the mean, and the
            result counts the runs it takes, `draws` each. The judge takes 100 fresh draws, and counts a point where
            most of them reach the goal (`Result.share`); some 1500 forward runs per image come on top. Draws are made
            from the seed and the image. Of a module in eval mode, layers of dropout that are in train mode stay so. A
            model that does not draw is attacked as without. docs/howto/random.md.
        on_progress: called now and then with a Progress.

    Raises:
        ValueError: an argument is wrong; said before any work, in one sentence that says what to do.
        TypeError: the same for an argument of the wrong type.
        Unsupported: the method cannot treat the metric or the goal; the message names those that can. Or levels are
            asked of a perturbation other than x + delta.
    """
    validation.arguments(model, x, y, question, method, methods(), gradients, seed, batch_size, targets, goal, draws)
    boxes, half, given, model = groups(question, bounds, x), half_dtype(x), model, fitted(model)
    y, targets = validation.usable(y), None if targets is None else validation.usable(targets)
    x = validation.usable(x.detach())
    if half is not None:
        model, x = HalfModel(model, half), x.float()
    aim = Goal(y.detach(), targets, MISCLASSIFIED if goal is None else goal)
    one_box = [Group(torch.arange(len(x), device=x.device), question, bounds)]
    checked = [_within(box, x, levels, half or x.dtype, method) for box in boxes or one_box]
    radius, limits = checked[0]
    if boxes is not None or draws is not None:  # images are attacked one after the other, none before all are checked
        with eval_mode(given, with_dropout=draws is not None), seeded(0, x.device):
            output = CountedModel(model, 1).logits(x[:1], torch.zeros(1, dtype=torch.long, device=x.device))
        validation.output(output.expand(len(x), *output.shape[1:]), aim, question, everything=False)
    if boxes is not None:
        parts: list[tuple[Group, Result]] = []
        for box in boxes:
            rows, others = box.rows, [result for _, result in parts]
            result = attack(
                given, x[rows].to(half or x.dtype), y[rows], box.question, method=method, gradients=gradients,
                seed=seed, batch_size=batch_size, bounds=box.bounds, targets=None if targets is None else targets[rows],
                goal=goal, levels=levels, draws=draws, on_progress=in_company(on_progress, others, len(x)),
            )  # fmt: skip
            parts.append((box, result))
        return join_results(parts, x)
    size = min(batch_size or default_batch_size(x), torch.iinfo(torch.int32).max)
    ask = _Ask(model, limits, half, levels, ATTACKS[method], gradients, seed, size)
    with eval_mode(given, with_dropout=draws is not None):
        randomness = None if draws is None else randomness_of(model, x)
        if draws is None or randomness is None:
            result = ask(x, aim, question, radius, on_progress)
            if draws is not None:  # every draw is the same
                result = replace(result, share=(result.margin > 0).double())
        else:
            if not randomness.repeatable:
                warnings.warn(NOT_REPEATABLE, stacklevel=2)
            answers: list[tuple[Group, Result]] = []
            for one in each(question, bounds, x):
                rows, radii = one.rows, None if radius is None else radius[one.rows]
                mean = MeanOfDraws(model, draws, randomness, seed, x[rows], aim.has_classes)
                company = in_company(on_progress, [answer for _, answer in answers], len(x))
                answers.append((one, ask(x[rows], aim[rows], one.question, radii, company, mean)))
            result = join_results(answers, x)
    result = replace(result, status=_judged(result))
    if half is None:
        return result
    end = None if result.end is None else result.end.to(half)
    return replace(result, x_adv=result.x_adv.to(half), end=end)


def _within(
    box: Group, x: Float[Tensor, "b *image"], levels: int | None, dtype: torch.dtype, method: str
) -> tuple[Float[Tensor, " r"] | None, Bounds]:
    """The radii of the images of one box, None for MinRadius, and their bounds; checked, as are the perturbation and
    the levels that go with them. dtype: of the images as they were given."""
    question, x = box.question, x[box.rows]
    radius, limits = validation.within(question, box.bounds, x)
    if question.through is not None:
        if limits.per_feature:
            raise Unsupported("Perturbations other than x + delta take bounds of two numbers, not of tensors.")
        check(question.through, x)
        check_treats_perturbations(method)
    if levels is not None:
        check_levels(levels, limits, dtype, question)
        radius = None if radius is None else radius + pixel_rounding(question.metric, limits, dtype)
    return radius, limits


@dataclass(frozen=True)
class _Ask:
    """What is the same for all images of a call of `attack`: the model, and how it is attacked."""

    model: Callable[[Tensor], Tensor]
    limits: Bounds
    half: torch.dtype | None
    levels: int | None
    method: Callable[[AttackInput], AttackOutput]
    gradients: int
    seed: int
    batch_size: int

    def __call__(
        self,
        x: Float[Tensor, "b *image"],
        goal: Goal,
        question: Question,
        radius: Float[Tensor, " b"] | None,
        on_progress: Callable[[Progress], None] | None,
        mean: MeanOfDraws | None = None,
    ) -> Result:
        """The answers for images side by side; those of the mean for one image."""
        limits, half, levels = self.limits, self.half, self.levels
        grid, spend = None if half is None else HalfGrid(x, half), (self.gradients, self.seed, self.batch_size)
        if not limits.per_feature:
            counted = CountedModel(mean or self.model, len(x), self.batch_size, bounds=limits.numbers, grid=grid)
            grid_of_levels = None if levels is None else level_grid(x, limits, levels, question.metric, half)
            call = _Call(counted, x, goal, question, radius, limits.numbers, *spend, on_progress, grid_of_levels)
            return call.answer(self.method)
        unit_grid, unit_model = None if grid is None else UnitGrid(grid, limits), UnitModel(self.model, limits)
        unit_mean = None if mean is None else mean.of(unit_model)
        counted = CountedModel(unit_mean or unit_model, len(x), self.batch_size, grid=unit_grid)
        unit, radii = unit_question(question, radius, limits, outside=levels is not None)
        u = limits.to_units(x)
        grid_of_levels = None if levels is None else level_grid(u, UNITS, levels, unit.metric)
        call = _Call(counted, u, goal, unit, radii, (0.0, 1.0), *spend, on_progress, grid_of_levels)
        result = call.answer(self.method)
        at_x = None if grid is None else replace(grid, slack=SLACK * float(limits.span.max()))
        at_x = at_x if levels is None else level_grid(x, limits, levels, unit.metric, half)
        last = self.model if unit_mean is None else unit_mean.of(self.model)
        return judge_at_x(result, counted.with_model(last, at_x), x, goal, question.metric, radius, limits)


def default_batch_size(x: Float[Tensor, "b *image"]) -> int:
    """Searches that are solved side by side where `batch_size` is not given, by the memory they take: 16 to 256."""
    return max(16, min(256, FLOATS // (VECTORS * max(1, x[0].numel()))))


def _judged(result: Result) -> list[Status]:
    """An attack's word that it succeeded stands where the judge confirms it."""
    pairs = zip(result.status, result.success.tolist(), strict=True)
    return [Status.REJECTED if status is Status.SUCCEEDED and not ok else status for status, ok in pairs]


@dataclass(frozen=True)
class _Call:
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

    def answer(self, method: Callable[[AttackInput], AttackOutput]) -> Result:
        """Attack the images that the model gets right, and measure the answers."""
        start = time.perf_counter()
        x, metric = self.x, self.question.metric
        if not isinstance(metric, ThetaDistance):
            check_metric(metric, x, self.bounds)
        logits = self.model.first_logits(x, self.goal.has_classes)
        validation.output(logits, self.goal, self.question, everything=self.model.mean is None)
        result = self._unattacked(logits)
        rows = (finite(logits) & ~result.margin.isnan() & ~result.success).nonzero()[:, 0]
        if len(rows):
            result = self._solve(method, rows, logits[rows], result)
        if self.model.mean is not None:
            draws, runs = self.model.mean.draws, self.model.mean.runs
            result = replace(result, gradients=draws * result.gradients, forwards=draws * result.forwards + runs)
        spent = (3 * result.gradients + result.forwards).double()
        result.seconds.copy_(spent / spent.sum() * (time.perf_counter() - start))
        return result

    def _unattacked(self, logits: Float[Tensor, "b *output"]) -> Result:
        """The result from the model's logits at x alone: images that are misclassified from the start have succeeded,
        the others are not finite, or still to be attacked."""
        x, margin, device = self.x, self.goal.margin(logits), self.x.device
        prediction, share = self.goal.prediction(logits), None
        if self.model.mean is None:
            success = self._reached(logits, margin)
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
        """Whether each image reaches the goal as it is; small margins of few digits are looked at once more."""
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
        if self.levels is None:
            output = method(task)
        else:
            task, output = on_levels(method, task, self.levels.rows(rows))
        x_adv, theta, judgement = self._judge(task, result.forwards[rows])
        result.x_adv[rows] = torch.where(judgement.sure.view(-1, *[1] * (task.x.ndim - 1)), x_adv, task.x)
        if result.theta is not None and theta is not None:
            result.theta[rows] = torch.where(judgement.sure[:, None], theta, result.theta[rows])
        names = ("margin", "distance", "violation", "prediction", *["share"] * (result.share is not None))
        for name in names:  # of the image where its point was refused
            column = getattr(result, name)
            column[rows] = torch.where(judgement.sure, getattr(judgement, name), column[rows])
        result.success[rows] = judgement.sure
        result.stationarity[rows] = output.stationarity.double()
        result.gradients[rows] += task.model.gradients.to(rows.device)
        result.forwards[rows] += task.model.forwards.to(rows.device)
        if output.metric_gradients is not None and result.metric_gradients is not None:
            result.metric_gradients[rows] = output.metric_gradients.to(rows.device)
        for row, status in zip(rows.tolist(), output.status, strict=True):
            result.status[row] = status
        return result if output.end is None else replace(result, end=self.x.index_copy(0, rows, output.end))

    def _judge(self, task: AttackInput, spent: Int[Tensor, " i"]) -> tuple[Tensor, Tensor | None, Judgement]:
        """Best points, their theta and the judgement (judging/confirm.py). spent: forward runs before the attack."""
        runs = self.gradients // 5
        left = runs - spent - task.model.forwards.to(task.x.device)
        if runs > LOOKS:  # methods that spend more runs than asked of them are looked at twice all the same
            left = left.clamp(min=LOOKS)
        images = torch.arange(len(task.x), device=task.x.device)
        second = SecondRun(task.model, task.x.dtype) if bool((left >= LOOKS).any()) else None
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
        """What the attack on the images `rows` is given."""
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
        """A function of the number of attacked images that are done, which calls on_progress."""
        unattacked, runs = len(self.x) - len(best.x), 1 if model.mean is None else model.mean.draws

        def report(done: int) -> None:
            if self.on_progress is not None:
                d = best.distance[best.distance.isfinite()]
                radius = float(d.median()) if len(d) else float("nan")
                spent = runs * int(model.gradients.sum())
                self.on_progress(Progress(unattacked + done, len(self.x), spent, radius))

        return report
