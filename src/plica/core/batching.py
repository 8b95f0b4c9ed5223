"""How model calls are cut: padded so that no row depends on its company, and as large as runs fastest.

Kernels choose their order of summation by the size of the batch, and nonsmooth searches amplify the last bit. From 16
rows on, in multiples of 8, matrix products and convolutions gave a row the same bits in every batch (measured on
26 networks: benchmarks/padding.py). Functions applied number by number, as SiLU is, are computed in vectors
of 32 and what is left over one by one, to other bits: there the whole batch must come to a multiple of 32 numbers.
What padding cannot mend: a linear layer to fewer than 16 outputs from a number of inputs that is no multiple of 4
gives a row other bits at another place.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

LEAST = 16  # rows of a call
MULTIPLE = 8
VECTOR = 32  # numbers that a kernel takes at a time, at most
FASTEST = 256  # rows of a call on a CPU: more bring nothing, and may no longer fit its cache
MIDDLE, SMALLEST = 64, 32  # rows of a call that are tried first, and at least
TIMED = 3  # calls of a size before its time counts
DOWN = 0.97  # time per row of calls half as large, over the present, below which they are preferred
DOUBT = 0.3  # how much dearer calls twice as large may be, over the number of times they were timed: the first run cold

# functions that round correctly, so that a number's bits do not depend on where it stands
EXACT = {
    "abs", "add", "clamp", "clamp_max", "clamp_min", "div", "hardtanh", "leaky_relu", "maximum", "minimum", "mul",
    "neg", "reciprocal", "relu", "sgn", "sign", "sqrt", "sub", "threshold", "where",
}  # fmt: skip


class _Pointwise(TorchDispatchMode):
    """Watches a call of `rows` rows for functions applied number by number."""

    def __init__(self, rows: int):
        super().__init__()
        self.rows, self.multiple = rows, MULTIPLE

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Hiding this class from torch.compile would import it, for a second, at the first call of a process."""
        return False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        name = func.__name__.split(".")[0].rstrip("_")
        if torch.Tag.pointwise in func.tags and name not in EXACT and isinstance(out, Tensor):
            numbers = max(1, out.numel() // self.rows)
            self.multiple = max(self.multiple, VECTOR // math.gcd(VECTOR, numbers))
        return out


def watched(model: Callable[[Tensor], Any], x: Tensor) -> tuple[Any, int]:
    """model(x), and the multiple of rows that its calls must be padded to."""
    with _Pointwise(len(x)) as seen:
        out = model(x)
    return out, seen.multiple


class BatchSizeTuner:
    """The size of a call at which a row takes least time: from a middle one doubled, else halved, while that helps.

    It changes the time only: answers are the same for every size.
    """

    def __init__(self) -> None:
        self.times: Counter[int] = Counter()  # calls of each size, and the least seconds per row of them
        self.least: dict[int, float] = {}

    def note(self, rows: int, seconds: float) -> None:
        """A call of so many rows, padding included, took so long."""
        size = _power(rows)
        self.times[size] += 1
        self.least[size] = min(seconds / rows, self.least.get(size, math.inf))

    def size(self, rows: int) -> int:
        """Rows of the next call, for so many rows to run."""
        size = MIDDLE
        while size < rows:
            if (untimed := self._untimed(size, 2 * size)) is not None:
                return untimed
            if self.least[2 * size] > (1 + DOUBT / self.times[2 * size]) * self.least[size]:
                break
            size *= 2
        while SMALLEST < size <= MIDDLE:
            if (untimed := self._untimed(size, size // 2)) is not None:
                return untimed
            if self.least[size // 2] > DOWN * self.least[size]:
                break
            size //= 2
        return size

    def _untimed(self, *sizes: int) -> int | None:
        return next((size for size in sizes if self.times[size] < TIMED), None)


def up(rows: int, multiple: int) -> int:
    """Rounded up to a multiple."""
    return -(-rows // multiple) * multiple


def _power(rows: int) -> int:
    return 1 << max(0, rows - 1).bit_length()
