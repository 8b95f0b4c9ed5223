"""A traced network as nodes: each of torch's operations by its entry of BUILDERS, or refused by its module."""

from __future__ import annotations

import operator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, fx
from torch.fx.node import map_aggregate, map_arg
from torch.nn import functional

from plica.certify import composed, operations, rearranged
from plica.certify.builder import Builder, Refused, Value
from plica.certify.graph import Graph
from plica.metrics import Unsupported

BUILDERS = operations.BUILDERS | rearranged.BUILDERS | composed.BUILDERS
NORMS = {"native_group_norm": "GroupNorm", "native_layer_norm": "LayerNorm"}
FILLED = {"zeros_like": 0, "new_zeros": 0, "ones_like": 1, "new_ones": 1}  # constants that take the kind of a value
INSTEAD = {  # of operations that stand for something else in the code of the model
    "index": "indexing by tensors and lists is not known; write slices, or torch.index_select",
    "fill": "a part of a tensor is assigned to; multiply by a mask, or put it together by torch.cat",
    "copy": "a part of a tensor is assigned to; put it together by torch.cat or torch.stack",
    "glu": "two values that depend on the image are multiplied",
}
ATTENTION = "_scaled_dot_product_"
SOFTMAX = {"_softmax": torch.softmax, "_log_softmax": torch.log_softmax}


def build(traced: fx.GraphModule, x: Float[Tensor, "1 *image"]) -> Graph:
    """A traced graph with one input, in float64.

    Raises:
        Unsupported: an operation has no bounds; the message names the module.
    """
    for node in traced.graph.nodes:
        _put_together(node)
        _make_constant(node)
    traced.graph.eliminate_dead_code()
    builder, known, stored = Builder(x), dict[fx.Node, Any](), dict[fx.Node, Any]()  # stored: as the model has them
    for node in traced.graph.nodes:
        if node.op == "placeholder":
            known[node] = Value(0)
        elif node.op == "get_attr":
            stored[node] = getattr(traced, str(node.target)).detach()
            known[node] = _double(stored[node])
        elif node.op == "output":
            (output,) = node.args
            return _up_to(builder, known.get(output) if isinstance(output, fx.Node) else None)
        else:
            args, kwargs = map_arg((node.args, node.kwargs), known.__getitem__)
            known[node] = value = _apply(builder, node, args, dict(kwargs))
            if isinstance(value, Value) and node.meta["val"].ndim == 1:
                builder.columns.add(value)
            if all(parent in stored for parent in node.all_input_nodes):
                args, kwargs = map_arg((node.args, node.kwargs), stored.__getitem__)
                target: Any = node.target
                stored[node] = target(*args, **kwargs)
                builder.rounds_constants |= not _equal(known[node], map_aggregate(stored[node], _double))
    raise Unsupported("The model has no output.")


def _put_together(node: fx.Node) -> None:
    """z / (1 + |z|), as torch writes Softsign, as one operation."""
    if node.target is not torch.ops.aten.div.Tensor or not isinstance(below := node.args[1], fx.Node):
        return
    if below.target is not torch.ops.aten.add.Tensor or below.args[1:] != (1,) or below.kwargs:
        return
    size = below.args[0]
    if isinstance(size, fx.Node) and size.target is torch.ops.aten.abs.default and size.args[0] is node.args[0]:
        node.target, node.args = functional.softsign, size.args


def _make_constant(node: fx.Node) -> None:
    """zeros_like(z) and others, which depend on the shape of z alone."""
    target: Any = node.target
    number = FILLED.get(getattr(getattr(target, "overloadpacket", None), "__name__", ""))
    if number is not None:
        kind = node.meta["tensor_meta"]
        node.target, node.args = torch.ops.aten.full.default, (list(kind.shape), number)
        node.kwargs = {"dtype": kind.dtype, "device": node.meta["val"].device}


def _up_to(builder: Builder, output: Any) -> Graph:
    if not isinstance(output, Value) or len(builder.shape(output)) != 2:
        raise Unsupported("Lower bounds need a model that returns logits (b, classes), which depend on the image.")
    nodes = tuple(builder.nodes[: output + 1])
    return Graph(nodes, rounds_constants=builder.rounds_constants, softmax=builder.softmax)


def _apply(builder: Builder, node: fx.Node, args: Any, kwargs: dict[str, Any]) -> Any:
    flat: list[Any] = []
    map_aggregate((args, kwargs), lambda a: flat.append(a))
    target: Any = node.target
    if not any(isinstance(a, Value) for a in flat):
        if torch.Tag.nondeterministic_seeded in getattr(target, "tags", ()):
            _refuse(node, "it draws random numbers")
        return map_aggregate(target(*args, **kwargs), _double)
    if target is operator.getitem:
        return args[0][args[1]] if isinstance(args[0], tuple | list) else _refuse(node, "it is no tensor")
    name = getattr(getattr(target, "overloadpacket", target), "__name__", str(target))
    if name in SOFTMAX:
        z, dim, *_ = args
        if builder.ndim(z) != 2 or dim not in (1, -1) or any(user.op != "output" for user in node.users):
            _refuse(node, "softmax has bounds only as the last operation, over classes")
        builder.softmax = SOFTMAX[name]
        return z
    if name in NORMS:
        _refuse(node, f"{NORMS[name]} divides by statistics of the image itself; use BatchNorm, whose are stored")
    if name.startswith(ATTENTION):
        _refuse(node, "attention multiplies values that depend on the image")
    if name not in BUILDERS:
        _refuse(node, INSTEAD.get(name, f"{name} has no lower bounds"))
    try:
        return BUILDERS[name](builder, *args, **kwargs)
    except Refused as reason:
        _refuse(node, f"{name}: {reason}")


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    return all(map(_equal, a, b)) if isinstance(a, tuple | list) else a == b


def _double(constant: Any) -> Any:
    return constant.double() if isinstance(constant, Tensor) and constant.is_floating_point() else constant


def _refuse(node: fx.Node, reason: str) -> Any:
    path = node.meta.get("path")
    place = f"the module {path}" if path else "the model itself"
    raise Unsupported(
        f"Lower bounds do not go through {place}: {reason}. The page 'Attacked, certified, exact' of the documentation "
        "lists the operations that have them, such as convolutions and ReLU; for other networks ask an attack alone."
    )
