"""A batch of images in coordinates in which the bounds are two numbers: x itself, or units of the bounds."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from plica.api.judged import JudgedAttack
from plica.api.progress import Progress
from plica.attacks.base import AttackInput, AttackOutput
from plica.core.domain.bounds import Bounds
from plica.core.domain.half import SLACK, HalfGrid, UnitGrid
from plica.core.domain.levels import level_grid
from plica.core.domain.units import UNITS, UnitModel, judge_at_x, unit_question
from plica.core.formulations import Question
from plica.core.goals import Goal
from plica.core.model.counted import CountedModel
from plica.core.model.draws import MeanOfDraws
from plica.core.result import Result
from plica.metrics import fixed_pixels, plain_p

FLOATS = 2**28  # numbers that the searches of a batch may keep on a CPU, about 1 GiB in float32
SHARE = 0.25  # of a GPU's free memory that they may take; the network needs the rest
VECTORS = 64  # vectors of an image's size that one search keeps


@dataclass(frozen=True)
class Batch:
    """The parts of a call of `attack` that are the same for all images: the model, and how it is attacked."""

    model: Callable[[Tensor], Tensor]
    limits: Bounds
    half: torch.dtype | None
    levels: int | None
    method: Callable[[AttackInput], AttackOutput]
    gradients: int
    seed: int
    batch_size: int
    precision: str | None = None

    def __call__(
        self,
        x: Float[Tensor, "b *image"],
        goal: Goal,
        question: Question,
        radius: Float[Tensor, " b"] | None,
        on_progress: Callable[[Progress], None] | None,
        mean: MeanOfDraws | None = None,
    ) -> Result:
        """Attack and judge the images x of the batch. mean: the mean over draws of a model with random outputs, in
        place of the model; x is then a single image."""
        limits, half, levels = self.limits, self.half, self.levels
        grid, spend = None if half is None else HalfGrid(x, half), (self.gradients, self.seed, self.batch_size)
        if question.through is None and limits.leave_none(fixed_pixels(question.metric, x)):
            counted = CountedModel(mean or self.model, len(x), self.batch_size, grid=grid, device=x.device)
            return JudgedAttack(counted, x, goal, question, radius, (0.0, 1.0), *spend, on_progress).answer(None)
        if grid is not None and question.through is None and (radius is None or plain_p(question.metric) == math.inf):
            anywhere = torch.full((len(x),), math.inf, dtype=torch.float64, device=x.device)
            grid = replace(grid, radius=anywhere if radius is None else radius, bounds=limits.pair)
        if not limits.per_feature:
            counted = CountedModel(
                mean or self.model, len(x), self.batch_size, bounds=limits.numbers, grid=grid, device=x.device
            )
            grid_of_levels = None if levels is None else level_grid(x, limits, levels, question.metric, half)
            call = JudgedAttack(
                counted, x, goal, question, radius, limits.numbers, *spend, on_progress, grid_of_levels, self.precision
            )
            return call.answer(self.method)
        unit_grid, unit_model = None if grid is None else UnitGrid(grid, limits), UnitModel(self.model, limits)
        unit_mean = None if mean is None else mean.of(unit_model)
        counted = CountedModel(unit_mean or unit_model, len(x), self.batch_size, grid=unit_grid, device=x.device)
        unit, radii = unit_question(question, radius, limits, outside=levels is not None)
        u = limits.to_units(x)
        grid_of_levels = None if levels is None else level_grid(u, UNITS, levels, unit.metric)
        call = JudgedAttack(
            counted, u, goal, unit, radii, (0.0, 1.0), *spend, on_progress, grid_of_levels, self.precision
        )
        result = call.answer(self.method)
        at_x = None if grid is None else replace(grid, slack=SLACK * float(limits.span.max()))
        at_x = at_x if levels is None else level_grid(x, limits, levels, unit.metric, half)
        last = self.model if unit_mean is None else unit_mean.of(self.model)
        return judge_at_x(result, counted.with_model(last, at_x), x, goal, question.metric, radius, limits)


def default_batch_size(x: Float[Tensor, "b *image"], device: torch.device | None = None) -> int:
    """The number of searches that run at once if `batch_size` is not given, chosen by the memory they need: 16 to 256
    on a CPU, a power of two from 16 to 1024 on a GPU.

    device: where the searches run; that of x if None.
    """
    device, row = device or x.device, VECTORS * max(1, x[0].numel())
    if device.type != "cuda":
        return max(16, min(256, FLOATS // row))
    return rows_on_gpu(torch.cuda.mem_get_info(device)[0], row)


def rows_on_gpu(free: int, row: int) -> int:
    """The number of searches that fit into SHARE of the free bytes, at most 1024; each keeps `row` float32 numbers.

    A power of two: on a GPU results may be rounded differently in batches of another size, so a few megabytes more or
    less of free memory should not change it.
    """
    return min(1024, 1 << max(4, int(SHARE * free / (4 * row)).bit_length() - 1))
