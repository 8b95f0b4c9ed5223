"""Operations that are expressed by others: piecewise linear ones by ReLUs, so that branch and bound can split them.

max(a, b) = b + relu(a - b)        min(a, b) = b - relu(b - a)        |z| = 2 relu(z) - z
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from plica.certify.builder import Builder, Refused, Value
from plica.certify.operations import add, max_pool, relu, scale, sub
from plica.certify.rearranged import view
from plica.certify.relax import ReLU


def _maximum(builder: Builder, a: Any, b: Any) -> Value:
    a, b = (a, b) if isinstance(a, Value) else (b, a)
    return add(builder, relu(builder, sub(builder, a, b)), b)


def _minimum(builder: Builder, a: Any, b: Any) -> Value:
    a, b = (a, b) if isinstance(a, Value) else (b, a)
    return sub(builder, b, relu(builder, sub(builder, b, a)))


def _clamp(builder: Builder, z: Value, low: Any = None, high: Any = None) -> Value:
    if not isinstance(z, Value):
        raise Refused("its limits depend on the image")
    for limit, bounded in ((low, _maximum), (high, _minimum)):
        if limit is None:
            continue
        if not isinstance(limit, Value) and not torch.as_tensor(limit, device="cpu").isfinite().all():
            raise Refused("its limits must be finite; leave one out, or give None")
        z = bounded(builder, z, limit)
    return z


def _hardtanh(builder: Builder, z: Value, low: float = -1.0, high: float = 1.0) -> Value:
    return _clamp(builder, z, low, high)


def _hardsigmoid(builder: Builder, z: Value) -> Value:
    return scale(builder, _clamp(builder, add(builder, z, 3.0), 0.0, 6.0), 1 / 6)


def _abs(builder: Builder, z: Value) -> Value:
    return sub(builder, scale(builder, relu(builder, z), 2.0), z)


def _prelu(builder: Builder, z: Value, slope: Any) -> Value:
    """slope z + (1 - slope) relu(z), a slope for each channel."""
    if not isinstance(slope, Tensor):
        raise Refused("its slopes depend on the image")
    return add(builder, scale(builder, relu(builder, z), 1 - slope), scale(builder, z, slope))


def _leaky(builder: Builder, z: Value, slope: float = 0.01) -> Value:
    """max(z, slope z); with a slope above 1 it is expressed as a PReLU."""
    if not math.isfinite(slope):
        raise Refused(f"its slope must be finite, got {slope}")
    if slope <= 1:
        return builder.add(ReLU(float(slope)), z)
    return _prelu(builder, z, torch.tensor(slope, dtype=torch.float64, device="cpu"))


def _rrelu(
    builder: Builder, z: Value, noise: Any, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False, *_: Any
) -> Value:  # fmt: skip
    if training:
        raise Refused("it draws random slopes; leave training=True out, or use nn.RReLU, which draws none in eval mode")
    return _leaky(builder, z, (lower + upper) / 2)


def _undefined(builder: Builder, z: Value, *_: Any, **__: Any) -> Tensor:
    """Uninitialised values. A network that uses some of them is refused, since it gives nan."""
    return torch.full_like(builder.values[z], torch.nan)


def _adaptive_max_pool(builder: Builder, z: Value, size: Any) -> tuple[Value, None]:
    image = builder.shape(z)[-2:]
    if any(n % m for n, m in zip(image, size, strict=True)):
        raise Refused(f"its {tuple(size)} windows must divide an image of {image} pixels")
    return max_pool(builder, z, [n // m for n, m in zip(image, size, strict=True)])


def _largest(builder: Builder, z: Value, dims: Any = (), keepdim: bool = False) -> Value:
    """amax over all axes but the one of images."""
    if builder.ndim(z) != 4 or {dim % 4 for dim in dims} != {2, 3}:
        raise Refused("only the largest pixel of each channel is known")
    top = max_pool(builder, z, builder.shape(z)[2:])[0]
    return top if keepdim else view(builder, top, builder.shape(z)[:2])


BUILDERS: dict[str, Callable[..., Any]] = {
    "_prelu_kernel": _prelu,
    "abs": _abs,
    "adaptive_max_pool2d": _adaptive_max_pool,
    "amax": _largest,
    "clamp": _clamp,
    "clamp_max": lambda builder, z, high: _clamp(builder, z, None, high),
    "clamp_min": _clamp,
    "empty_like": _undefined,
    "hardsigmoid": _hardsigmoid,
    "hardtanh": _hardtanh,
    "leaky_relu": _leaky,
    "maximum": _maximum,
    "minimum": _minimum,
    "rrelu_with_noise": _rrelu,
}
