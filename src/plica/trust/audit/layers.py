"""A network as a list of steps in float64, traced by torch, for the audit of lower bounds.

Affine steps are torch's own operations. Their transpose comes from automatic differentiation; |L| is the same operation
with the absolute values of its constants. activations.py has the lines that replace activations.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.node import map_aggregate, map_arg
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from plica.trust.audit.activations import ACTIVATIONS, Activation
from plica.trust.audit.curves import CURVES
from plica.trust.audit.executed import terms
from plica.trust.audit.reference import Model
from plica.trust.audit.rewritten import REWRITTEN, UnknownStepError

# of which a dependent operand goes in linearly; the second group turns signs
PLAIN = {
    "_adaptive_avg_pool2d", "_to_copy", "_unsafe_view", "alias", "avg_pool2d", "cat", "clone", "constant_pad_nd",
    "detach", "expand", "flip", "index_select", "lift_fresh_copy", "mean", "permute", "pixel_shuffle",
    "pixel_unshuffle", "reflection_pad1d", "reflection_pad2d", "repeat", "replication_pad1d", "replication_pad2d",
    "reshape", "roll", "select", "slice", "split", "split_with_sizes", "squeeze", "stack", "sum", "transpose",
    "unbind", "unsqueeze", "upsample_nearest2d", "view",
}  # fmt: skip
SIGNED = {"add", "addmm", "bmm", "convolution", "div", "linear", "matmul", "mm", "mul", "neg", "rsub", "sub"}
DENSE = {"addmm", "bmm", "convolution", "linear", "matmul", "mm"}
NORMS = {"_native_batch_norm_legit_no_training", "native_batch_norm"}
FILLS = {  # the number that fills them
    f"aten.{name}_{own}.default": number
    for name, own, number in (("zeros", "like", 0), ("ones", "like", 1), ("new", "zeros", 0), ("new", "ones", 1))
}
SEVERAL = {"add", "cat", "rsub", "stack", "sub"}  # of operands that depend on the image


@dataclass(frozen=True, eq=False)
class Affine:
    """z -> L z + b, traced for one image of shape (1, ...), and applied to rows (r, ...).

    Attributes:
        function: of its operands.
        absolute: |L| z + |b|.
        constants: number of entries in its tensors.
        terms: of one output, for executed.error; 0 if nothing is rounded.
        dense: whether it mixes many entries with weights.
    """

    function: Callable[..., Tensor]
    absolute: Callable[..., Tensor]
    constants: int
    terms: int = 0
    dense: bool = False

    def value(self, *z: Tensor) -> Tensor:
        return torch.vmap(self.function)(*(part[:, None] for part in z))[:, 0]

    def size(self, *z: Tensor) -> Tensor:
        return torch.vmap(self.absolute)(*(part[:, None] for part in z))[:, 0]

    def back(self, a: Tensor, shapes: list[tuple[int, ...]]) -> tuple[list[Tensor], Tensor]:
        """L^T a of each row, for each operand, and <a, b>."""
        at_zero, pull = torch.func.vjp(self.function, *(torch.zeros(1, *shape, dtype=a.dtype) for shape in shapes))[:2]
        parts = torch.vmap(pull)(a[:, None])
        return [part[:, 0] for part in parts], (a * at_zero).flatten(1).sum(1)


@dataclass(frozen=True, eq=False)
class Step:
    """A step. Number 0 is the image, and has no operation; its `rounds` says whether the model rounds in an unknown
    way, because it computes constants at every call, ends with softmax or is compiled."""

    op: Affine | Activation | None
    parents: tuple[int, ...]
    shape: tuple[int, ...]  # of one row
    rounds: bool = False


class _Place(int):
    """The number of a step that depends on the image."""


def trace(model: Model, x: Tensor) -> tuple[Step, ...]:
    """The steps of a model at one image, (1, *image), in its own precision; the last gives the logits.

    Raises:
        UnknownStepError: an operation is not known.
    """
    from torch.fx.experimental.proxy_tensor import make_fx

    parts = model.modules() if isinstance(model, torch.nn.Module) else [model]
    compiled = any(isinstance(part, torch.jit.ScriptModule | torch.jit.ScriptFunction) for part in parts)
    try:
        with _Plain():
            traced = make_fx(torch.func.functionalize(model))(x.clone())
    except RuntimeError:
        compiled = True  # or what failed fails again
        with _Plain(), _not_compiled():
            traced = make_fx(torch.func.functionalize(model))(x.clone())
    for node in traced.graph.nodes:
        if _is_softsign(node):
            node.target, node.args = torch.nn.functional.softsign, node.args[:1]
        number = FILLS.get(str(node.target))
        if number is not None:  # of the shape alone
            like = node.meta["val"]
            node.target, node.args = torch.ops.aten.full.default, (list(like.shape), number)
            node.kwargs = {"dtype": like.dtype, "device": like.device}
    traced.graph.eliminate_dead_code()
    net = _Built([Step(None, (), tuple(x.shape[1:]), rounds=compiled)], [x.double()])
    known = dict[fx.Node, Any]()
    own = dict[fx.Node, Any]()  # constants in the model's precision
    for node in traced.graph.nodes:
        if node.op == "placeholder":
            known[node] = _Place(0)
        elif node.op == "get_attr":
            own[node] = getattr(traced, str(node.target)).detach()
            known[node] = _double(own[node])
        elif node.op == "output":
            last = known.get(node.args[0]) if isinstance(node.args[0], fx.Node) else None
            if not isinstance(last, _Place):
                raise UnknownStepError("its output is not one tensor that depends on the image")
            return tuple(net.steps[: last + 1])
        else:
            args, kwargs = map_arg((node.args, node.kwargs), known.__getitem__)
            if _ends_with_softmax(node):  # which changes no order, but its roundings may
                known[node] = args[0]
                net.steps[0] = replace(net.steps[0], rounds=True)
                continue
            known[node] = _next(net, node.target, args, kwargs)
            if all(parent in own for parent in node.all_input_nodes):
                function: Any = node.target
                own[node] = function(*map_arg(node.args, own.__getitem__), **map_arg(node.kwargs, own.__getitem__))
                rounds = net.steps[0].rounds or not _same(own[node], known[node])
                net.steps[0] = replace(net.steps[0], rounds=rounds)
    raise UnknownStepError("it has no output")


def _not_compiled() -> AbstractContextManager[None]:
    """Within this context torch.compile is as good as not there. Where its module is not loaded, it was not used."""
    compiler = sys.modules.get("torch._dynamo")
    return nullcontext() if compiler is None else compiler.config.patch(error_on_nested_fx_trace=False)


class _Plain(TorchFunctionMode):
    """Within this context circular padding is a selection of entries, and a linear layer on several vectors per image
    is a matrix that multiplies their columns from the left."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is functional.pad:
            given = dict(zip(("input", "pad", "mode", "value"), args, strict=False)) | kwargs
            if given.get("mode") == "circular":
                return _circular(given["input"], given["pad"])
        if func is functional.linear:
            given = dict(zip(("input", "weight", "bias"), args, strict=False)) | kwargs
            if given["input"].ndim > 2:
                return _columns(given["input"], given["weight"], given.get("bias"))
        return func(*args, **kwargs)


