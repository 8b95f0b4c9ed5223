"""Rows of records: a record of tensors whose leading axis is the row; take some rows out, put them back."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

R = TypeVar("R")
WHOLE = {"whole": True}  # metadata of a field that has no rows, though it may be a record with tensors of its own


def take(record: R, rows: Tensor) -> R:
    """The given rows of every tensor in a (nested) dataclass; anything else is carried over."""

    def pick(value):
        if isinstance(value, Tensor):
            # four times as fast on a CPU as value[rows]
            return value[rows] if rows.dtype == torch.bool else value.index_select(0, rows)
        return take(value, rows) if is_dataclass(value) else value

    own = [f.name for f in fields(record) if not f.metadata.get("whole")]  # type: ignore[arg-type]
    return replace(record, **{name: pick(getattr(record, name)) for name in own})  # type: ignore[type-var]


def put(record: R, rows: Tensor | slice, part: R) -> None:
    """Write `part` into the given rows of `record`, in place."""
    for f in fields(record):  # type: ignore[arg-type]
        old, new = getattr(record, f.name), getattr(part, f.name)
        if isinstance(old, Tensor):
            if old is not new:
                old[rows] = new
        elif is_dataclass(old):
            put(old, rows, new)


def join(a: R, b: R) -> R:
    """The rows of `a`, then the rows of `b`."""

    def both(x, y):
        if isinstance(x, Tensor):
            return torch.cat([x, y])
        return join(x, y) if is_dataclass(x) else x

    return replace(a, **{f.name: both(getattr(a, f.name), getattr(b, f.name)) for f in fields(a)})  # type: ignore[type-var]


def bmm(a: Tensor, b: Tensor) -> Tensor:
    """torch.bmm, the same to the last bit however many rows there are: a batch of one takes another kernel, so it
    gets company."""
    if len(a) == 1:
        return torch.bmm(_twice(a), _twice(b))[:1]
    return torch.bmm(a, b)


def _twice(t: Tensor) -> Tensor:
    """Two copies of one row, laid out as the row is: a transposed matrix takes another kernel, too."""
    if t.stride(1) == 1 and t.stride(2) != 1:
        return t.transpose(1, 2).repeat(2, 1, 1).transpose(1, 2)
    return t.repeat(2, 1, 1)


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner products of the rows of a and b.  (r, n), (r, n) -> (r,)"""
    return (a * b).sum(1) if len(a) > 1 else (a * b).repeat(2, 1).sum(1)[:1]
