"""A model as a graph, captured by torch.fx at the level of torch's own operations.

It is traced with one image, so that shapes are numbers and every Python branch is decided; a branch that depends on
pixel values is an error. Operations without bounds are refused with the path of their module.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from plica.certify.graph import Graph
from plica.certify.traced import build
from plica.core.domain.half import half_dtype
from plica.core.model.fitting import check_kind, fitted, unfitted
from plica.core.model.output import check_output
from plica.metrics import Unsupported
from plica.utils.messages import one_line

DYNAMO, READS = "dynamo-optimized function", "_local_scalar_dense"  # in messages of torch
AGREES = 1e-3  # of the largest logit, by which the captured network may differ from the model in float32

ALIKE = "lower bounds need a model that treats every image by itself and computes the same at every call"


@torch.no_grad()
def capture(model: Callable[[Tensor], Tensor], x: Float[Tensor, "b *image"]) -> Graph:
    """The network that the model computes in eval mode, for images like x, with constants in float64.

    Raises:
        ValueError: the model does not return logits.
        ModelError: it raises an error.
        Unsupported: an operation has no bounds, or the model cannot be captured or does not treat images independently.
    """
    model = _unwrapped(unfitted(model))
    _check_precision(model, x)
    check_output(fitted(model)(x[:1].clone()), x[:1])
    try:
        traced, compiled = _trace(model, x[:1]), False
    except _CompiledError:
        with _as_written():
            traced, compiled = _trace(model, x[:1]), True
    graph = replace(build(traced, x[:1].double()), compiled=compiled)
    _compare(graph, model, x[:16])
    return graph


def _as_written() -> AbstractContextManager[None]:
    """Within this context, what torch.compile made is traced as it was written; torch refuses to trace it otherwise."""
    dynamo = sys.modules.get("torch._dynamo")  # loaded where anything was compiled; it takes a second
    return nullcontext() if dynamo is None else dynamo.config.patch(error_on_nested_fx_trace=False)


class _CompiledError(Exception):
    """A part of the model is compiled, which cannot be traced as it is."""


def _unwrapped(model: Any) -> Any:
    """The network, or function, inside DataParallel and torch.compile; it computes the same."""
    while True:
        if isinstance(model, nn.DataParallel):
            model = model.module
        elif hasattr(model, "_orig_mod"):
            model = model._orig_mod
        elif not isinstance(model, nn.Module) and hasattr(model, "_torchdynamo_orig_callable"):
            model = model._torchdynamo_orig_callable
        else:
            return model


def runs_as_written(model: Any) -> bool:
    """Whether no part of the model is known to be compiled. A compiler may fuse operations, which are then rounded
    differently."""
    model = unfitted(model)
    return not any(
        hasattr(part, "_orig_mod") or hasattr(part, "_torchdynamo_orig_callable")
        or isinstance(part, torch.jit.ScriptModule | torch.jit.ScriptFunction)
        for part in (model.modules() if isinstance(model, nn.Module) else [model])
    )  # fmt: skip


def _check_precision(model: Any, x: Tensor) -> None:
    """Raises Unsupported where the images or the weights are in half precision."""
    tensors = [x, *model.parameters(), *model.buffers()] if isinstance(model, nn.Module) else [x]
    half = next((dtype for t in tensors if (dtype := half_dtype(t)) is not None), None)
    if half is not None:
        raise Unsupported(
            f"Lower bounds are of a network in real arithmetic, from which one in {half} differs by its rounding; "
            "write model.float() and x.float() for those of the same weights."
        )


def _trace(model: Callable[[Tensor], Tensor], x: Float[Tensor, "1 *image"]) -> fx.GraphModule:
    from torch.fx.experimental.proxy_tensor import make_fx  # takes seconds to import

    if isinstance(model, torch.jit.ScriptModule) and "mkldnn" in str(model.inlined_graph):
        raise Unsupported(
            "The model is TorchScript as torch.jit.optimize_for_inference leaves it, which cannot be traced; give it "
            "as it was before."
        )
    path: list[str] = []  # of the modules that are being run
    try:
        with _paths(model, path), _Rewritten():
            # functionalised: an operation in place becomes one that gives a new tensor
            # called with the image alone: make_fx would ask for arguments that have defaults, too
            return make_fx(torch.func.functionalize(lambda z: model(z)))(x.clone())
    except Exception as error:
        if DYNAMO in str(error):
            raise _CompiledError from error
        check_kind(model, x, error)
        place = f"The module {path[-1]}" if path else "The model"
        reason = "it reads the value of a tensor" if READS in str(error) else one_line(error, named=True)
        raise Unsupported(
            f"{place} cannot be captured as a fixed list of operations ({reason}); lower bounds need a network whose "
            "operations do not depend on the values of pixels, as where `if`, float() or .item() reads them."
        ) from error


class _Rewritten(TorchFunctionMode):
    """Within this context, circular padding joins slices of the tensor, since torch's own version writes into an
    uninitialised tensor; and a linear layer on several vectors per image becomes a convolution, since torch's own
    version joins the axes of images and vectors."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is functional.pad:
            z, pad, mode = _named(*args, **kwargs)
            if mode == "circular" and min(pad) >= 0:
                return _wrapped(z, pad)
        if func is functional.linear:
            z, weight, bias = _of_linear(*args, **kwargs)
            if z.ndim > 2:
                last = functional.conv1d(z.flatten(1, -2).transpose(1, 2), weight[:, :, None], bias)
                return last.transpose(1, 2).unflatten(1, z.shape[1:-1])
        return func(*args, **kwargs)


