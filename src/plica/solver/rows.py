"""Records of tensors whose leading axis is the row: take some rows out, put them back."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

R = TypeVar("R")
ALIGN = 16  # most numbers in a vector register of the processor
WIDE = 16  # bytes of the widest number that can be copied
WHOLE = {"whole": True}  # metadata of a field that has no rows, though it may be a record with tensors of its own


def take(record: R, rows: Tensor) -> R:
    """The given rows of every tensor in a (nested) dataclass; anything else is carried over."""

    def part(value: Any) -> Any:
        if isinstance(value, Tensor):
            return pick(value, rows)
        return take(value, rows) if is_dataclass(value) else value

    own = [f.name for f in fields(record) if not f.metadata.get("whole")]  # type: ignore[arg-type]
    return replace(record, **{name: part(getattr(record, name)) for name in own})  # type: ignore[type-var]


def put(record: R, rows: Tensor | slice, part: R) -> None:
    """Write `part` into the given rows of `record`, in place."""
    for f in fields(record):  # type: ignore[arg-type]
        old, new = getattr(record, f.name), getattr(part, f.name)
        if isinstance(old, Tensor):
            if old is not new:
                write(old, rows, new)
        elif is_dataclass(old):
            put(old, rows, new)


def part_of(record: R, rows: slice) -> R:
    """The rows of a slice, as views: what is written into them is written into `record`."""

    def part(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value[rows]
        return part_of(value, rows) if is_dataclass(value) else value

    return replace(record, **{f.name: part(getattr(record, f.name)) for f in fields(record)})  # type: ignore[type-var]


def pick(t: Tensor, rows: Tensor) -> Tensor:
    """t[rows], four times as fast on a CPU."""
    return t[rows] if rows.dtype == torch.bool else t.index_select(0, rows)


def write(t: Tensor, rows: Tensor | slice, values: Tensor) -> None:
    """t[rows] = values. A CPU copies indexed rows number by number, so numbers are taken four (float32) at a time."""
    if isinstance(rows, Tensor) and t.device.type == "cpu" and t.dtype == values.dtype and _wide(t) and _wide(values):
        t, values = t.view(torch.complex128), values.view(torch.complex128)
    t[rows] = values


def _wide(t: Tensor) -> bool:
    """Whether t can be seen as numbers of WIDE bytes."""
    many = WIDE // t.element_size()
    steps = (t.shape[-1], t.storage_offset(), *t.stride()[:-1]) if t.ndim > 1 else (1,)
    return t.is_contiguous() and all(int(step) % many == 0 for step in steps)


def join(a: R, b: R) -> R:
    """The rows of `a`, then the rows of `b`."""

    def both(x: Any, y: Any) -> Any:
        if isinstance(x, Tensor):
            return torch.cat([x, y])
        return join(x, y) if is_dataclass(x) else x

    return replace(a, **{f.name: both(getattr(a, f.name), getattr(b, f.name)) for f in fields(a)})  # type: ignore[type-var]


def refill(record: R, done: Tensor, fresh: R | None, count: int) -> R:
    """Rows that are done make place for `count` fresh ones; the last rows move into the places left over.

    No other row is copied, where taking the rest and joining the fresh ones would copy all.
    """
    holes, busy = done.nonzero()[:, 0], ~done
    if fresh is not None:
        put(record, holes[:count], fresh)
        busy[holes[:count]] = True
    left = int(busy.sum())
    into, movers = (~busy[:left]).nonzero()[:, 0], left + busy[left:].nonzero()[:, 0]
    if len(into):
        put(record, into, take(record, movers))
    return part_of(record, slice(left))


def aligned(t: Tensor) -> Tensor:
    """t with zeros appended to its last axis, up to a multiple of ALIGN. Kernels treat rows differently that do not
    begin at a multiple of the register size, so that a product would depend on the position of the row."""
    short = -t.shape[-1] % ALIGN
    return torch.nn.functional.pad(t, (0, short)) if short else t


def choose(which: Tensor, a: R, b: R) -> R:
    """The rows of `a` where `which` (r,) is true, else those of `b`."""

    def part(x: Tensor, y: Tensor) -> Tensor:
        return torch.where(which.view(-1, *[1] * (x.ndim - 1)), x, y)

    return replace(a, **{f.name: part(getattr(a, f.name), getattr(b, f.name)) for f in fields(a)})  # type: ignore[type-var]


def bmm(a: Tensor, b: Tensor) -> Tensor:
    """torch.bmm with the same bits for any number of rows. A batch of one would use another kernel, so its row is
    computed twice."""
    if len(a) == 1:
        return torch.bmm(_twice(a), _twice(b))[:1]
    return torch.bmm(a, b)


def _twice(t: Tensor) -> Tensor:
    """Two copies of one row, with the strides of the row: another layout takes another kernel, even where it differs in
    the stride of an axis of size 1 alone."""
    if 0 in t.stride():
        return t.repeat(2, 1, 1)
    span = 1 + sum((size - 1) * stride for size, stride in zip(t.shape[1:], t.stride()[1:], strict=True))
    both = t.new_empty(2 * span).as_strided((2, *t.shape[1:]), (span, *t.stride()[1:]))
    return both.copy_(t)


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner products of the rows of a and b.  (r, n), (r, n) -> (r,)"""
    return (a * b).sum(1) if len(a) > 1 else (a * b).repeat(2, 1).sum(1)[:1]
