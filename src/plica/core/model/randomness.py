"""How a model draws random numbers, and how its draws are made repeatable from a seed and an image."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

ROWS = 7  # rows of the observed call: a number that is seldom the size of another axis
UNITS = 2000  # largest difference of two equal runs, in units of rounding of the largest output


@dataclass(frozen=True)
class Randomness:
    """How a model draws.

    Attributes:
        by_row: whether every random number belongs to one row of a batch, so that copies of a point in one call are
            separate draws. If not, as when one number is drawn for all images of a call, each draw needs a call.
        repeatable: the same seed gives the same output.
    """

    by_row: bool
    repeatable: bool


def seed_of(seed: int, x: Float[Tensor, "*image"], stream: str) -> int:
    """A seed that depends on the seed and the image alone, another one for each stream."""
    digest = hashlib.sha256(f"{seed} {stream} {x.dtype} {tuple(x.shape)}".encode())
    digest.update(x.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return int.from_bytes(digest.digest()[:7], "big")


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seeds the global random number generators of torch, numpy and Python within the context; afterwards they continue
    as if they had not been used."""
    generators = _generators(device)
    states, numpy_state, python_state = [g.get_state() for g in generators], np.random.get_state(), random.getstate()
    for generator in generators:  # torch.manual_seed takes milliseconds where there is no GPU
        generator.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)
    try:
        yield
    finally:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)
        np.random.set_state(numpy_state)
        random.setstate(python_state)


def _generators(device: torch.device) -> list[torch.Generator]:
    """Torch's global generators: of the CPU, and of the GPU if the model is on one."""
    if device.type != "cuda":
        return [torch.default_generator]
    return [torch.default_generator, torch.cuda.default_generators[device.index or 0]]


class _RandomOps(TorchDispatchMode):
    """Observes whether every random operation of torch draws separate numbers for each of `rows` rows."""

    def __init__(self, rows: int):
        super().__init__()
        self.rows, self.by_row = rows, True

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """As in batching._ArithmeticMode."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if torch.Tag.nondeterministic_seeded in func.tags:
            first = out[0] if isinstance(out, tuple | list) else out
            fits = isinstance(first, Tensor) and first.ndim > 0 and len(first) == self.rows
            self.by_row &= fits and "randperm" not in func.__name__  # which mixes the rows
        return out


@torch.no_grad()
def randomness_of(model: Callable[[Tensor], Tensor], x: Float[Tensor, "b *image"]) -> Randomness | None:
    """How the model draws, from three calls on copies of the first image; None if it draws nothing.

    The calls are not counted, and do not change the global random numbers.
    """
    rows = x[:1].repeat(ROWS, *[1] * (x.ndim - 1))
    with seeded(0, x.device):
        with _RandomOps(ROWS) as ops:
            first = model(rows.clone())
        # taken after the first call, which may import modules that draw
        torch_before, numpy_before, python_before = _torch_state(x.device), _numpy_state(), random.getstate()
        other = model(rows.clone())
        by_others = random.getstate() != python_before or _numpy_state() != numpy_before
        by_torch = _torch_state(x.device) != torch_before
    with seeded(0, x.device):
        again = model(rows.clone())
    if not isinstance(first, Tensor) or first.shape[:1] != (ROWS,) or not first.is_floating_point():
        return None  # the error is found, and named, where the model is run
    repeatable = _same(first, again)
    if not by_torch and not by_others and repeatable and _same(first, other):
        return None
    return Randomness(by_row=by_torch and not by_others and repeatable and ops.by_row, repeatable=repeatable)


def _torch_state(device: torch.device) -> bytes:
    return b"".join(bytes(generator.get_state().numpy()) for generator in _generators(device))


def _numpy_state() -> bytes:
    state: Any = np.random.get_state(legacy=False)
    return bytes(state.pop("state")["key"]) + repr(state).encode()


def _same(a: Tensor, b: Tensor) -> bool:
    """Whether two outputs are equal up to rounding."""
    if a.numel() == 0 or a.shape != b.shape:
        return True
    unit = UNITS * torch.finfo(a.dtype).eps * a.abs().nan_to_num(0, 0, 0).amax()
    return bool(((a - b).abs().nan_to_num(0, 0, 0) <= unit).all())
