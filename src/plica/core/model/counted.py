"""The model as attacks call it: every call is padded (batching.py), and counted for the images that it is made for."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from time import thread_time
from typing import TypeVar

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from plica.core.model.batching import MAX_CPU_ROWS, MIN_ROWS, MULTIPLE, Arithmetic, BatchSizeTuner, observe, round_up
from plica.core.model.draws import MeanOfDraws
from plica.core.model.fitting import ModelError
from plica.core.model.gradient import gradient_errors, input_gradient, with_slope
from plica.core.model.least_margin import LeastMargin
from plica.core.model.output import check_output, returns_probabilities
from plica.core.model.precision import DTYPES, Autocast
from plica.core.model.probabilities import LogProbabilities, logarithm
from plica.core.model.rounding import (
    MEASURED,
    Noise,
    coarseness,
    constants,
    has_offset,
    is_half,
    may_be_masked,
    measure_noise,
    median_size,
    random_images,
    usual_size,
)
from plica.goals import flat
from plica.utils.limits import free_memory, out_of_memory
from plica.utils.messages import one_line

Model = Callable[[Tensor], Tensor]
Grid = Callable[[Tensor, Tensor], Tensor]
R = TypeVar("R")


class CountedModel:
    """A model, with counts of its runs for each of b images. Rows of padding are not counted.

    Attributes:
        gradients: (b,) runs forward and backward.
        forwards: (b,) runs forward alone.
        least: the smallest margin that counts at each image, as `first_logits` measured it.

    Args:
        model: (r, *image) -> (r, ...).
        images: b.
        max_rows: rows of a call, at most; rounded down to a multiple of 8, at least 16.
        arithmetic: how the model computes, if that is known; otherwise the first call observes it.
        fixed: pixels that must not change: their gradient is set to 0, so that no search changes them.
        bounds: of the pixels.
        grid: (z, image) -> the points at which the model is run in place of z, if pixels have few values.
        device: where the counts are kept: that of the images, so that counting does not wait for the device.
    """

    def __init__(
        self,
        model: Model,
        images: int,
        max_rows: int = 128,
        arithmetic: Arithmetic | None = None,
        fixed: Bool[Tensor, "*image"] | None = None,
        bounds: tuple[float, float] = (0.0, 1.0),
        grid: Grid | None = None,
        device: torch.device | str = "cpu",
    ):
        self.model, self.fixed, self.bounds, self.grid = model, fixed, bounds, grid
        self.arithmetic = arithmetic or Arithmetic()
        self.mean = model if isinstance(model, MeanOfDraws) else None
        self.least = LeastMargin.unmeasured(images, device)
        self.max_rows = max(MIN_ROWS, max_rows // MULTIPLE * MULTIPLE)
        if self.mean is not None:  # each of its rows is a batch of draws
            self.max_rows = max(1, max_rows // self.mean.draws)
        self.tuner = BatchSizeTuner()
        self.gradients = torch.zeros(images, dtype=torch.long, device=device)
        self.forwards = torch.zeros(images, dtype=torch.long, device=device)
        self._one = self.forwards.new_ones(1)

    @property
    def half(self) -> bool:
        """Whether some layer computes in half precision; known after the first call."""
        return is_half(self.arithmetic.eps)

    def padded(self, rows: int) -> int:
        """The number of rows, including padding, of a call that computes `rows` rows."""
        return rows if self.mean is not None else max(MIN_ROWS, round_up(rows, self.arithmetic.multiple))

    def fill(self, x: Shaped[Tensor, "r *_"]) -> Shaped[Tensor, "p *_"]:
        """x with padding rows appended, copies of its first."""
        short = self.padded(len(x)) - len(x)
        return torch.cat([x, x[:1].expand(short, *x.shape[1:])]) if short else x

    def parts(self, rows: int, device: torch.device) -> list[slice]:
        """Slices that divide the rows into calls of about equal size, of which only the last may need padding."""
        if self.mean is not None:
            return [slice(start, min(start + self.max_rows, rows)) for start in range(0, rows, self.max_rows)]
        limit = min(self.max_rows, self.tuner.size(min(rows, MAX_CPU_ROWS))) if device.type == "cpu" else self.max_rows
        multiple = max(MIN_ROWS, self.arithmetic.multiple)
        largest = max(multiple, limit // multiple * multiple)
        step = round_up(math.ceil(rows / math.ceil(rows / largest)), multiple)
        return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]

    @torch.no_grad()
    def logits(self, x: Float[Tensor, "r *image"], image: Int[Tensor, " r"]) -> Float[Tensor, "r *output"]:
        """The output of the model at x. image: index of the image that each row is counted for."""
        self.charge_forwards(image)
        return self._outputs(self.on_grid(x, image))

    def _outputs(self, x: Float[Tensor, "r *image"]) -> Float[Tensor, "r *output"]:
        def run() -> Tensor:
            parts = self.parts(len(x), x.device)
            return torch.cat([self._run(self.fill(x[p]).clone())[: p.stop - p.start].detach() for p in parts])

        return self._where_it_fits(run, len(x))

    def _logits_and_random(self, x: Float[Tensor, "b *image"]) -> tuple[Float[Tensor, "b *output"], Tensor | None]:
        """The output at the images and, from the same call, at images of random pixels; None for the latter if the
        model raises an error at them."""
        every = torch.arange(len(x), device=x.device)
        with suppress(ModelError):  # a model may raise anything for random pixels
            outputs = self._outputs(torch.cat([self.on_grid(x, every), random_images(x, self.bounds)]))
            self.charge_forwards(every)
            return outputs[: len(x)], outputs[len(x) :]
        return self.logits(x, every), None

    def few(self, image: Int[Tensor, " r"]) -> Bool[Tensor, " r"]:
        """Whether differences of logits have few digits at these images."""
        return self.least.few_digits[image]

    @torch.no_grad()
    def first_logits(
        self, x: Float[Tensor, "b *image"], classes: bool = True, second_run: bool = True
    ) -> Float[Tensor, "b *output"]:
        """The output at the images; of a model that returns probabilities, from now on their logarithms
        (probabilities.py). Also measures `least`, the smallest margins that count.

        classes: whether the output is logits of classes, of which only differences matter.
        second_run: whether the judge will run the points a second time.
        """
        every, random = torch.arange(len(x), device=x.device), None
        if second_run or self.mean is not None:  # whose noise comes from its draws
            logits = self.logits(x, every)
        else:
            logits, random = self._logits_and_random(x)
        classes_of_one_run = classes and self.mean is None
        if classes_of_one_run and returns_probabilities(self.model, logits, x, self.bounds, self.arithmetic.eps):
            self.model, logarithms = LogProbabilities(self.model), Arithmetic()
            logits, random = observe(logarithm, logits, logarithms), None if random is None else logarithm(random)
            self.arithmetic.multiple = max(self.arithmetic.multiple, logarithms.multiple)
        numbers = flat(logits).shape[1]
        if numbers <= 2 and self.mean is None:
            at_image = flat(logits).abs().amax(1).nan_to_num(0, 0, 0)
            if random is not None:
                at_image.clamp_(min=median_size(random) / 2)
            elif numbers == 1:
                at_image.clamp_(min=usual_size(self.model, x, self.bounds) / 2)
            self.least = replace(self.least, at_image=at_image)
        masked = may_be_masked(logits) & classes
        model = self.model if self.mean is None else self.mean.drawn_once
        if bool(masked.any()) and bool((constant := constants(model, x, self.bounds)).any()):
            self.least = replace(self.least, constant=constant & masked[:, None])
        few = has_offset(self.varying(logits, every)) & classes | self.half
        if bool(few.any()) and self.mean is None:
            noise = measure_noise(self.least.without_constants(self.model), x, self.bounds)
            few = few & (noise.offset | self.half)
            self.least = replace(self.least, noise=noise, few_digits=few, has_few=bool(few.any()))
        return logits

    def beside(self, finer: Callable[[Tensor], Tensor | None], x: Float[Tensor, "b *image"]) -> None:
        """Raise `least` to twice the change that `finer`, the same model in finer arithmetic, makes to the output, if
        that is more than rounding in float32 explains, as with TF32."""
        least = self.least
        change = coarseness(least.without_constants(self.model), least.without_constants(finer), x, self.bounds)
        if change > least.noise.change:
            self.least = replace(least.of_all(), noise=replace(least.noise, change=change))

    def of(self, rows: Int[Tensor, " i"], fixed: Bool[Tensor, "*image"] | None = None) -> CountedModel:
        """The model for some of the images, with counts of 0."""
        grid = self.grid

        def some(z: Tensor, image: Tensor) -> Tensor:
            assert grid is not None
            return grid(z, rows[image])

        counted = CountedModel(
            self.model, len(rows), self.max_rows, self.arithmetic, fixed, self.bounds, grid and some, rows.device
        )
        counted.least = self.least.rows(rows)
        return counted

    def with_model(self, model: Model, grid: Grid | None) -> CountedModel:
        """The same images with another form of the model, and counts of 0."""
        model = LogProbabilities(model) if isinstance(self.model, LogProbabilities) else model
        counted = CountedModel(
            model, len(self.forwards), self.max_rows, self.arithmetic, grid=grid, device=self.forwards.device
        )
        counted.least = self.least
        return counted

    @torch.no_grad()
    def under_autocast(
        self, precision: str, x: Float[Tensor, "b *image"], margin: Callable[[Tensor], Tensor]
    ) -> CountedModel:
        """The model under autocast to `precision`, after one forward run at every image, which is counted. The effect
        of rounding is not measured, since the points found are judged in the model's own precision.

        margin: a function of the output at the images.

        Raises:
            ValueError: the model does not run under autocast, or its outputs then have too few digits.
        """
        every = torch.arange(len(x), device=x.device)
        counted = CountedModel(
            Autocast(self.model, DTYPES[precision]), len(self.forwards), self.max_rows, None, self.fixed, self.bounds,
            self.grid, x.device,
        )  # fmt: skip
        try:
            logits = counted.logits(x, every)
        except Exception as error:  # a model may raise anything
            if out_of_memory(error):
                raise
            raise ValueError(
                f"The model does not run under autocast to {precision} ({one_line(error)}); leave out the precision."
            ) from error
        if bool(has_offset(self.varying(logits, every), 0.5 / torch.finfo(DTYPES[precision]).eps).all()):
            raise ValueError(
                f"The model's outputs are so much larger than their differences that {precision} cannot tell them "
                "apart; leave out the precision."
            )
        counted.least = replace(self.least.of_all(), noise=Noise(), floor=MEASURED * margin(logits).clamp(min=0))
        return counted

    def with_grid(self, grid: Grid) -> CountedModel:
        """The model at points of a grid; its runs are counted in both objects."""
        counted = copy.copy(self)
        counted.grid = grid
        return counted

    def on_grid(self, z: Float[Tensor, "r *image"], image: Int[Tensor, " r"]) -> Float[Tensor, "r *image"]:
        """The points at which the model is run in place of z. The gradient ignores the rounding (straight-through)."""
        if self.grid is None:
            return z
        points = self.grid(z.detach(), image)
        return z + (points - z.detach()) if z.requires_grad else points

    def least_margin(self, logits: Float[Tensor, "r *output"], image: Int[Tensor, " r"]) -> Float[Tensor, " r"]:
        """The smallest margin that counts (model/rounding.py), from the output at points of `image`."""
        return self.least(logits, image, self.arithmetic.eps)

    def varying(self, logits: Float[Tensor, "r *output"], image: Int[Tensor, " r"]) -> Float[Tensor, "r *_"]:
        """The output at points of `image`, with each constant logit replaced by the largest of the others."""
        return self.least.varying(logits, image)

    def reported(self, logits: Float[Tensor, "r *output"]) -> Float[Tensor, "r *output"]:
        """The output as the user's model gives it: probabilities where `logits` are their logarithms."""
        return logits.exp() if isinstance(self.model, LogProbabilities) else logits

    def charge_forwards(self, image: Int[Tensor, " r"], runs: int = 1) -> None:
        """Add `runs` forward runs to the count of each of these images."""
        self._charge(self.forwards, image, runs)

    def _charge(self, counts: Int[Tensor, " b"], image: Int[Tensor, " r"], runs: int) -> None:
        counts.index_add_(0, image, self._one.expand(len(image)), alpha=runs)

    def _run(self, x: Float[Tensor, "p *image"]) -> Float[Tensor, "p *output"]:
        out = self.model(x) if self.arithmetic.eps else observe(self.model, x, self.arithmetic)
        check_output(out, x)
        return out.to(x.dtype)  # differences of logits are exact in the wider type

    def gradient(
        self,
        x: Float[Tensor, "p *image"],
        image: Int[Tensor, " r"],
        value: Callable[[Tensor, slice], Tensor],
        slope: Float[Tensor, "r *output"] | None = None,
    ) -> tuple[Float[Tensor, "r *_"], Float[Tensor, "r *output"], Float[Tensor, "r *image"]]:
        """value(logits of some rows, the slice of these rows) for all r rows, the logits, and the value's gradient with
        respect to x, 0 at fixed pixels.

        Args:
            x: the r points, which padding rows may follow, `padded(r)` rows in all.
            image: index of the image that each of the r rows is counted for.
            value: see above.
            slope: the gradient of the number to be differentiated with respect to the logits, if it does not depend on
                them. `value` may then return any tensor with an entry for each row.

        Raises:
            NoGradientError: the model leaves autograd.
        """
        if self.grid is not None:
            x = self.on_grid(x[: len(image)], image)
        try:
            values, logits, grads = self._where_it_fits(
                partial(self._gradient, x, len(image), value, slope), len(image)
            )
        except BaseException:
            self.charge_forwards(image)
            raise
        self._charge(self.gradients, image, 1)
        return values, logits, grads if self.fixed is None else grads.masked_fill(self.fixed, 0)

    def _where_it_fits(self, run: Callable[[], R], rows: int) -> R:
        """run(), which computes `rows` rows; if memory runs out, again with half as many rows a call, down to
        MIN_ROWS."""
        while True:
            try:
                return run()
            except Exception as error:
                size = min(rows, self.max_rows) // 2
                if self.mean is not None or size < MIN_ROWS or not out_of_memory(error):
                    raise
            free_memory()
            self.max_rows = size // MULTIPLE * MULTIPLE

    def _gradient(
        self, x: Float[Tensor, "p *image"], length: int, value: Callable[[Tensor, slice], Tensor], slope: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """`gradient` for the first `length` rows, part by part, without counting and without fixed pixels."""
        results: list[tuple[Tensor, Tensor, Tensor]] = []
        for rows in self.parts(length, x.device):
            size, start = rows.stop - rows.start, thread_time()
            with torch.enable_grad(), gradient_errors():
                z = self.fill(x.detach()[rows.start : rows.start + self.padded(size)]).requires_grad_(True)
                logits = self._run(z.clone())  # a leaf must not be written to, and models do so: x.sub_(mean)
                logits = logits if size == len(z) else logits[:size]  # whose backward pass is two operations
                values = value(logits if slope is None else logits.detach(), rows)
                grad = input_gradient(values.sum() if slope is None else with_slope(logits, slope[rows]), z)
            self.tuner.record(len(z), thread_time() - start)
            results.append((values.detach(), logits.detach(), grad[:size]))
        if len(results) == 1:
            return results[0]
        values, logits, grads = map(torch.cat, zip(*results, strict=True))
        return values, logits, grads
