"""Shared by all checks: a few labelled images, the model's logits there, margins and their gradients.

It uses torch only, because code that checks the attacks must not share their code. Models are called on at most
`CALL` rows at a time.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from plica.core.model.randomness import seeded

CALL = 32  # rows of one call


class Unit(nn.Module):
    """A model of pixels in [low, high] as one of u in [0, 1], x = low + (high - low) u: checks use one box."""

    low: Tensor
    span: Tensor

    def __init__(self, model: Callable[[Tensor], Tensor], low: Tensor, high: Tensor):
        super().__init__()
        self.model = model
        self.register_buffer("low", low)
        self.register_buffer("span", high - low)

    def forward(self, u: Tensor) -> Tensor:
        return self.model(self.low + self.span * u)


class OneLogit(nn.Module):
    """A model that gives one logit f for each image, (b,) or (b, 1), as one of two classes with the logits 0 and f."""

    def __init__(self, model: Callable[[Tensor], Tensor]):
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        logit = self.model(x).reshape(-1, 1)
        return torch.cat([torch.zeros_like(logit), logit], 1)


class FixedDraw(nn.Module):
    """A model whose random outputs use the same random numbers at each call, so that derivatives exist."""

    def __init__(self, model: Callable[[Tensor], Tensor]):
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        with seeded(0, x.device):
            return self.model(x)


@dataclass(frozen=True)
class Probe:
    """A model in eval mode and the images it is examined on.  x (b, *image) in [0, 1], y (b,).

    `logits` are those at x; `right`: which of the images the model classifies correctly. `spec`: the model as the
    command line has it.
    """

    model: Callable[[Tensor], Tensor]
    x: Float[Tensor, "b *image"]
    y: Int[Tensor, " b"]
    logits: Float[Tensor, "b classes"]
    seed: int
    spec: str = "net.py:make"

    @property
    def right(self) -> Bool[Tensor, " b"]:
        return self.logits.argmax(1) == self.y

    def first(self, images: int) -> Probe:
        """The probe of the first images."""
        return replace(self, x=self.x[:images], y=self.y[:images], logits=self.logits[:images])

    def generator(self, stream: int) -> torch.Generator:
        """Random numbers of one check, independent of what other checks drew."""
        return torch.Generator().manual_seed(1000003 * self.seed + stream)

    def noise(self, x: Tensor, stream: int) -> Tensor:
        """Standard normal noise, of the shape, dtype and device of x."""
        return torch.randn(x.shape, generator=self.generator(stream), dtype=torch.float32).to(x)


@torch.no_grad()
def logits_of(model: Callable[[Tensor], Tensor], x: Float[Tensor, "b *image"]) -> Tensor:
    """The output at x, (b, classes) of a valid model; in calls of at most CALL rows, without gradient."""
    return torch.cat([model(part).detach() for part in x.split(CALL)])


def lead(logits: Tensor, y: Tensor, target: Tensor | None = None) -> Tensor:
    """max_{i != y} f_i - f_y, or f_target - f_y, in logits; > 0 where misclassified.  (b,)"""
    label_logit = logits.gather(1, y[:, None])[:, 0]
    if target is not None:
        return logits.gather(1, target[:, None])[:, 0] - label_logit
    return logits.masked_fill(nn.functional.one_hot(y, logits.shape[1]).bool(), -torch.inf).amax(1) - label_logit


def slope(
    model: Callable[[Tensor], Tensor],
    x: Float[Tensor, "b *image"],
    y: Int[Tensor, " b"],
    target: Int[Tensor, " b"] | None = None,
) -> tuple[Float[Tensor, " b"], Float[Tensor, "b *image"]] | None:
    """`lead` at x and its gradient; None if autograd finds no path from the output to the input."""
    leads, grads = [], []
    for first in range(0, len(x), CALL):
        rows = slice(first, first + CALL)
        with torch.enable_grad():
            z = x[rows].detach().clone().requires_grad_(True)
            value = lead(model(z), y[rows], None if target is None else target[rows])
            if not value.requires_grad:
                return None
            (grad,) = torch.autograd.grad(value.sum(), z, allow_unused=True)
        if grad is None:
            return None
        leads.append(value.detach())
        grads.append(grad.nan_to_num(0, 0, 0))
    return torch.cat(leads), torch.cat(grads)


def doubled(model: Callable[[Tensor], Tensor], x: Tensor) -> Callable[[Tensor], Tensor] | None:
    """A copy of a module in float64; None if it cannot be copied or does not run in float64."""
    if not isinstance(model, nn.Module):
        return None
    try:
        fine = copy.deepcopy(model).double()
        with torch.no_grad():
            return fine if fine(x[:1].double()).dtype == torch.float64 else None
    except Exception:  # a module may raise anything; then its own precision is used
        return None


class _Dtypes(TorchDispatchMode):
    """Collects the floating-point dtypes of the results of layers."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[torch.dtype] = set()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Hiding this class from torch.compile would import it, for a second, at the first call of a process."""
        return False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor) and out.is_floating_point():
            self.found.add(out.dtype)
        return out


@torch.no_grad()
def half_precision(model: Callable[[Tensor], Tensor], x: Tensor) -> torch.dtype | None:
    """The half precision in which the model, or one of its layers, computes; None if it uses none."""
    with _Dtypes() as dtypes:
        model(x[:1])
    halves = [d for d in dtypes.found if torch.finfo(d).bits < 32]
    return max(halves, key=lambda dtype: torch.finfo(dtype).eps, default=None)


def rows(t: Tensor, x: Tensor) -> Tensor:
    """One number per image, shaped to multiply images."""
    return t.view(-1, *[1] * (x.ndim - 1))
