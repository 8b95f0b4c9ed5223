"""Differences between CPUs and accelerators. On a GPU, launching an operation takes some microseconds, and reading a
value waits for all operations launched before.

So on a GPU a step works on all rows at once, not on blocks that fit a cache. If only a few rows matter, it works on all
and masks the others, because finding out which they are would mean waiting. A CPU copies the few rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

BLOCK = 3 * 2**17  # numbers of a vector that a CPU works on at a time: some such vectors fit its cache
ROWS = 16  # a block on a CPU has a multiple of so many rows

_forced = False


@contextmanager
def forced() -> Iterator[None]:
    """Work on a CPU as on an accelerator, for tests and measurements."""
    global _forced
    before, _forced = _forced, True
    try:
        yield
    finally:
        _forced = before


def is_accelerator(device: torch.device) -> bool:
    """Whether operations are launched rather than carried out."""
    return _forced or device.type != "cpu"


def block_rows(device: torch.device, rows: int, n: int) -> int:
    """Rows of n numbers worked on at a time, of so many."""
    return max(1, rows) if is_accelerator(device) else max(ROWS, BLOCK // n // ROWS * ROWS)


class Scratch:
    """Memory for what is computed on the way, kept from step to step: a CPU would clear new memory each time."""

    def __init__(self) -> None:
        self.memory: Tensor | None = None

    def __call__(self, vectors: int, like: Float[Tensor, "r n"]) -> Float[Tensor, "vectors r n"]:
        """So many tensors of the shape of `like`, whatever their numbers."""
        need = vectors * like.numel()
        if self.memory is None or self.memory.numel() < need:
            self.memory = like.new_empty(need)
        return self.memory[:need].view(vectors, *like.shape)


def rows_to_copy(mask: Bool[Tensor, " r"]) -> Int[Tensor, " c"] | None:
    """On a CPU the rows where `mask` is true, None for all of them; on an accelerator always None, for the caller to
    mask."""
    if is_accelerator(mask.device):
        return None
    rows = mask.nonzero()[:, 0]
    return rows if len(rows) < len(mask) else None