def _of_linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor | None]:
    """The arguments of `functional.linear`, by position or by name."""
    return input, weight, bias


def _named(input: Tensor, pad: Sequence[int], mode: str = "constant", value: Any = None) -> Any:
    """The arguments of `functional.pad`, by position or by name."""
    return input, pad, mode


def _wrapped(z: Tensor, pad: Sequence[int]) -> Tensor:
    """`pad` has two numbers for each axis, of the last one first."""
    for k, (before, behind) in enumerate(zip(pad[::2], pad[1::2], strict=True)):
        dim = z.ndim - 1 - k
        size = z.shape[dim]
        parts = ((size - before, before), (0, size), (0, behind))
        z = torch.cat([z.narrow(dim, start, length) for start, length in parts if length], dim)
    return z


@contextmanager
def _paths(model: Any, inside: list[str]) -> Iterator[None]:
    """Within this context, nodes of the graph that is traced are annotated with the path of the module that creates
    them; `inside` has the paths of the modules that are being run, and keeps them where one raises an error."""
    from torch.fx.experimental.proxy_tensor import get_proxy_mode

    def annotate(path: str) -> None:
        mode = get_proxy_mode()
        for node in mode.tracer.graph.nodes if mode is not None else ():
            node.meta.setdefault("path", path)

    def leave(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            annotate(path)
            inside.pop()

        return hook

    def enter(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any) -> None:
            annotate(path.rpartition(".")[0])
            inside.append(path)

        return hook

    hooks = []
    for path, module in model.named_modules() if isinstance(model, nn.Module) else ():
        if path and not isinstance(module, torch.jit.ScriptModule):  # TorchScript takes no such hooks
            hooks += [module.register_forward_pre_hook(enter(path)), module.register_forward_hook(leave(path))]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _compare(graph: Graph, model: Callable[[Tensor], Tensor], x: Float[Tensor, "b *image"]) -> None:
    """Raises Unsupported where the captured network gives other logits than the model, in its own precision and in
    float64."""
    ours, theirs = graph.forward(x.double())[-1], model(x)
    ours = ours if graph.softmax is None else graph.softmax(ours, 1)
    theirs = theirs[:, None] if theirs.ndim == 1 else theirs  # one logit
    if ours.shape != theirs.shape:
        raise Unsupported(
            f"The captured network gives logits of shape {tuple(ours.shape)}, the model {tuple(theirs.shape)}; {ALIKE}."
        )
    if _agree(ours, theirs):
        return
    finer = None if theirs.dtype == torch.float64 else _in_float64(model, x)
    if finer is not None and _agree(ours, finer.view_as(ours)):  # logits are small differences of large numbers
        return
    finite = theirs.isfinite().all(1)
    apart, largest = float((ours - theirs)[finite].abs().max()), float(theirs[finite].abs().amax())
    message = (
        f"Logits of the captured network differ from the model's by up to {apart:.3g}, and the largest logit is "
        f"{largest:.3g}; {ALIKE}."
    )
    if finer is None and theirs.dtype != torch.float64:
        message += (
            " Or roundings are that large, where logits are small differences of large numbers: the captured "
            "network is computed in float64, and model.double() with x.double() would then agree with it."
        )
    raise Unsupported(message)


def _agree(ours: Float[Tensor, "b classes"], theirs: Float[Tensor, "b classes"]) -> bool:
    """Whether the logits agree. Images with logits that are not finite are not compared: nothing is proved for them."""
    finite = theirs.isfinite().all(1)
    ours, theirs = ours[finite], theirs[finite]
    return not len(theirs) or bool(((ours - theirs).abs() <= AGREES * (1e-3 + theirs.abs().amax())).all())


def _in_float64(model: Callable[[Tensor], Tensor], x: Float[Tensor, "b *image"]) -> Tensor | None:
    """Logits of a copy of the model in float64; None where it does not run."""
    try:
        finer = copy.deepcopy(model).double() if isinstance(model, nn.Module) else model
        logits = finer(x.double())
    except Exception:  # a model may raise anything
        return None
    return logits if isinstance(logits, Tensor) and logits.dtype == torch.float64 else None
