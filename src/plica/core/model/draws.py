"""Models with random outputs: the mean over a few draws is attacked, and the judge counts fresh ones.

    mean(z) = log (1 / n) sum_k softmax(f(z, w_k)),   w_1 ... w_n drawn from (seed, image), the same at every point z

With fixed draws (a sample average approximation) the mean is an ordinary differentiable function, which can be attacked
like any model. The points found suit these draws better than others, so the judge uses fresh draws.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from plica.core.model.probabilities import are_probabilities, logarithm
from plica.core.model.randomness import Randomness, seed_of, seeded

JUDGED = 100  # fresh draws that the judge takes
MOST = 10_000  # largest number of draws
CALL = 64  # most rows of a call


class MeanOfDraws(nn.Module):
    """A deterministic model made from one with random outputs, for one image: the mean of its outputs over fixed draws.

    Every point is run in a separate call, so that its draws do not depend on other points.

    Args:
        model: the model.
        draws: number of draws in the mean.
        randomness: how the model draws.
        seed: determines all draws, together with the image.
        x: the image, (1, *image).
        classes: whether the output is logits of classes. Then probabilities are averaged, else the outputs.

    Attributes:
        runs: runs of the model by `fresh` and `others`; those of the mean are not included.
        probabilities: whether the outputs are probabilities of classes, as at the first point; None before it.
    """

    def __init__(
        self,
        model: Callable[[Tensor], Tensor],
        draws: int,
        randomness: Randomness,
        seed: int,
        x: Float[Tensor, "1 *image"],
        classes: bool,
    ):
        super().__init__()
        self.model, self.draws, self.randomness, self.classes = model, draws, randomness, classes
        self.seed, self.x = seed, x
        self.own, self.runs, self.judgements = seed_of(seed, x[0], "search"), 0, 0
        self.probabilities: bool | None = None

    def of(self, model: Callable[[Tensor], Tensor]) -> MeanOfDraws:
        """The mean of another form of the model, with `runs` = 0. Its first fresh draws are the last ones made here, so
        that a point which passed with them is judged with the same draws in the other form."""
        other = MeanOfDraws(model, self.draws, self.randomness, self.seed, self.x, self.classes)
        other.judgements, other.probabilities = max(0, self.judgements - 1), self.probabilities
        return other

    def forward(self, z: Float[Tensor, "r *image"]) -> Float[Tensor, "r *output"]:
        return torch.cat([self._mean(self._outputs(point, self.draws, self.own)) for point in z.split(1)])

    def drawn_once(self, z: Float[Tensor, "r *image"]) -> Float[Tensor, "r *output"]:
        """The outputs for a single draw per row."""
        with seeded(self.own, z.device):
            return self.model(z)

    @torch.no_grad()
    def others(self, z: Float[Tensor, "1 *image"]) -> Float[Tensor, "draws *output"]:
        """The outputs for JUDGED draws that no search uses, the same at every point."""
        self.runs += JUDGED
        return self._outputs(z, JUDGED, seed_of(self.seed, self.x[0], "others"))

    @torch.no_grad()
    def fresh(self, z: Float[Tensor, "1 *image"]) -> Float[Tensor, "draws *output"]:
        """The outputs for JUDGED new draws at every call."""
        self.runs, self.judgements = self.runs + JUDGED, self.judgements + 1
        return self._outputs(z, JUDGED, seed_of(self.seed, self.x[0], f"judge {self.judgements}"))

    def _outputs(self, z: Float[Tensor, "1 *image"], draws: int, seed: int) -> Float[Tensor, "draws *output"]:
        with seeded(seed, z.device):
            rows = CALL if self.randomness.by_row else 1
            sizes = [min(rows, draws - start) for start in range(0, draws, rows)]
            return torch.cat([self.model(z.repeat(size, *[1] * (z.ndim - 1))) for size in sizes]).to(z.dtype)

    def _mean(self, outputs: Float[Tensor, "draws *output"]) -> Float[Tensor, "1 *output"]:
        if not self.classes:
            return outputs.mean(0, keepdim=True)
        if outputs[0].numel() > 1:
            if self.probabilities is None:
                self.probabilities = are_probabilities(outputs)
            logs = logarithm(outputs) if self.probabilities else outputs.log_softmax(1)
            return logs.logsumexp(0, keepdim=True) - np.log(len(outputs))
        one, zero = (logsigmoid(sign * outputs).logsumexp(0, keepdim=True) for sign in (1, -1))
        return one - zero
