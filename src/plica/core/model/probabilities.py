"""Models that return probabilities of classes are attacked as models of the logarithms, which are their logits again.

    log p_i - log p_j = f_i - f_j   for p = softmax(f)

The gradients of probabilities vanish where the model is sure, and their linear models lead far beyond the boundary. The
order of classes is the same for both. Least-squares fits to classes sum to one too, but are negative at some inputs.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

SUM = 1e-3  # largest difference from 1 of a sum of probabilities, in float32


class LogProbabilities(nn.Module):
    """The logarithms of a model's probabilities."""

    def __init__(self, model: Callable[[Tensor], Tensor]):
        super().__init__()
        self.model = model
        self.eval()

    def forward(self, x: Float[Tensor, "b *image"]) -> Float[Tensor, "b classes"]:
        return logarithm(self.model(x))


def logarithm(probabilities: Float[Tensor, "b classes"]) -> Float[Tensor, "b classes"]:
    """Logarithms, in float32 or float64; of 0, that of the smallest normal number, so that no derivative overflows."""
    wide = probabilities if probabilities.dtype == torch.float64 else probabilities.float()
    return wide.clamp(min=torch.finfo(probabilities.dtype).tiny).log()


def are_probabilities(output: Float[Tensor, "b *output"], eps: float = 0.0) -> bool:
    """Whether every row that is finite, and at least one, holds numbers from 0 on with the sum 1."""
    if output.ndim != 2 or output.shape[1] < 2:
        return False
    rows = output.detach().double()
    rows = rows[rows.isfinite().all(1)]
    return len(rows) > 0 and bool(((rows >= 0).all(1) & sum_to_one(rows, eps)).all())


def sum_to_one(output: Float[Tensor, "b classes"], eps: float) -> Bool[Tensor, " b"]:
    """Rows whose numbers have the sum 1, for outputs of this unit of rounding."""
    return (output.detach().double().sum(1) - 1).abs() < max(SUM, eps)
