"""The model as attacks see it: every call padded to a fixed multiple of rows, every image's cost counted.

Kernels choose their order of summation by the size of the batch, and nonsmooth searches amplify the last bit. Padding
each call to a multiple of 16 makes a row's logits and gradient independent of its company (measured; see
docs/design/pwcf.md).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

PAD = 16
ROUNDINGS = 64  # a margin below so many units of rounding of the largest logit is not trusted


class Queries:
    """A model asked about b images; counts gradients (forward and backward) and forwards (alone) per image, without
    padding rows."""

    def __init__(self, model: Callable[[Tensor], Tensor], images: int, most: int = 128):
        self.model = model
        self.most = max(PAD, most // PAD * PAD)
        self.gradients = torch.zeros(images, dtype=torch.long)
        self.forwards = torch.zeros(images, dtype=torch.long)

    @torch.no_grad()
    def logits(self, x: Float[Tensor, "r *image"], image: Int[Tensor, " r"]) -> Float[Tensor, "r classes"]:
        """The model's logits at x; image (r,) tells on whose account."""
        self.forwards.index_add_(0, image.cpu(), torch.ones_like(image, device="cpu"))
        return torch.cat([self.model(_padded(part))[: len(part)].detach() for part in x.split(self.most)])

    def gradient(
        self, x: Float[Tensor, "r *image"], image: Int[Tensor, " r"], value: Callable[[Tensor, slice], Tensor]
    ) -> tuple[Float[Tensor, " r"], Float[Tensor, "r classes"], Float[Tensor, "r *image"]]:
        """value(logits of rows, rows) (r,), the logits, and the gradient of the value with respect to x."""
        self.gradients.index_add_(0, image.cpu(), torch.ones_like(image, device="cpu"))
        parts = []
        for start in range(0, len(x), self.most):
            rows = slice(start, min(start + self.most, len(x)))
            with torch.enable_grad():
                z = _padded(x[rows].detach()).requires_grad_(True)
                logits = self.model(z)[: rows.stop - start]
                values = value(logits, rows)
                (grad,) = torch.autograd.grad(values.sum(), z)
            parts.append((values.detach(), logits.detach(), grad[: rows.stop - start]))
        values, logits, grads = zip(*parts, strict=True)
        return (
            (values[0], logits[0], grads[0])
            if len(parts) == 1
            else (torch.cat(values), torch.cat(logits), torch.cat(grads))
        )


def _padded(x: Tensor) -> Tensor:
    short = -len(x) % PAD
    return torch.cat([x, x[:1].expand(short, *x.shape[1:])]) if short else x.clone()


def rounding(logits: Float[Tensor, "r classes"]) -> Float[Tensor, " r"]:
    """How large a margin must be before it counts: what another order of summation, or float64, may change."""
    return ROUNDINGS * torch.finfo(logits.dtype).eps * logits.abs().amax(1)
