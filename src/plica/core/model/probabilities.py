"""Models that return probabilities of classes are attacked as models of the logarithms, which are their logits again.

    log p_i - log p_j = f_i - f_j   for p = softmax(f)

The gradients of probabilities vanish where the model is sure, and their linear models lead far beyond the boundary. The
order of classes is the same for both.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

SUM = 1e-3  # largest difference from 1 of a sum of probabilities


class LogProbabilities(nn.Module):
    """The logarithms of a model's probabilities."""

    def __init__(self, model: Callable[[Tensor], Tensor]):
        super().__init__()
        self.model = model
        self.eval()

    def forward(self, x: Float[Tensor, "b *image"]) -> Float[Tensor, "b classes"]:
        return logarithm(self.model(x))


def logarithm(probabilities: Float[Tensor, "b classes"]) -> Float[Tensor, "b classes"]:
    """Logarithms, of 0 that of the smallest normal number."""
    return probabilities.clamp(min=torch.finfo(probabilities.dtype).tiny).log()


def are_probabilities(output: Float[Tensor, "b *output"]) -> bool:
    """Whether every row that is finite, and at least one, holds numbers from 0 on with the sum 1."""
    if output.ndim != 2 or output.shape[1] < 2:
        return False
    rows = output.detach().double()
    rows = rows[rows.isfinite().all(1)]
    return len(rows) > 0 and bool(((rows >= 0).all(1) & ((rows.sum(1) - 1).abs() < SUM)).all())
