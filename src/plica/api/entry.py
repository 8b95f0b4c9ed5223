"""plica.attack: answers one question about a model for a batch of labelled images by one method; the judge checks the
points found."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from plica.api.batch import Batch, default_batch_size
from plica.api.progress import Progress
from plica.attacks.registry import ATTACKS, check_treats_perturbations
from plica.core import validation
from plica.core.domain.bounds import Bounds
from plica.core.domain.groups import Group, each, groups, join_results, joined_progress
from plica.core.domain.half import HalfModel, half_dtype
from plica.core.domain.levels import check_levels, level_count, pixel_rounding
from plica.core.formulations import Question
from plica.core.goals import MISCLASSIFIED, Goal
from plica.core.losses import Targets
from plica.core.model.counted import CountedModel
from plica.core.model.draws import MeanOfDraws
from plica.core.model.eval_mode import eval_mode
from plica.core.model.fitting import fitted
from plica.core.model.precision import check_precision, search_precision
from plica.core.model.randomness import randomness_of, seeded
from plica.core.result import Result
from plica.core.status import Status
from plica.goals import GoalFunction
from plica.metrics import Unsupported
from plica.perturbations.base import check
from plica.utils.messages import shown

NOT_REPEATABLE = (
    "The model draws random numbers that no seed of torch, numpy or random reaches, so that its answer cannot be "
    "repeated; draw from torch's global generator."
)


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
    precision: str | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> Result:
    """Answer `question` about `model` for every image, and check the points found.

    An image that is misclassified without a perturbation costs one forward run and has distance 0 and x_adv = x. If the
    model's output is not finite for an image, the image's status says so; other images are not affected.

    Args:
        model: any callable (b, *image) -> (b, classes) that gives logits, or one logit for two classes, (b, 1) or (b,);
            with a goal, (b, ...). Of probabilities of classes, which sum to one, the logarithms are attacked. A module
            is run in eval mode, and its mode is restored.
        x: floating-point images (b, *image), inside the bounds.
        y: int64 labels (b,), class numbers from 0; with a goal, a tensor (b, ...) that it compares with the outputs.
        question: a MinRadius or a MaxLoss.
        method: a name from `plica.methods()`; "auto" chooses the best method for the distance.
        gradients: budget of gradient evaluations per image. There are additional forward runs: at most a fifth as many,
            and up to three more with bounds for each feature, since points are then judged in two coordinate systems.
        seed: the result for an image depends only on it and the image, not on the other images or the batch size.
        batch_size: number of searches that run at once; by default chosen by the memory they need.
        bounds: two numbers, or two tensors of an image's shape, one bound for each feature. Features with equal bounds,
            with weight inf in a WeightedLp, or fixed by a Held metric do not change. With a leading axis b, bounds (and
            the pixels of a Held) differ between images; images with equal bounds are attacked together.
        targets: (b,) the target class of each image, the only one that counts as a success; None for any wrong class.
        goal: goal(output, y) -> (b,), positive where the model misbehaves and differentiable almost everywhere: one of
            plica.goals or any function. None: misclassification.
        levels: search and judge points on a grid of this many levels, evenly spaced between the bounds of each feature:
            256 for 8-bit images, 11 for whole numbers between 0 and 10. Pixels that change, and all pixels of an x that
            is not on the grid, are moved to a level; fixed pixels keep their value. An image that is misclassified
            without a perturbation has x_adv = x in any case. A radius in l_inf has a tolerance for the rounding of
            pixels: 8/255 includes pixels that are 8 levels away. None: no grid.
        draws: for a model with random outputs, attack the mean over this many draws: the mean of class probabilities,
            or with another goal that of the output. The budget then counts gradients of the mean; the result counts
            runs of the model, `draws` for each. The judge makes 100 fresh draws, and a point counts if most of them
            reach the goal (`Result.share`); about 1500 additional forward runs per image are needed. Draws depend on
            the seed and the image. In a module in eval mode, dropout layers that are in train mode stay active. For
            a model without random outputs it has no effect. docs/howto/random.md.
        precision: of the model during the search: "bf16" and "fp16" run it under torch.autocast, forward and backward;
            None and "own" do not change it. Successes are always judged in the model's own precision, with up to four
            additional forward runs per image. Not possible with levels or draws. docs/design/precision.md.
        on_progress: called from time to time with a Progress.

    Raises:
        ValueError: an argument is wrong; raised before any work, with what to do.
        TypeError: an argument has the wrong type; raised before any work.
        Unsupported: the method cannot handle the metric or the goal (the message names methods that can), or arguments
            cannot be combined: levels with a perturbation other than x + delta, half precision with levels or draws,
            such a perturbation with bounds for each feature.
    """
    check_precision(precision, levels, draws)
    gradients, seed, batch_size, draws = validation.arguments(
        model, x, y, question, method, methods(), gradients, seed, batch_size, targets, goal, draws
    )
    levels = None if levels is None else level_count(levels)
    if on_progress is not None and not callable(on_progress):
        raise TypeError(f"on_progress must be a function of a plica.Progress, got {shown(on_progress)}.")
    boxes, half, original, model = groups(question, bounds, x), half_dtype(x), model, fitted(model)
    y, targets = validation.usable(y), None if targets is None else validation.usable(targets)
    x = validation.usable(x.detach())
    if half is not None:
        model, x = HalfModel(model, half), x.float()
    images_goal = Goal(y.detach(), targets, MISCLASSIFIED if goal is None else goal)
    one_box = [Group(torch.arange(len(x), device=x.device), question, bounds)]
    checked = [_within(box, x, levels, half or x.dtype, method) for box in boxes or one_box]
    radius, limits = checked[0]
    if boxes is not None or draws is not None:  # images are attacked one by one, after all have been checked
        with eval_mode(original, with_dropout=draws is not None), seeded(0, x.device):
            _check_one_output(model, x, images_goal, question)
    if boxes is not None:

        def of_box(box: Group, on_progress: Callable[[Progress], None] | None) -> Result:
            rows = box.rows
            return attack(
                original, x[rows].to(half or x.dtype), y[rows], box.question, method=method, gradients=gradients,
                seed=seed, batch_size=batch_size, bounds=box.bounds, targets=None if targets is None else targets[rows],
                goal=goal, levels=levels, draws=draws, precision=precision, on_progress=on_progress,
            )  # fmt: skip

        return _one_by_one(boxes, of_box, x, on_progress)
    validation.budget(gradients)
    size = min(batch_size or default_batch_size(x), torch.iinfo(torch.int32).max)
    batch = Batch(model, limits, half, levels, ATTACKS[method], gradients, seed, size, search_precision(precision))
    with eval_mode(original, with_dropout=draws is not None):
        randomness = None if draws is None else randomness_of(model, x)
        if draws is None or randomness is None:
            result = batch(x, images_goal, question, radius, on_progress)
            if draws is not None:  # every draw is the same
                result = replace(result, share=(result.margin > 0).double())
        else:
            if not randomness.repeatable:
                warnings.warn(NOT_REPEATABLE, stacklevel=2)

            def of_draws(image: Group, on_progress: Callable[[Progress], None] | None) -> Result:
                rows, radii = image.rows, None if radius is None else radius[image.rows]
                mean = MeanOfDraws(model, draws, randomness, seed, x[rows], images_goal.has_classes)
                return batch(x[rows], images_goal[rows], image.question, radii, on_progress, mean)

            result = _one_by_one(each(question, bounds, x), of_draws, x, on_progress)
    result = replace(result, status=_confirmed(result))
    if half is None:
        return result
    end = None if result.end is None else result.end.to(half)
    return replace(result, x_adv=result.x_adv.to(half), end=end)


def _check_one_output(
    model: Callable[[Tensor], Tensor], x: Float[Tensor, "b *image"], goal: Goal, question: Question
) -> None:
    """Check the model's output at the first image, as if it were the output at every image."""
    first = torch.zeros(1, dtype=torch.long, device=x.device)
    output = CountedModel(model, 1, device=x.device).logits(x[:1], first)
    every, masked = output.expand(len(x), *output.shape[1:]), validation.leaves_out(output)
    validation.output(every, goal, question, everything=masked)


def _one_by_one(
    groups: list[Group],
    answer: Callable[[Group, Callable[[Progress], None] | None], Result],
    x: Float[Tensor, "b *image"],
    on_progress: Callable[[Progress], None] | None,
) -> Result:
    """The results of the groups, computed one after the other, in the order of the images x."""
    parts: list[tuple[Group, Result]] = []
    for group in groups:
        progress = joined_progress(on_progress, [result for _, result in parts], len(x))
        parts.append((group, answer(group, progress)))
    return join_results(parts, x)


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
        rounding = pixel_rounding(question.metric, limits, dtype)
        radius = None if radius is None else torch.where(radius > 0, radius + rounding, radius)
    return radius, limits


def _confirmed(result: Result) -> list[Status]:
    """Statuses in which SUCCEEDED stays only if the judge confirms the success."""
    pairs = zip(result.status, result.success.tolist(), strict=True)
    return [Status.REJECTED if status is Status.SUCCEEDED and not ok else status for status, ok in pairs]
