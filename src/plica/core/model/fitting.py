"""Lets a model that accepts only one batch size, and raises for others, take any number of images."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from plica.solver.accelerator import is_accelerator
from plica.utils.limits import out_of_memory
from plica.utils.messages import one_line

Model = Callable[[Tensor], Tensor]
# Batch sizes that are tried after the model refused one: powers of two first, the most common ones.
SIZES = (*(2**k for k in range(7)), *(s for s in range(3, 64) if s & (s - 1)), 96, 100, 128, 200, 250, 256)


class ModelError(RuntimeError):
    """The model raised an error, which is the cause of this one."""


def fitted(model: Model) -> Model:
    """The model, made to take any number of images: if it refuses a batch, it is run with the one batch size that it
    accepts. The result is a module if the model is one."""
    fit = _Fit()
    if isinstance(model, FittedModule) or getattr(model, "fitted", False):
        return model
    if isinstance(model, nn.Module):
        return FittedModule(model, fit)

    def function(x: Tensor) -> Any:
        return fit(model, x)

    function.fitted, function.net = True, model  # type: ignore[attr-defined]
    return function


def unfitted(model: Model) -> Model:
    """The model that `fitted` was given. Graphs must be captured from it, since what `fitted` adds depends on the
    values of pixels."""
    return getattr(model, "net", model) if isinstance(model, FittedModule) or getattr(model, "fitted", False) else model


class FittedModule(nn.Module):
    """`fitted` of a module."""

    def __init__(self, net: nn.Module, fit: _Fit):
        super().__init__()
        self.net, self.fit = net, fit
        self.training = getattr(net, "training", False)  # frozen TorchScript has no such attribute

    def forward(self, x: Tensor) -> Any:
        return self.fit(self.net, x)


class _Fit:
    """Runs a model, and searches for its batch size when it first refuses a batch.

    Attributes:
        size: the only batch size that the model accepts; None as long as it has refused none.
        searched: whether the size was searched for.
        writes: whether the model writes to its input, and so gets a copy; None before the first call, which gets one.
    """

    def __init__(self) -> None:
        self.size: int | None = None
        self.searched = False
        self.writes: bool | None = None

    def __call__(self, model: Model, x: Tensor) -> Any:
        if is_accelerator(x.device):  # nan ends no process there, and reading a value of x would wait for the device
            out = self._checked(model, x)
            if not isinstance(out, Tensor) or not out.is_floating_point() or len(out) != len(x):
                return out
            size = torch.linalg.vector_norm(x.detach().flatten(1), torch.inf, dim=1).to(out.dtype)
            # 0 times the size is nan where x is not finite
            return torch.add(out, size.view(-1, *[1] * (out.ndim - 1)), alpha=0)
        # if a number is not finite, neither is the sum, which is cheaper than a test of each
        if math.isfinite(x.detach().sum().item()):
            return self._checked(model, x)
        finite = x.isfinite().flatten(1).all(1)
        # nan ends the process in some kernels, so the model does not get to see it
        out = self._checked(model, torch.where(finite.view(-1, *[1] * (x.ndim - 1)), x, 0))
        if not isinstance(out, Tensor) or len(out) != len(x):
            return out
        return out.masked_fill(~finite.view(-1, *[1] * (out.ndim - 1)), torch.nan)

    def _checked(self, model: Model, x: Tensor) -> Any:
        out = self._run(model, x)
        # tensors made under torch.inference_mode cannot be written to outside of it
        return out.clone() if isinstance(out, Tensor) and out.is_inference() else out

    def _run(self, model: Model, x: Tensor) -> Any:
        safe = partial(self._without_writing, model)
        if self.size is not None:
            return _in_pieces(safe, x, self.size)
        try:
            return safe(x)
        except Exception as error:
            if out_of_memory(error):
                raise
            out = None if self.searched else self._search(model, safe, x, error)
            if out is None:
                raise ModelError(
                    f"The model raised {one_line(error, named=True)} for {len(x)} images of shape {tuple(x.shape[1:])}"
                    f"{channels_hint(x)}."
                ) from error
            return out

    def _without_writing(self, model: Model, x: Tensor) -> Any:
        """The output for x, which the model does not change."""
        if self.writes is False:
            return model(x)
        copy = x.clone()
        out = model(copy)
        if self.writes is None:
            self.writes = not torch.equal(copy.detach(), x.detach())
        return out

    def _search(self, model: Model, safe: Model, x: Tensor, error: Exception) -> Tensor | None:
        """The output for x in batches of a size that the model accepts; None if the batch size is not the reason for
        its error. safe: the model, called so that it cannot change x.

        Raises:
            ValueError: the model's precision or device is not that of x.
        """
        self.searched = True
        check_kind(model, x, error)
        size = next((size for size in SIZES if size != len(x) and _takes(safe, _filled(x[:size], size))), None)
        if size is None or _takes(safe, x):
            return None
        try:
            out = _in_pieces(safe, x, size)
        except Exception:  # the error is about one of the images
            return None
        warnings.warn(
            f"The model takes no batch of {len(x)} images, only others; it is run with {size} at a time, which may be "
            "slow.",
            stacklevel=2,
        )
        self.size = size
        return out


def channels_hint(x: Tensor) -> str:
    """The end of a sentence about images that a model refused: what to do if their channels are the last axis."""
    if x.ndim != 4 or x.shape[3] not in (1, 3, 4) or x.shape[1] in (1, 3, 4):
        return ""
    return (
        "; PyTorch takes images (channels, height, width), and these look like (height, width, channels): write "
        "x.permute(0, 3, 1, 2), in numpy x.transpose(0, 3, 1, 2)"
    )


def _in_pieces(model: Model, x: Tensor, size: int) -> Tensor:
    return torch.cat([model(_filled(part, size))[: len(part)] for part in x.split(size)])


def _filled(x: Tensor, size: int) -> Tensor:
    """x with copies of its first image, `size` images in all."""
    return torch.cat([x, x[:1].expand(size - len(x), *x.shape[1:])]) if len(x) < size else x


def _takes(model: Model, x: Tensor) -> bool:
    try:
        out = model(x)
        return isinstance(out, Tensor) and out.ndim > 0 and len(out) == len(x)
    except Exception:  # any error answers the question
        return False


@contextmanager
def kind_errors(model: Model, x: Tensor) -> Iterator[None]:
    """An error of the model that is due to the precision or device of x becomes a ValueError that says so."""
    try:
        yield
    except Exception as error:
        check_kind(model, x, error)
        raise


def check_kind(model: Model, x: Tensor, error: Exception) -> None:
    """Raises ValueError if the model raised `error` because its parameters differ from x in precision or device."""
    tensors = [*model.parameters(), *model.buffers()] if isinstance(model, nn.Module) else []
    if any(t.is_meta for t in tensors):
        raise ValueError(
            "The model has weights without numbers, on the device meta; make it on cpu, or write model.to_empty("
            "device='cpu') and load its weights then."
        ) from error
    own = next((t for t in tensors if t.is_floating_point()), None)
    if own is None or (own.dtype == x.dtype and own.device == x.device):
        return
    if own.device != x.device:
        raise ValueError(
            f"The model is on {own.device} and x on {x.device}; write x.to({str(own.device)!r}), or "
            f"model.to({str(x.device)!r})."
        ) from error
    if _takes(model, x[:1].to(own.dtype)) and not _takes(model, x[:1]):
        raise ValueError(
            f"The model's parameters are {own.dtype} and x is {x.dtype}; write x.to({own.dtype}) to ask it in its own "
            f"precision, or model.to({x.dtype})."
        ) from error
