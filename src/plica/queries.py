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
FASTEST = 256  # rows of a call on a CPU: more bring nothing, and may no longer fit its cache
ROUNDINGS = 64  # a margin below so many units of rounding of the largest logit is not trusted


class Queries:
    """A model asked about b images; counts gradients (forward and backward) and forwards (alone) per image, without
    padding rows."""

    def __init__(self, model: Callable[[Tensor], Tensor], images: int, most: int = 128):
        self.model = model
        self.most = max(PAD, most // PAD * PAD)
        self.gradients = torch.zeros(images, dtype=torch.long)
        self.forwards = torch.zeros(images, dtype=torch.long)

    def parts(self, rows: int, device: torch.device) -> list[slice]:
        """So many rows cut into calls of about equal size, each but the last a multiple of PAD."""
        most = min(self.most, FASTEST) if device.type == "cpu" else self.most
        pads = -(-rows // PAD)
        step = -(-pads // -(-pads * PAD // most)) * PAD
        return [slice(at, min(at + step, rows)) for at in range(0, rows, step)]

    @torch.no_grad()
    def logits(self, x: Float[Tensor, "r *image"], image: Int[Tensor, " r"]) -> Float[Tensor, "r classes"]:
        """The model's logits at x; image (r,) tells on whose account."""
        self.charge_forwards(image)
        parts = self.parts(len(x), x.device)
        return torch.cat([self._run(_padded(x[p]).clone())[: p.stop - p.start].detach() for p in parts])

    def charge_forwards(self, image: Int[Tensor, " r"], runs: int = 1) -> None:
        """Put so many forward runs on the accounts of these images."""
        self.forwards.index_add_(0, image.cpu(), torch.full_like(image, runs, device="cpu"))

    def _run(self, x: Float[Tensor, "p *image"]) -> Float[Tensor, "p classes"]:
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

        x may bring its own padding: rows past the r that are asked for, up to a multiple of PAD.
        """
        self.gradients.index_add_(0, image.cpu(), torch.ones_like(image, device="cpu"))
        told = []
        for rows in self.parts(len(image), x.device):
            size = rows.stop - rows.start
            with torch.enable_grad():
                z = _padded(x.detach()[rows.start : rows.start + -(-size // PAD) * PAD]).requires_grad_(True)
                logits = self._run(z)[:size]
                values = value(logits, rows)
                (grad,) = torch.autograd.grad(values.sum(), z)
            told.append((values.detach(), logits.detach(), grad[:size]))
        values, logits, grads = told[0] if len(told) == 1 else (torch.cat(t) for t in zip(*told, strict=True))
        return values, logits, grads


def _padded(x: Tensor) -> Tensor:
    short = -len(x) % PAD
    return torch.cat([x, x[:1].expand(short, *x.shape[1:])]) if short else x


def rounding(logits: Float[Tensor, "r classes"]) -> Float[Tensor, " r"]:
    """How large a margin must be before it counts: what another order of summation, or float64, may change."""
    return ROUNDINGS * torch.finfo(logits.dtype).eps * logits.abs().amax(1)
