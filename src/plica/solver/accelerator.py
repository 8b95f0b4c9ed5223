"""Differences between CPUs and accelerators. On a GPU, launching an operation takes some microseconds, and reading a
value waits for all operations launched before.

So on a GPU a step works on all rows at once, not on blocks that fit a cache. If only a few rows matter, it works on all
and masks the others, because finding out which they are would mean waiting; a CPU copies the few rows. If the same
operations on the same memory follow each of several model calls, they are recorded once and then launched as one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

BLOCK = 3 * 2**17  # numbers of a vector that a CPU works on at a time, so that several such vectors fit its cache
ROWS = 16  # the number of rows of a block on a CPU is a multiple of this

Replay = Callable[..., None]

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
    """Whether operations on this device are launched, to be carried out later."""
    return _forced or device.type != "cpu"


def block_rows(device: torch.device, rows: int, n: int) -> int:
    """How many of `rows` rows of n numbers each are worked on at a time."""
    return max(1, rows) if is_accelerator(device) else max(ROWS, BLOCK // n // ROWS * ROWS)


class Scratch:
    """Memory for intermediate results, kept from step to step, since on a CPU new memory has to be cleared each
    time."""

    def __init__(self) -> None:
        self.memory: Tensor | None = None

    def __call__(self, vectors: int, like: Float[Tensor, "r n"]) -> Float[Tensor, "vectors r n"]:
        """`vectors` tensors of the shape of `like`, with arbitrary values."""
        need = vectors * like.numel()
        if self.memory is None or self.memory.numel() < need:
            self.memory = like.new_empty(need)
        return self.memory[:need].view(vectors, *like.shape)


def rows_to_copy(mask: Bool[Tensor, " r"]) -> Int[Tensor, " c"] | None:
    """On a CPU the rows where `mask` is true, None if these are all rows. On an accelerator always None: the caller
    works on all rows and masks."""
    if is_accelerator(mask.device):
        return None
    rows = mask.nonzero()[:, 0]
    return rows if len(rows) < len(mask) else None


class Recorder:
    """Records operations on a GPU as CUDA graphs. Each recording uses the memory of the one before, so only the last
    one may be replayed."""

    def __init__(self) -> None:
        self.graph: Any = None

    def __call__(self, run: Callable[..., None], inputs: Sequence[Tensor], owners: Sequence[Any]) -> Replay | None:
        """Record what `run` launches, without carrying it out.

        Args:
            run: a function of tensors like the inputs. It must not wait for the device, and must launch the same
                operations each time.
            inputs: examples of the tensors that `run` takes; the values of later ones are copied to the same memory.
            owners: objects whose tensor attributes `run` changes in place, or replaces by tensors of the same shape.

        Returns:
            A function of new inputs that carries out the recorded operations. Afterwards the owners still have the
            tensors that they have now, with new values. None if recording fails; nothing has changed then.
        """
        if inputs[0].device.type != "cuda":
            return None
        own = [t.clone() for t in inputs]
        before = [(owner, name, t) for owner in owners for name, t in vars(owner).items() if isinstance(t, Tensor)]
        here, graph = torch.cuda.current_stream(inputs[0].device), torch.cuda.CUDAGraph()
        aside = torch.cuda.Stream(inputs[0].device)
        aside.wait_stream(here)
        try:
            with torch.cuda.stream(aside):
                graph.capture_begin(self.graph and self.graph.pool(), capture_error_mode="thread_local")
                try:
                    run(*own)
                    write_back(before)
                finally:
                    graph.capture_end()
        except RuntimeError as error:
            logging.getLogger(__name__).debug("Operations are launched one by one, as recording failed: %s", error)
            return None
        finally:
            for owner, name, t in before:
                setattr(owner, name, t)
            here.wait_stream(aside)
        self.graph = graph

        def replay(*new: Tensor) -> None:
            for t, value in zip(own, new, strict=True):
                t.copy_(value)
            graph.replay()

        return replay


def write_back(before: Sequence[tuple[Any, str, Tensor]]) -> None:
    """Copy the present value of each attribute into the tensor that it was before."""
    for owner, name, t in before:
        if (now := getattr(owner, name)) is not t:
            t.copy_(now)
