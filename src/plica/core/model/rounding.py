"""The smallest margin that counts: larger than the change that another batch or order of summation causes.

A network is judged by its outputs in the precision it runs in. In float32 and float64 another batch changes the
difference of two logits by up to 33 units of rounding of the largest logit (measured on 29 networks,
docs/design/precision.md); a margin must exceed 64. In half precision 64 units would be half of the largest logit, but
these networks sum in float32 and round the result, so most of their logits have the same bits in every batch, and
almost every margin other than 0 can count. For them, and where a common offset leaves few digits for differences of
logits, the change is measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from plica.core.model.batching import MIN_ROWS
from plica.goals import flat

UNITS = 64  # a margin must exceed this many units of rounding of the largest logit
OFFSET = 64  # differences of logits have few digits if the largest logit is more than this many times as large
MEASURED = 2.0  # a margin must exceed this many times the largest change that was measured
ROWS = 8  # random images that the change is measured on
GROUP = 3  # rows of the smaller batches that are compared with a padded one, beside single rows
MASKED = 100  # a logit may be a mask if it is more than this many times as large as the two largest logits
SINGLE = torch.finfo(torch.float32).eps


def is_half(eps: float) -> bool:
    """Whether a model whose results have this unit of rounding computes in half precision."""
    return eps > SINGLE


@dataclass(frozen=True)
class Noise:
    """The measured effect of rounding on the logits of random images.

    Attributes:
        change: the largest change of a logit or of the difference of two between batches, over the largest logit.
        offset: whether the logits of all images have few digits, because of a large offset common to all classes.
    """

    change: float = 0.0
    offset: bool = False


def least_margin(
    logits: Float[Tensor, "r *output"], eps: float, few_digits: Bool[Tensor, " r"] | None, noise: Noise
) -> Float[Tensor, " r"]:
    """The smallest margin that counts at each point.

    Args:
        logits: of the points.
        eps: unit of rounding of the model, if it is coarser than that of the logits.
        few_digits: rows for which the measured change is used; None for no rows.
        noise: the measured changes.
    """
    eps = max(eps, torch.finfo(logits.dtype).eps)
    unit = UNITS * min(eps, SINGLE)
    if few_digits is None:
        return unit * torch.linalg.vector_norm(flat(logits), torch.inf, dim=1)
    size, spread = _size_and_spread(logits)
    least = unit * size
    if not is_half(eps):
        least = torch.where(few_digits, UNITS * eps * spread, least)
    return torch.where(few_digits, torch.maximum(least, MEASURED * noise.change * size), least)


def has_offset(logits: Float[Tensor, "r *output"], times: float = OFFSET) -> Bool[Tensor, " r"]:
    """Rows whose largest logit is more than `times` as large as the largest difference of two logits."""
    size, spread = _size_and_spread(logits)
    return times * spread < size


def _size_and_spread(logits: Float[Tensor, "r *output"]) -> tuple[Float[Tensor, " r"], Float[Tensor, " r"]]:
    """The largest absolute value of each row, and the difference between its largest and smallest entry; for a single
    entry, its absolute value twice."""
    entries = flat(logits)
    size = entries.abs().amax(1)
    return size, size if entries.shape[1] == 1 else entries.amax(1) - entries.amin(1)


def may_be_masked(logits: Float[Tensor, "r *output"]) -> Bool[Tensor, " r"]:
    """Rows of three or more logits with one so large, compared with the two largest, that it may mask out a class."""
    entries = flat(logits)
    if entries.shape[1] <= 2:
        return torch.zeros(len(entries), dtype=torch.bool, device=logits.device)
    return _outliers(entries).any(1)


def _outliers(entries: Float[Tensor, "r numbers"]) -> Bool[Tensor, "r numbers"]:
    return entries.abs() > MASKED * entries.topk(2).values.abs().amax(1, keepdim=True)


@torch.no_grad()
def constants(
    model: Callable[[Tensor], Tensor], x: Float[Tensor, "b *image"], bounds: tuple[float, float]
) -> Bool[Tensor, " numbers"]:
    """Logits that mask out a class: the same number for every image, and much larger in size than the two largest
    logits. Constants have no rounding errors. Measured on images of random pixels, in a run that is not counted."""
    images = random_images(x, bounds).repeat(MIN_ROWS // ROWS, *[1] * (x.ndim - 1))
    with suppress(Exception):  # a model may raise anything for random pixels
        outputs = flat(model(images)[:ROWS])
        return ((outputs == outputs[:1]) & _outliers(outputs)).all(0)
    return torch.zeros(1, dtype=torch.bool, device=x.device)


def without(constant: Bool[Tensor, "#r numbers"], logits: Float[Tensor, "r *output"]) -> Float[Tensor, "r numbers"]:
    """The logits, with each constant replaced by the largest of the others."""
    entries = flat(logits)
    largest = entries.masked_fill(constant, -torch.inf).amax(1, keepdim=True)
    return torch.where(constant, largest, entries)


def random_images(x: Float[Tensor, "b *image"], bounds: tuple[float, float]) -> Float[Tensor, "rows *image"]:
    """Images of random pixels in the shape of x. They do not depend on the pixels of x, so that no result depends on
    other images. Pixels without bounds lie in [0, 1], those with one bound within 1 of it."""
    low, high = bounds
    if low == -math.inf:
        low = 0.0 if high == math.inf else high - 1
    high = low + 1 if high == math.inf else high
    draw = torch.rand(ROWS, *x.shape[1:], generator=torch.Generator().manual_seed(0), dtype=torch.float32, device="cpu")
    return (low + (high - low) * draw).to(x)


@torch.no_grad()
def usual_size(model: Callable[[Tensor], Tensor], x: Float[Tensor, "b *image"], bounds: tuple[float, float]) -> float:
    """The median size of the output at images of random pixels, in a run that is not counted; 0 if the model raises an
    error or gives nothing finite there."""
    images = random_images(x, bounds)
    with suppress(Exception):  # a model may raise anything for random pixels
        return median_size(model(images.repeat(MIN_ROWS // ROWS, *[1] * (x.ndim - 1)))[:ROWS])
    return 0.0


def median_size(outputs: Float[Tensor, "r *output"]) -> float:
    """The median over rows of the largest absolute value of a row; one that is not finite counts as 0."""
    return float(_size_and_spread(outputs.double())[0].nan_to_num(0, 0).median())


@torch.no_grad()
def measure_noise(
    model: Callable[[Tensor], Tensor], x: Float[Tensor, "b *image"], bounds: tuple[float, float]
) -> Noise:
    """The effect of rounding on a model's logits, measured on images of random pixels in the shape of x.

    The images are run in a padded batch, alone, and a few at a time in reverse order; these runs are not counted.
    """
    images = random_images(x, bounds)
    usual = model(images.repeat(MIN_ROWS // ROWS, *[1] * (x.ndim - 1)))[:ROWS].double()
    size, change = _size_and_spread(usual)[0], 0.0
    for rows in map(list, _batches()):
        with suppress(Exception):  # a model with one batch size has only one output
            moved = torch.maximum(*_size_and_spread(model(images[rows]).double() - usual[rows]))
            change = max(change, float((moved / size[rows]).nan_to_num(0, 0).max()))
    return Noise(change, bool(has_offset(usual).all()))


@torch.no_grad()
def coarseness(
    model: Callable[[Tensor], Tensor],
    finer: Callable[[Tensor], Tensor | None],
    x: Float[Tensor, "b *image"],
    bounds: tuple[float, float],
) -> float:
    """How much `finer`, the same model in finer arithmetic, changes the output at images of random pixels: the largest
    change of a logit or of a difference of two logits, over the largest logit.

    0 if `finer` does not run, or if 64 units of rounding of x cover the change. `finer` gets its images in float64. The
    runs are not counted.
    """
    images = random_images(x, bounds).repeat(MIN_ROWS // ROWS, *[1] * (x.ndim - 1))
    with suppress(Exception):  # a model may raise anything for random pixels
        usual, other = model(images)[:ROWS].double(), finer(images.double())
        if other is not None:
            moved = torch.maximum(*_size_and_spread(other[:ROWS] - usual))
            change = float((moved / _size_and_spread(usual)[0]).nan_to_num(0, 0).max())
            return change if MEASURED * change > UNITS * torch.finfo(x.dtype).eps else 0.0
    return 0.0


def _batches() -> Iterator[Sequence[int]]:
    order = range(ROWS - 1, -1, -1)
    for size in (1, GROUP):
        yield from (order[start : start + size] for start in range(0, ROWS, size))
