"""Torch's operations as nodes: BUILDERS has one entry for each operation that has bounds.

Sums, products, layers with weights, pooling and activations are here. Operations that only move or copy values are in
rearranged.py, operations that are expressed by others in composed.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from plica.certify import curves
from plica.certify.affine import Convolution, Matrix, Nonnegative, Scale, Sum
from plica.certify.builder import Builder, Refused, Value
from plica.certify.maxpool import MaxPool
from plica.certify.rearranged import expand, squeeze, unsqueeze
from plica.certify.relax import ReLU
from plica.certify.transposed import TransposedConvolution


def _constant(value: Any) -> Any:
    if isinstance(value, Value):
        raise Refused("two values that depend on the image are multiplied")
    return value


def _cast(builder: Builder, z: Value, *_: Any, dtype: torch.dtype | None = None, **__: Any) -> Value:
    if dtype not in (None, torch.float32, torch.float64):
        raise Refused(f"rounds to {dtype}; leave autocast and casts to half precision out")
    return z if dtype is None else builder.add(Scale(), z)  # which may be rounded when it is executed


def _average(function: Callable[..., Tensor]) -> Callable[..., Value]:
    """An average over windows of the last two axes."""

    def builds(builder: Builder, z: Value, *args: Any, **kwargs: Any) -> Value:
        summands = math.prod(builder.shape(z)[-2:])  # as if a window were the whole image
        return builder.add(Nonnegative(function=lambda t: function(t, *args, **kwargs), summands=summands), z)

    return builds


def scale(builder: Builder, z: Value, factor: Any) -> Value:
    if not isinstance(factor, Tensor):
        return builder.add(Scale(factor=float(factor)), z)
    z, factor = _of_image(builder, z, factor)
    return builder.add(Scale(factor=factor), z)


def _of_image(builder: Builder, z: Value, constant: Tensor) -> tuple[Value, Tensor]:
    """z expanded to the shape of the result, and the constant with as many axes."""
    z = expand(builder, z, torch.broadcast_shapes(constant.shape, builder.shape(z)))
    return z, constant.to(builder.values[0]).reshape(*[1] * (builder.ndim(z) - constant.ndim), *constant.shape)


def _mul(builder: Builder, a: Any, b: Any) -> Value:
    return scale(builder, a, _constant(b)) if isinstance(a, Value) else scale(builder, b, a)


def _div(builder: Builder, a: Any, b: Any) -> Value:
    if isinstance(b, Value):
        raise Refused("it divides by values that depend on the image")
    return scale(builder, a, 1 / b)


def _neg(builder: Builder, z: Value) -> Value:
    return builder.add(Scale(factor=-1.0), z)


def _shift(builder: Builder, z: Value, constant: Any) -> Value:
    constant = torch.as_tensor(constant, dtype=builder.values[0].dtype, device=builder.values[0].device)
    z, offset = _of_image(builder, z, constant)
    return builder.add(Scale(offset=offset), z)


def add(builder: Builder, a: Any, b: Any, *, alpha: float = 1) -> Value:
    if isinstance(a, Value) and isinstance(b, Value):
        size = torch.broadcast_shapes(builder.shape(a), builder.shape(b))
        return builder.add(Sum(sign=float(alpha)), expand(builder, a, size), expand(builder, b, size))
    if isinstance(a, Value):
        return _shift(builder, a, b * alpha)
    return _shift(builder, b if alpha == 1 else scale(builder, b, alpha), a)


def sub(builder: Builder, a: Any, b: Any, *, alpha: float = 1) -> Value:
    return add(builder, a, b, alpha=-alpha)


def _rsub(builder: Builder, a: Any, b: Any, alpha: float = 1) -> Value:
    return add(builder, b, a, alpha=-alpha)


def _matmul(builder: Builder, a: Any, b: Any) -> Value:
    """A matrix times values or values times a matrix, with 2 or 3 axes, of which the first is that of images."""
    value, matrix = (a, b) if isinstance(a, Value) else (b, a)
    matrix = matrix[0] if isinstance(_constant(matrix), Tensor) and matrix.ndim == 3 and len(matrix) == 1 else matrix
    if not isinstance(matrix, Tensor) or matrix.ndim != 2:
        raise Refused("only a matrix of constants is known")
    if isinstance(a, Value):
        return builder.add(Matrix(right=matrix), value)
    if builder.ndim(value) < 3:
        raise Refused("it does not keep images apart")
    return builder.add(Matrix(left=matrix), value)


def _addmm(builder: Builder, offset: Any, a: Any, b: Any, *, beta: float = 1, alpha: float = 1) -> Value:
    if not isinstance(a, Value) or not isinstance(_constant(b), Tensor) or isinstance(offset, Value):
        raise Refused("only values times a matrix of constants are known")
    return builder.add(Matrix(right=b * alpha, offset=(offset * beta).reshape(1, -1)), a)


def _linear(builder: Builder, z: Value, weight: Any, bias: Any = None) -> Value:
    offset = None if bias is None else _constant(bias).reshape(*[1] * (builder.ndim(z) - 1), -1)
    return builder.add(Matrix(right=_constant(weight).T, offset=offset), z)


def convolution(
    builder: Builder, z: Any, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any, transposed: bool,
    output_padding: Any, groups: int,
) -> Value:  # fmt: skip
    if not isinstance(z, Value) or not isinstance(_constant(weight), Tensor) or weight.ndim > 4:
        raise Refused("only convolutions over one or two axes with constant weights are known")
    if weight.ndim == 3:  # along the rows of an image of one column
        parts = (stride, padding, dilation, output_padding)
        sizes = ([*part, one] for part, one in zip(parts, (1, 0, 1, 0), strict=True))
        stride, padding, dilation, output_padding = sizes
        column = convolution(
            builder, unsqueeze(builder, z, -1), weight[..., None], bias, stride, padding, dilation, transposed,
            output_padding, groups,
        )  # fmt: skip
        return squeeze(builder, column, -1)
    sizes = dict(stride=tuple(stride), padding=tuple(padding), dilation=tuple(dilation), groups=groups)
    kind: Any = partial(TransposedConvolution, output_padding=tuple(output_padding)) if transposed else Convolution
    weight = weight.contiguous(memory_format=torch.channels_last)
    offset = None if bias is None else _constant(bias).reshape(1, -1, 1, 1)
    return builder.add(kind(offset=offset, weight=weight, **sizes), z)


def _batch_norm(builder: Builder, z: Value, weight: Any, bias: Any, mean: Any, var: Any, *rest: Any) -> Any:
    """(z - mean) weight / sqrt(var + eps) + bias with stored statistics; `rest` is (training,) momentum, eps."""
    if len(rest) == 3 and rest[0]:
        raise Refused(
            "it takes statistics of the images themselves, as InstanceNorm and BatchNorm(track_running_stats=False) "
            "do; use BatchNorm, whose statistics are stored"
        )
    shape = (1, -1, *[1] * (builder.ndim(z) - 2))
    z = builder.add(Scale(offset=-mean.reshape(shape)), z)
    factor = (var.double() + rest[-1]).rsqrt()
    factor = factor if weight is None else factor * weight.double()
    z = builder.add(Scale(factor=factor.to(mean).reshape(shape)), z)
    z = z if bias is None else builder.add(Scale(offset=bias.reshape(shape)), z)
    return z, None, None


def _pair(size: Any) -> tuple[int, int]:
    sizes = [size] * 2 if isinstance(size, int) else list(size) * (2 if len(size) == 1 else 1)
    return sizes[0], sizes[1]


def max_pool(
    builder: Builder, z: Value, kernel: Any, stride: Any = (), padding: Any = 0, dilation: Any = 1, ceil: bool = False
) -> tuple[Value, None]:
    if builder.ndim(z) != 4:
        raise Refused("a shape other than (b, c, height, width)")
    image = builder.shape(z)[2:]
    windows = _pair(kernel), _pair(stride or kernel), _pair(padding), _pair(dilation)
    return builder.add(MaxPool(*windows, (image[0], image[1]), ceil), z), None


def relu(builder: Builder, z: Value) -> Value:
    return builder.add(ReLU(), z)


def _curve(op: curves.Curve) -> Callable[[Builder, Value], Value]:
    return lambda builder, z: builder.add(op, z)


def _gelu(builder: Builder, z: Value, *, approximate: str = "none") -> Value:
    return builder.add(curves.GELU if approximate == "none" else curves.GELU_TANH, z)


def _elu(builder: Builder, z: Value, alpha: float = 1.0, scale: float = 1.0, within: float = 1.0) -> Value:
    if not (math.isfinite(alpha) and 0 < scale < math.inf and 0 < within < math.inf):
        raise Refused(f"its parameters must be finite, and its scales positive; got {alpha}, {scale} and {within}")
    return builder.add(curves.elu(alpha, scale, within), z)


def _celu(builder: Builder, z: Value, alpha: float = 1.0) -> Value:
    return _elu(builder, z, alpha, 1.0, 1 / alpha)


def _softplus(builder: Builder, z: Value, beta: float = 1.0, threshold: float = 20.0) -> Value:
    if not 0 < beta < math.inf:
        raise Refused(f"its beta must be positive and finite, got {beta}")
    if not threshold >= 20:
        step = math.exp(-threshold) / beta
        raise Refused(
            f"its values jump by up to {step:.2g} at its threshold, {threshold:g}, which must be at least 20; leave "
            "threshold=... out, which changes no value by more"
        )
    return builder.add(curves.softplus(beta), z)


BUILDERS: dict[str, Callable[..., Any]] = {
    "_adaptive_avg_pool2d": _average(functional.adaptive_avg_pool2d),
    "_convolution": lambda builder, *args: convolution(builder, *args[:9]),  # as torch.jit.trace has it, with flags
    "_native_batch_norm_legit_no_training": _batch_norm,
    "_to_copy": _cast,
    "add": add,
    "addmm": _addmm,
    "avg_pool2d": _average(functional.avg_pool2d),
    "bmm": _matmul,
    "celu": _celu,
    "convolution": convolution,
    "div": _div,
    "elu": _elu,
    "gelu": _gelu,
    "hardswish": _curve(curves.HARDSWISH),
    "linear": _linear,
    "log_sigmoid_forward": lambda builder, z: (builder.add(curves.LOG_SIGMOID, z), None),
    "matmul": _matmul,
    "max_pool2d_with_indices": max_pool,
    "mish": _curve(curves.MISH),
    "mm": _matmul,
    "mul": _mul,
    "native_batch_norm": _batch_norm,
    "neg": _neg,
    "relu": relu,
    "rsub": _rsub,
    "sigmoid": _curve(curves.SIGMOID),
    "silu": _curve(curves.SILU),
    "softplus": _softplus,
    "softsign": _curve(curves.SOFTSIGN),
    "sub": sub,
    "tanh": _curve(curves.TANH),
}
