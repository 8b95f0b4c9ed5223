"""The model as attacks see it: every call padded, so that no row depends on its company, and every image's cost
counted."""

from __future__ import annotations

import math
from collections.abc import Callable
from time import thread_time

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from plica.core.batching import FASTEST, LEAST, MULTIPLE, VECTOR, BatchSizeTuner, up, watched

ROUNDINGS = 64  # a margin below so many units of rounding of the largest logit is not trusted


class CountedModel:
    """A model asked about b images; counts gradients (forward and backward) and forwards (alone) per image, without
    padding rows.

    most: rows of a call, at most. multiple: rows that calls are padded to a multiple of; seen at the first call where
    it is not given.
    """

    def __init__(self, model: Callable[[Tensor], Tensor], images: int, most: int = 128, multiple: int | None = None):
        self.model = model
        self.most = max(LEAST, most // MULTIPLE * MULTIPLE)
        self.multiple = multiple
        self.pace = BatchSizeTuner()
        self.gradients = torch.zeros(images, dtype=torch.long)
        self.forwards = torch.zeros(images, dtype=torch.long)

    def padded(self, rows: int) -> int:
        """Rows of the call that asks about so many."""
        return max(LEAST, up(rows, self.multiple or VECTOR))

    def fill(self, x: Shaped[Tensor, "r *_"]) -> Shaped[Tensor, "p *_"]:
        """x with padding rows behind, which repeat its first."""
        short = self.padded(len(x)) - len(x)
        return torch.cat([x, x[:1].expand(short, *x.shape[1:])]) if short else x

    def parts(self, rows: int, device: torch.device) -> list[slice]:
        """So many rows cut into calls of about equal size, of which the last alone may need padding."""
        most = min(self.most, self.pace.size(min(rows, FASTEST))) if device.type == "cpu" else self.most
        multiple = max(LEAST, self.multiple or VECTOR)
        largest = max(multiple, most // multiple * multiple)
        step = up(math.ceil(rows / math.ceil(rows / largest)), multiple)
        return [slice(at, min(at + step, rows)) for at in range(0, rows, step)]

    @torch.no_grad()
    def logits(self, x: Float[Tensor, "r *image"], image: Int[Tensor, " r"]) -> Float[Tensor, "r classes"]:
        """The model's logits at x; image (r,) tells on whose account."""
        self.charge_forwards(image)
        parts = self.parts(len(x), x.device)
        return torch.cat([self._run(self.fill(x[p]).clone())[: p.stop - p.start].detach() for p in parts])

    def charge_forwards(self, image: Int[Tensor, " r"], runs: int = 1) -> None:
        """Put so many forward runs on the accounts of these images."""
        self.forwards.index_add_(0, image.cpu(), torch.full_like(image, runs, device="cpu"))

    def _run(self, x: Float[Tensor, "p *image"]) -> Float[Tensor, "p classes"]:
        if self.multiple is None:
            out, self.multiple = watched(self.model, x)
        else:
            out = self.model(x)
        if not isinstance(out, Tensor) or out.ndim != 2 or len(out) != len(x) or not out.is_floating_point():
            seen = f"{out.dtype} of shape {tuple(out.shape)}" if isinstance(out, Tensor) else type(out).__name__
            raise ValueError(
                f"The model must return floating-point logits of shape (b, classes), here b = {len(x)}, got {seen}; "
                "wrap it in a function that does."
            )
        return out

    def gradient(
        self, x: Float[Tensor, "p *image"], image: Int[Tensor, " r"], value: Callable[[Tensor, slice], Tensor]
    ) -> tuple[Float[Tensor, " r"], Float[Tensor, "r classes"], Float[Tensor, "r *image"]]:
        """value(logits of rows, rows) (r,), the logits, and the gradient of the value with respect to x.

        x may bring its own padding: rows past the r that are asked for, `padded(r)` in all.
        """
        self.gradients.index_add_(0, image.cpu(), torch.ones_like(image, device="cpu"))
        told = []
        for rows in self.parts(len(image), x.device):
            size, began = rows.stop - rows.start, thread_time()
            with torch.enable_grad():
                z = self.fill(x.detach()[rows.start : rows.start + self.padded(size)]).requires_grad_(True)
                logits = self._run(z)[:size]
                values = value(logits, rows)
                (grad,) = torch.autograd.grad(values.sum(), z)
            self.pace.note(len(z), thread_time() - began)
            told.append((values.detach(), logits.detach(), grad[:size]))
        values, logits, grads = told[0] if len(told) == 1 else (torch.cat(t) for t in zip(*told, strict=True))
        return values, logits, grads


def rounding(logits: Float[Tensor, "r classes"]) -> Float[Tensor, " r"]:
    """How large a margin must be before it counts: what another order of summation, or float64, may change."""
    return ROUNDINGS * torch.finfo(logits.dtype).eps * logits.abs().amax(1)
