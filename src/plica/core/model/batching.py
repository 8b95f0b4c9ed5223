"""Pads batches so that results do not depend on batch composition, and tunes the batch size for speed.

Kernels choose their order of summation by the size of the batch, and nonsmooth searches amplify differences in the last
bit. For batches of at least 16 rows that are multiples of 8, matrix products and convolutions gave a row the same bits
in every batch (measured on 26 networks: benchmarks/padding.py). Elementwise functions such as SiLU are computed in
vectors of 32 numbers and the remainder one by one, which rounds differently: for these the whole batch must contain a
multiple of 32 numbers. Padding does not help linear layers with fewer than 16 outputs whose number of inputs is not a
multiple of 4: the bits of a row depend on its position in the batch.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

MIN_ROWS = 16  # least number of rows of a call
MULTIPLE = 8  # the number of rows of a call is a multiple of this
VECTOR = 32  # most numbers that a kernel computes at a time
MAX_CPU_ROWS = 256  # of a call on a CPU: larger ones are not faster, and may not fit into its cache
FIRST_ROWS, SMALLEST_ROWS = 64, 32  # rows of a call: the number tried first, and the smallest
TIMED = 3  # calls of a size that are timed before sizes are compared
SHRINK = 0.97  # smaller calls are preferred if their time per row is less than this share of the present one
TOLERANCE = 0.3  # over the number of calls timed: how much slower larger calls may be, since the first calls are cold

# functions that round correctly, so that a number's bits do not depend on its place in the batch
EXACT = {
    "abs", "add", "clamp", "clamp_max", "clamp_min", "div", "hardtanh", "leaky_relu", "maximum", "minimum", "mul",
    "neg", "reciprocal", "relu", "sgn", "sign", "sqrt", "sub", "threshold", "where",
}  # fmt: skip


@dataclass
class Arithmetic:
    """How a model computes, as seen in its first call; written in place, shared by all calls of an attack.

    Attributes:
        multiple: of rows to which its calls must be padded, 8, 16 or 32.
        eps: the coarsest unit of rounding, relative, of a number that it computes; of float16 or bfloat16 where some
            layer runs in it, whatever the dtype of the weights and of the output. 0 before the first call.
    """

    multiple: int = VECTOR
    eps: float = 0.0


class _ArithmeticMode(TorchDispatchMode):
    """Observes, over a call of `rows` rows, the multiple of rows that elementwise functions require, and the coarsest
    precision of a result."""

    def __init__(self, rows: int):
        super().__init__()
        self.rows, self.multiple, self.eps = rows, MULTIPLE, 0.0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Hiding this class from torch.compile would import it, for a second, at the first call of a process."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if not isinstance(out, Tensor) or out.numel() < self.rows:  # computed from a layer's parameters alone
            return out
        if out.is_floating_point():
            self.eps = max(self.eps, torch.finfo(out.dtype).eps)
        name = func.__name__.split(".")[0].rstrip("_")
        if torch.Tag.pointwise in func.tags and name not in EXACT:
            self.multiple = max(self.multiple, VECTOR // math.gcd(VECTOR, out.numel() // self.rows))
        return out


def observe(model: Callable[[Tensor], Any], x: Tensor, arithmetic: Arithmetic) -> Any:
    """model(x); how it was computed is written into `arithmetic`."""
    with _ArithmeticMode(len(x)) as mode:
        out = model(x)
    arithmetic.multiple, arithmetic.eps = mode.multiple, mode.eps or torch.finfo(x.dtype).eps
    return out


class BatchSizeTuner:
    """Finds the number of rows of a call that takes the least time per row: starting from FIRST_ROWS, it is doubled, or
    else halved, as long as that is faster. Results are the same for every size."""

    def __init__(self) -> None:
        self.calls: Counter[int] = Counter()  # timed calls of each size
        self.seconds: dict[int, float] = {}  # least time per row of each size

    def record(self, rows: int, seconds: float) -> None:
        """Add the time of one call of `rows` rows, padding included."""
        size = _power_of_two(rows)
        self.calls[size] += 1
        self.seconds[size] = min(seconds / rows, self.seconds.get(size, math.inf))

    def size(self, rows: int) -> int:
        """Rows of the next call when `rows` are waiting: a power of two, at least SMALLEST_ROWS."""
        size = FIRST_ROWS
        while size < rows:
            if (untimed := self._untimed(size, 2 * size)) is not None:
                return untimed
            if self.seconds[2 * size] > (1 + TOLERANCE / self.calls[2 * size]) * self.seconds[size]:
                break
            size *= 2
        while SMALLEST_ROWS < size <= FIRST_ROWS:
            if (untimed := self._untimed(size, size // 2)) is not None:
                return untimed
            if self.seconds[size // 2] > SHRINK * self.seconds[size]:
                break
            size //= 2
        return size

    def _untimed(self, *sizes: int) -> int | None:
        return next((size for size in sizes if self.calls[size] < TIMED), None)


def round_up(number: int, multiple: int) -> int:
    """The least multiple of `multiple` that is not below `number`."""
    return -(-number // multiple) * multiple


def _power_of_two(rows: int) -> int:
    """The least power of two that is not below `rows`."""
    return 1 << max(0, rows - 1).bit_length()
