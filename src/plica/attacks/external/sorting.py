"""Sorting for public attacks, whose projections onto l1 balls and half-spaces sort every pixel in every step.

On a CPU numpy sorts several times faster than torch. The result is torch's, equal numbers in the order of their places
(torch promises no order for them), so that a projection differs by the rounding of a sum at most.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np
import torch
from jaxtyping import Int32
from torch import Tensor

WORTH = 2**12  # numbers; fewer are sorted sooner than they are handed over
INFINITE = 0x7F800000  # the key of inf; beyond it are those of nan


def in_order(x: Tensor) -> tuple[Tensor, Tensor] | None:
    """The rows of x in ascending order and the places they come from, as torch.sort(x, dim=-1, stable=True) gives them;
    None for what is left to torch: few numbers, other devices, other types, nan.

    What numpy sorts are whole numbers of 64 bits: a key in the order of x above the place in the row.
    """
    if x.device.type != "cpu" or x.numel() < WORTH or x.requires_grad or sys.byteorder != "little":
        return None
    if x.dtype == torch.float32:
        keys = _turned((x + 0.0).view(torch.int32))  # -0 becomes 0, which it equals
    elif x.dtype == torch.int64 and int(x.max()) < 2**31 and int(x.min()) >= -(2**31):
        keys = x.int()
    else:
        return None
    held = np.empty((*x.shape, 2), dtype=np.int32)
    held[..., 0], held[..., 1] = np.arange(x.shape[-1], dtype=np.int32), keys.numpy()
    held.reshape(*x.shape[:-1], -1).view(np.int64).sort(axis=-1)
    places, keys = torch.from_numpy(held[..., 0]).long(), torch.from_numpy(np.ascontiguousarray(held[..., 1]))
    if x.dtype == torch.int64:
        return keys.long(), places
    if bool((keys[..., 0] < ~INFINITE).any() | (keys[..., -1] > INFINITE).any()):
        return None
    return _turned(keys).view(torch.float32), places


def _turned(bits: Int32[Tensor, "..."]) -> Int32[Tensor, "..."]:
    """The bits of float32 as whole numbers in the order of the floats, and back."""
    return (bits >> 31).bitwise_and_(0x7FFFFFFF).bitwise_xor_(bits)


def sort(x: Tensor, dim: int = -1) -> Any:
    """torch.sort, ascending."""
    found = in_order(x) if dim in (-1, x.ndim - 1) else None
    return torch.sort(x, dim=dim) if found is None else torch.return_types.sort(found)


def argsort(x: Tensor, dim: int = -1) -> Tensor:
    """torch.argsort, ascending."""
    return sort(x, dim)[1]


@contextmanager
def lent(module: Any, name: str = "torch", **functions: Callable[..., Any]) -> Iterator[None]:
    """Meanwhile the package that a module knows by this name sorts as here; or has these functions as its own."""
    own = getattr(module, name)
    copy = ModuleType(name)
    copy.__dict__.update(vars(own) | (functions or {"sort": sort, "argsort": argsort}))
    setattr(module, name, copy)
    try:
        yield
    finally:
        setattr(module, name, own)
