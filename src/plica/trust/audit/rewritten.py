"""Operations that the audit of lower bounds takes apart into others, of which it knows lines."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

aten = torch.ops.aten


class UnknownStepError(ValueError):
    """An operation that the audit does not know; the message names it."""


@runtime_checkable
class Network(Protocol):
    """What is built: `step` makes an operation of torch and its operands the next step; `values` has the value of each
    step, which is a number, at an image."""

    values: list[Tensor]

    def step(self, target: Any, *operands: Any) -> Any: ...


def _maximum(net: Network, a: Any, b: Any) -> Any:
    """b + max(a - b, 0), a one that depends on the image."""
    return net.step(aten.add.Tensor, net.step(aten.relu.default, net.step(aten.sub.Tensor, a, b)), b)


def _minimum(net: Network, a: Any, b: Any) -> Any:
    """b - max(b - a, 0), a one that depends on the image."""
    return _less(net, b, net.step(aten.relu.default, _less(net, b, a)))


def _less(net: Network, b: Any, a: Any) -> Any:
    """b - a; a bare number may only come second in torch's own difference."""
    return net.step(aten.rsub.Scalar, a, b) if type(b) in (int, float) else net.step(aten.sub.Tensor, b, a)


def _clamp(net: Network, z: Any, least: Any = None, most: Any = None) -> Any:
    z = z if least is None else _maximum(net, z, least)
    return z if most is None else _minimum(net, z, most)


def _hardtanh(net: Network, z: Any, least: float = -1.0, most: float = 1.0) -> Any:
    return _clamp(net, z, least, most)


def _hardsigmoid(net: Network, z: Any) -> Any:
    return net.step(aten.mul.Tensor, _clamp(net, net.step(aten.add.Tensor, z, 3.0), 0.0, 6.0), 1 / 6)


def _abs(net: Network, z: Any) -> Any:
    """2 max(z, 0) - z."""
    return net.step(aten.sub.Tensor, net.step(aten.mul.Tensor, net.step(aten.relu.default, z), 2.0), z)


def _prelu(net: Network, z: Any, slope: Tensor | float) -> Any:
    """slope z + (1 - slope) max(z, 0)."""
    bent = net.step(aten.mul.Tensor, net.step(aten.relu.default, z), 1 - slope)
    return net.step(aten.add.Tensor, bent, net.step(aten.mul.Tensor, z, slope))


def _adaptive_max_pool(net: Network, z: Any, size: Any) -> Any:
    image = net.values[z].shape[2:]
    if any(n % m for n, m in zip(image, size, strict=True)):
        raise UnknownStepError("adaptive_max_pool2d with windows that overlap")
    return net.step(aten.max_pool2d_with_indices.default, z, list(map(operator.floordiv, image, size)))


def _amax(net: Network, z: Any, dims: Any = (), keepdim: bool = False) -> Any:
    shape = tuple(net.values[z].shape)
    if len(shape) != 4 or {dim % 4 for dim in dims} != {2, 3}:
        raise UnknownStepError("amax over other axes than those of pixels")
    top, _ = net.step(aten.max_pool2d_with_indices.default, z, shape[2:])
    return top if keepdim else net.step(aten.view.default, top, shape[:2])


REWRITTEN: dict[str, Callable[..., Any]] = {
    "_prelu_kernel": _prelu,
    "abs": _abs,
    "adaptive_max_pool2d": _adaptive_max_pool,
    "amax": _amax,
    "clamp": _clamp,
    "clamp_max": lambda net, z, most: _clamp(net, z, None, most),
    "clamp_min": _clamp,
    "hardsigmoid": _hardsigmoid,
    "hardtanh": _hardtanh,
    "maximum": _maximum,
    "minimum": _minimum,
}