def _circular(z: Tensor, sides: Any) -> Tensor:
    for axis in range(len(sides) // 2):
        size = z.shape[-1 - axis]
        entries = torch.arange(-sides[2 * axis], size + sides[2 * axis + 1], device=z.device) % size
        z = z.index_select(z.ndim - 1 - axis, entries)
    return z


def _columns(z: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    columns = torch.bmm(weight.expand(len(z), -1, -1), z.reshape(len(z), -1, z.shape[-1]).transpose(1, 2))
    columns = columns if bias is None else columns + bias[:, None]
    return columns.transpose(1, 2).reshape(*z.shape[:-1], len(weight))


@dataclass(frozen=True, eq=False)
class _Built:
    """The steps so far, and their values at the image, which grow. columns: steps with one number for each image, (1,)
    in the model and (1, 1) here."""

    steps: list[Step]
    values: list[Tensor]
    columns: set[int] = field(default_factory=set)

    def step(self, target: Any, *operands: Any) -> Any:
        return _next(self, target, operands, {})


def _next(net: _Built, target: Any, args: Any, kwargs: Any) -> Any:
    """Compute an operation on constants; for other operations add steps, and return their numbers."""
    places: list[_Place] = []
    map_aggregate((args, kwargs), lambda a: places.append(a) if isinstance(a, _Place) else None)
    if not places:
        return map_aggregate(target(*args, **kwargs), _double)
    if target is operator.getitem:
        return args[0][args[1]]
    own = target.overloadpacket if hasattr(target, "overloadpacket") else target
    name = own.__name__ if hasattr(own, "__name__") else str(own)

    def add(op: Affine | Activation, parents: list[_Place]) -> _Place:
        value = op.value(*(net.values[parent] for parent in parents))
        column = value.ndim == 1 or (isinstance(op, Activation) and parents[0] in net.columns)
        if isinstance(op, Affine) and value.ndim == 1:
            f, size = op.function, op.absolute
            op = replace(op, function=lambda *z: f(*z)[:, None], absolute=lambda *z: size(*z)[:, None])
            value = value[:, None]
        if isinstance(op, Affine) and name not in NORMS:
            before, after = tuple(net.values[parents[0]].shape), tuple(value.shape)
            op = replace(op, terms=terms(name, args, kwargs, before, after))
        net.steps.append(Step(op, tuple(int(parent) for parent in parents), tuple(value.shape[1:])))
        net.values.append(value)
        if column:
            net.columns.add(len(net.steps) - 1)
        return _Place(len(net.steps) - 1)

    if name == "_convolution":  # as torch.jit.trace has it, with flags
        return _next(net, torch.ops.aten.convolution.default, args[:9], {})
    if name == "empty_like":  # the noise of RReLU, which eval mode has no use for
        return torch.full_like(net.values[args[0]], torch.nan)
    if name == "rrelu_with_noise":
        z, _, lower, upper, training, *_ = (*args, *(1 / 8, 1 / 3, False)[len(args) - 2 :])
        if training:
            raise UnknownStepError("rrelu with random slopes")
        name, args = "leaky_relu", (z, (lower + upper) / 2)
    if name == "leaky_relu" and args[1:] and args[1] > 1:  # not convex
        name = "_prelu_kernel"
    if name in REWRITTEN:
        if name in ("maximum", "minimum") and not isinstance(args[0], _Place):
            args = args[::-1]
        if not isinstance(args[0], _Place):
            raise UnknownStepError(f"{name} of a constant")
        return REWRITTEN[name](net, *args, **kwargs)
    if name in ACTIVATIONS | CURVES:
        made = add((ACTIVATIONS | CURVES)[name](*args[1:], **kwargs), places[:1])
        return (made, None) if name in ("log_sigmoid_forward", "max_pool2d_with_indices") else made
    if name in NORMS:
        if len(args) == 8 and args[5]:
            raise UnknownStepError(f"{name} with the statistics of the batch")
        return add(_norm(args), places), None, None
    if name not in PLAIN | SIGNED or (len(places) > 1 and name not in SEVERAL):
        raise UnknownStepError(name)
    if name in ("add", "rsub", "sub") and len(places) == 2:  # repeated before: else its copies stretch the other, too
        size = torch.broadcast_shapes(*(net.values[place].shape for place in places))
        places = [
            p if net.values[p].shape == size else net.step(torch.ops.aten.expand.default, p, size) for p in places
        ]
        args = (*places, *args[2:])
    if name == "div" and not isinstance(args[0], _Place):
        raise UnknownStepError("a division by values that depend on the image")
    if kwargs.get("dtype") not in (None, torch.float32, torch.float64):
        raise UnknownStepError(f"{name} to {kwargs['dtype']}")
    columns = [place in net.columns for place in places]
    function, absolute = (_of_columns(f, columns) for f in _functions(name, target, args, kwargs))
    numbers: list[int] = []
    map_aggregate((args, kwargs), lambda a: numbers.append(a.numel()) if isinstance(a, Tensor) else None)
    if name in ("split", "split_with_sizes", "unbind"):
        count = len(function(*(net.values[place][:, None][0] for place in places)))
        return tuple(
            add(Affine(lambda z, i=i: function(z)[i], lambda z, i=i: function(z)[i], 0), places) for i in range(count)
        )
    return add(Affine(function, absolute, sum(numbers), dense=name in DENSE), places)


def _functions(name: str, target: Any, args: Any, kwargs: Any) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """An operation as a function of those operands that depend on the image, once as it is and once with the absolute
    values of the other operands."""
    target = torch.reshape if name in ("view", "_unsafe_view") else target
    has_factors = name in ("add", "addmm", "div", "mul", "rsub", "sub")  # its whole numbers are no shapes

    def size(a: Any) -> Any:
        if isinstance(a, _Place | bool):
            return a
        if isinstance(a, Tensor):
            return a.double().abs()  # of whole numbers too, whose least has no absolute value in its dtype
        return abs(a) if isinstance(a, float) or (has_factors and isinstance(a, int)) else a

    def filled(args: Any, kwargs: Any, z: tuple[Tensor, ...]) -> Any:
        rest = iter(z)
        return map_aggregate((args, kwargs), lambda a: next(rest) if isinstance(a, _Place) else a)

    def function(*z: Tensor) -> Any:
        own, named = filled(args, kwargs, z)
        return target(*own, **named)

    def absolute(*z: Tensor) -> Any:
        own, named = filled(*map_aggregate((args, kwargs), size), z)
        if name == "neg":
            return own[0]
        if name == "constant_pad_nd":
            return target(*own[:2], *map(abs, own[2:]))
        if name in ("sub", "rsub"):
            first, second = own[:2] if name == "sub" else own[1::-1]
            return first + second * (named.get("alpha", 1) if len(own) < 3 else own[2])
        return target(*own, **named)

    return function, absolute if name in SIGNED | {"cat", "constant_pad_nd", "stack"} else function


def _of_columns(function: Callable[..., Any], columns: list[bool]) -> Callable[..., Any]:
    """The function of operands some of which are columns."""
    return lambda *z: function(*(part[:, 0] if column else part for part, column in zip(z, columns, strict=True)))


def _is_softsign(node: fx.Node) -> bool:
    """z / (|z| + 1)"""
    aten, z = torch.ops.aten, node.args[0] if node.args else None
    if node.target != aten.div.Tensor or node.kwargs or not isinstance(node.args[1], fx.Node):
        return False
    more = node.args[1]
    size = more.args[0] if more.target == aten.add.Tensor and more.args[1] == 1 and not more.kwargs else None
    return isinstance(size, fx.Node) and size.target == aten.abs.default and size.args == (z,)


def _ends_with_softmax(node: fx.Node) -> bool:
    if node.target not in (torch.ops.aten._softmax.default, torch.ops.aten._log_softmax.default):
        return False
    return node.args[1] in (1, -1) and all(user.op == "output" for user in node.users)


def _norm(args: Any) -> Affine:
    """(z - mean) weight / sqrt(variance + eps) + bias, with stored statistics."""
    _, weight, bias, mean, variance = args[:5]
    factor = (variance + args[-1]).sqrt().reciprocal() * (1 if weight is None else weight)
    bias = torch.zeros_like(mean) if bias is None else bias

    def scaled(z: Tensor, middle: Tensor, factor: Tensor, bias: Tensor) -> Tensor:
        shape = (-1, *[1] * (z.ndim - 2))
        return (z - middle.view(shape)) * factor.view(shape) + bias.view(shape)

    return Affine(
        lambda z: scaled(z, mean, factor, bias),
        lambda z: scaled(z, -mean.abs(), factor.abs(), bias.abs()),
        3 * len(mean),
        terms=3,
    )


def _same(own: Any, double: Any) -> bool:
    if isinstance(own, Tensor):
        return torch.equal(own.double(), double.double())
    return all(map(_same, own, double)) if isinstance(own, tuple | list) else own == double


def _double(constant: Any) -> Any:
    return constant.double() if isinstance(constant, Tensor) and constant.is_floating_point() else constant
