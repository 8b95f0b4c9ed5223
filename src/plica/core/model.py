"""The model as attacks see it: every call padded (batching.py), and every image charged for the calls it causes."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import thread_time

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn

from plica.core.batching import MAX_CPU_ROWS, MIN_ROWS, MULTIPLE, VECTOR, BatchSizeTuner, detect_padding, round_up
from plica.core.gradient import gradient_errors, input_gradient
from plica.goals import flat

Model = Callable[[Tensor], Tensor]
ROUNDINGS = 64  # a margin below so many units of rounding of the largest output is not trusted


class CountedModel:
    """A model and the gradients (forward and backward) and forwards (alone) that each of b images has cost, padding
    rows not counted.

    Args:
        model: (r, *image) -> (r, ...).
        images: b.
        max_rows: rows of a call, at most; rounded down to a multiple of 8, at least 16.
        multiple: rows that calls are padded to a multiple of; None detects it at the first call.
        fixed: pixels that must not move: the gradient is 0 there, so that no search moves them.
    """

    def __init__(
        self,
        model: Model,
        images: int,
        max_rows: int = 128,
        multiple: int | None = None,
        fixed: Bool[Tensor, "*image"] | None = None,
    ):
        self.model, self.multiple, self.fixed = model, multiple, fixed
        self.max_rows = max(MIN_ROWS, max_rows // MULTIPLE * MULTIPLE)
        self.tuner = BatchSizeTuner()
        self.gradients = torch.zeros(images, dtype=torch.long)
        self.forwards = torch.zeros(images, dtype=torch.long)

    def padded(self, rows: int) -> int:
        """Rows of the call that computes so many."""
        return max(MIN_ROWS, round_up(rows, self.multiple or VECTOR))

    def fill(self, x: Shaped[Tensor, "r *_"]) -> Shaped[Tensor, "p *_"]:
        """x with padding rows appended, copies of its first."""
        short = self.padded(len(x)) - len(x)
        return torch.cat([x, x[:1].expand(short, *x.shape[1:])]) if short else x

    def parts(self, rows: int, device: torch.device) -> list[slice]:
        """So many rows cut into calls of about equal size, of which only the last may need padding."""
        limit = min(self.max_rows, self.tuner.size(min(rows, MAX_CPU_ROWS))) if device.type == "cpu" else self.max_rows
        multiple = max(MIN_ROWS, self.multiple or VECTOR)
        largest = max(multiple, limit // multiple * multiple)
        step = round_up(math.ceil(rows / math.ceil(rows / largest)), multiple)
        return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]

    @torch.no_grad()
    def logits(self, x: Float[Tensor, "r *image"], image: Int[Tensor, " r"]) -> Float[Tensor, "r *output"]:
        """What the model returns at x; image: index of the image that each row is charged to."""
        self.charge_forwards(image)
        parts = self.parts(len(x), x.device)
        return torch.cat([self._run(self.fill(x[p]).clone())[: p.stop - p.start].detach() for p in parts])

    def charge_forwards(self, image: Int[Tensor, " r"], runs: int = 1) -> None:
        """Add so many forward runs to the count of each of these images."""
        self.forwards.index_add_(0, image.cpu(), torch.full_like(image, runs, device="cpu"))

    def _run(self, x: Float[Tensor, "p *image"]) -> Float[Tensor, "p *output"]:
        if self.multiple is None:
            out, self.multiple = detect_padding(self.model, x)
        else:
            out = self.model(x)
        if not isinstance(out, Tensor) or out.ndim < 1 or len(out) != len(x) or not out.is_floating_point():
            seen = f"{out.dtype} of shape {tuple(out.shape)}" if isinstance(out, Tensor) else type(out).__name__
            raise ValueError(
                f"The model must return floating-point logits of shape (b, classes), or with a goal of shape (b, ...), "
                f"here b = {len(x)}, got {seen}; wrap it in a function that does."
            )
        return out

    def gradient(
        self, x: Float[Tensor, "p *image"], image: Int[Tensor, " r"], value: Callable[[Tensor, slice], Tensor]
    ) -> tuple[Float[Tensor, " r"], Float[Tensor, "r *output"], Float[Tensor, "r *image"]]:
        """value(logits of some rows, the slice of these rows) for all r rows, the logits, and the value's gradient with
        respect to x, 0 at fixed pixels.

        image: index of the image that each row is charged to. x may bring its own padding: rows past the r, `padded(r)`
        in all.

        Raises:
            NoGradientError: the model leaves autograd.
        """
        self.charge_forwards(image)  # until the gradient has come back
        results: list[tuple[Tensor, Tensor, Tensor]] = []
        for rows in self.parts(len(image), x.device):
            size, start = rows.stop - rows.start, thread_time()
            with torch.enable_grad(), gradient_errors():
                z = self.fill(x.detach()[rows.start : rows.start + self.padded(size)]).requires_grad_(True)
                logits = self._run(z.clone())[:size]  # a leaf must not be written to, and models do so: x.sub_(mean)
                values = value(logits, rows)
                grad = input_gradient(values.sum(), z)
            self.tuner.record(len(z), thread_time() - start)
            results.append((values.detach(), logits.detach(), grad[:size]))
        self.charge_forwards(image, -1)
        self.gradients.index_add_(0, image.cpu(), torch.ones_like(image, device="cpu"))
        values, logits, grads = results[0] if len(results) == 1 else map(torch.cat, zip(*results, strict=True))
        return values, logits, grads if self.fixed is None else grads.masked_fill(self.fixed, 0)


def rounding(logits: Float[Tensor, "r *output"]) -> Float[Tensor, " r"]:
    """How large a margin must be before it counts: what another order of summation, or float64, may change."""
    return ROUNDINGS * torch.finfo(logits.dtype).eps * flat(logits.abs()).amax(1)


@contextmanager
def eval_mode(model: Model) -> Iterator[None]:
    """Eval mode for a module and its submodules, each of whose modes is restored afterwards; nothing for functions."""
    modules = list(model.modules()) if isinstance(model, nn.Module) else []
    modes = [module.training for module in modules]
    for module in modules:
        module.training = False
    try:
        yield
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode


def in_float64(model: Model, x: Float[Tensor, "b *image"]) -> Model | None:
    """A copy of the model in float64, or None for a function, or a module that cannot be copied or run so.

    Costs one forward run, on the first image.
    """
    if not isinstance(model, nn.Module):
        return None
    try:
        copied = copy.deepcopy(model).double()
        with torch.no_grad():
            return copied if copied(x[:1].double()).dtype == torch.float64 else None
    except Exception:  # whatever a user's module raises: without float64 the margin must exceed the rounding alone
        return None
