"""Operations that move, copy or add up the numbers of an image: none has a negative coefficient."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from plica.certify.affine import Nonnegative, Reshape
from plica.certify.builder import Builder, Refused, Value


def _same(builder: Builder, z: Value, **_: Any) -> Value:
    return z


def view(builder: Builder, z: Value, size: Any) -> Value:
    shape = tuple(builder.values[z].reshape(size).shape)
    if not shape or shape[0] != 1:
        raise Refused("it does not keep images apart")
    return builder.add(Reshape(shape=shape[1:]), z)


def unsqueeze(builder: Builder, z: Value, dim: int) -> Value:
    return view(builder, z, torch.unsqueeze(builder.example(z), dim).shape)


def squeeze(builder: Builder, z: Value, *dim: Any) -> Value:
    return view(builder, z, torch.squeeze(builder.values[z], *dim).shape)


def expand(builder: Builder, z: Value, size: Any, **_: Any) -> Value:
    """Each entry several times, along axes of length 1; the first axis remains that of images."""
    if builder.values[z].expand(size).shape == builder.values[z].shape:
        return z
    if len(size) != builder.ndim(z) or size[0] not in (1, -1):
        raise Refused("it does not keep images apart")
    return builder.add(Nonnegative(function=lambda t: t.expand(-1, *size[1:])), z)


def behind_images(builder: Builder, z: Value, dims: Any, more: str = "") -> None:
    """Refuse `dims` if they include the first axis, which counts images; None means all axes. more: of the sentence."""
    axes = [dims] if isinstance(dims, int) else dims
    if not axes or any(axis % builder.ndim(z) == 0 for axis in axes):
        raise Refused(f"it does not keep images apart{more}")


MOVED = ": their axis must remain the first, and torch.einsum and nn.MultiheadAttention move it"


def _permute(builder: Builder, z: Value, dims: Any) -> Value:
    behind_images(builder, z, dims[1:], MOVED)
    return builder.add(Nonnegative(function=lambda t: t.permute(dims)), z)


def _transpose(builder: Builder, z: Value, a: int, b: int) -> Value:
    behind_images(builder, z, [a, b], MOVED)
    return builder.add(Nonnegative(function=lambda t: t.transpose(a, b)), z)


def along(function: Callable[..., Tensor]) -> Callable[..., Value]:
    """An operation (z, dim, ...) without negative coefficients that does not change the first axis."""

    def builds(builder: Builder, z: Value, dim: Any = 0, *args: Any, **kwargs: Any) -> Value:
        behind_images(builder, z, dim)
        summands = math.prod(builder.shape(z)) if function in (torch.mean, torch.sum) else 0
        return builder.add(Nonnegative(function=lambda t: function(t, dim, *args, **kwargs), summands=summands), z)

    return builds


def _split(function: Callable[..., Any]) -> Callable[..., tuple[Value, ...]]:
    """An operation (z, sizes, dim) that cuts a tensor into several."""

    def builds(builder: Builder, z: Value, sizes: Any, dim: int = 0) -> tuple[Value, ...]:
        if dim % builder.ndim(z) == 0:  # images one by one
            return (z,)
        count = len(function(builder.values[z], sizes, dim))
        parts = [Nonnegative(function=lambda t, i=i: function(t, sizes, dim)[i]) for i in range(count)]
        return tuple(builder.add(part, z) for part in parts)

    return builds


def _unbind(builder: Builder, z: Value, dim: int = 0) -> tuple[Value, ...]:
    return tuple(along(torch.select)(builder, z, dim, i) for i in range(builder.values[z].shape[dim]))


def _slice(builder: Builder, z: Value, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> Value:
    def cut(t: Tensor) -> Tensor:
        return torch.ops.aten.slice.Tensor(t, dim, start, end, step)

    if dim % builder.ndim(z) == 0:
        if cut(builder.values[z]).shape != builder.shape(z):
            raise Refused("it does not keep images apart")
        return z
    return builder.add(Nonnegative(function=cut), z)


def _cat(builder: Builder, parts: list[Any], dim: int = 0) -> Value:
    values = [part for part in parts if isinstance(part, Value)]
    if len(parts) == 1:
        return values[0]
    behind_images(builder, values[0], dim)
    if len(values) == len(parts):
        return builder.add(Nonnegative(function=lambda *t: torch.cat(t, dim)), *values)
    zeros = [None if isinstance(part, Value) else torch.zeros_like(part) for part in parts]

    def joined(*t: Tensor) -> Tensor:
        rest = iter(t)
        return torch.cat([next(rest) if c is None else c.to(t[0]).expand(len(t[0]), *c.shape[1:]) for c in zeros], dim)

    places = [torch.zeros_like(builder.values[part]) if isinstance(part, Value) else part for part in parts]
    return builder.add(Nonnegative(function=joined, offset=torch.cat(places, dim)), *values)


def _stack(builder: Builder, parts: list[Any], dim: int = 0) -> Value:
    ndim = 1 + max((builder.example(part) if isinstance(part, Value) else part).ndim for part in parts)
    if dim % ndim == 0:
        raise Refused("it does not keep images apart")
    layers = [unsqueeze(builder, z, dim) if isinstance(z, Value) else z.unsqueeze(dim) for z in parts]
    return _cat(builder, layers, dim)


def _pad(builder: Builder, z: Value, pad: list[int], value: float = 0.0) -> Value:
    if len(pad) // 2 >= builder.ndim(z):
        raise Refused("it does not keep images apart")
    border = functional.pad(torch.zeros_like(builder.values[z]), pad, value=value)
    return builder.add(Nonnegative(function=lambda t: functional.pad(t, pad), offset=border if value else None), z)


def _copies(function: Callable[..., Tensor]) -> Callable[..., Value]:
    """An operation of which each output is one of the inputs, and which does not change the first axis."""
    return lambda builder, z, *args: builder.add(Nonnegative(function=lambda t: function(t, *args)), z)


def _flip(builder: Builder, z: Value, dims: Any) -> Value:
    behind_images(builder, z, dims)
    return builder.add(Nonnegative(function=lambda t: t.flip(dims)), z)


def _roll(builder: Builder, z: Value, shifts: Any, dims: Any = ()) -> Value:
    behind_images(builder, z, dims)
    return builder.add(Nonnegative(function=lambda t: t.roll(shifts, dims)), z)


def _repeat(builder: Builder, z: Value, repeats: Any) -> Value:
    if len(repeats) != builder.ndim(z) or repeats[0] != 1:
        raise Refused("it does not keep images apart")
    return builder.add(Nonnegative(function=lambda t: t.repeat(repeats)), z)


def _nearest(builder: Builder, z: Value, size: Any, *_: Any) -> Value:
    """Each pixel as a block of copies."""
    image = builder.shape(z)[2:]
    if any(m % n for n, m in zip(image, size, strict=True)):
        raise Refused(f"the new size {tuple(size)} must be a multiple of {image}")
    return builder.add(Nonnegative(function=lambda t: functional.interpolate(t, tuple(size), mode="nearest")), z)


BUILDERS: dict[str, Callable[..., Any]] = {
    "_unsafe_view": view,
    "alias": _same,
    "cat": _cat,
    "clone": _same,
    "constant_pad_nd": _pad,
    "detach": _same,
    "expand": expand,
    "flip": _flip,
    "index_select": along(torch.index_select),
    "lift_fresh_copy": _same,
    "mean": along(torch.mean),
    "permute": _permute,
    "pixel_shuffle": _copies(functional.pixel_shuffle),
    "pixel_unshuffle": _copies(functional.pixel_unshuffle),
    "reflection_pad1d": _copies(torch.ops.aten.reflection_pad1d.default),
    "reflection_pad2d": _copies(torch.ops.aten.reflection_pad2d.default),
    "repeat": _repeat,
    "replication_pad1d": _copies(torch.ops.aten.replication_pad1d.default),
    "replication_pad2d": _copies(torch.ops.aten.replication_pad2d.default),
    "reshape": view,
    "roll": _roll,
    "select": along(torch.select),
    "slice": _slice,
    "split": _split(torch.split),
    "split_with_sizes": _split(torch.split),
    "squeeze": squeeze,
    "stack": _stack,
    "sum": along(torch.sum),
    "transpose": _transpose,
    "unbind": _unbind,
    "unsqueeze": unsqueeze,
    "upsample_nearest2d": _nearest,
    "view": view,
}
