"""A second run of a model in another arithmetic, which has to confirm the result of the first run."""

from __future__ import annotations

import copy

import torch
from jaxtyping import Float
from torch import Tensor, nn

from plica.core.model.counted import CountedModel, Model
from plica.core.model.precision import without_tf32
from plica.utils.limits import out_of_memory


class SecondRun:
    """A second, independent run of a model: in float64, or else with each image alone.

    Images are run alone if the model cannot run in float64, or if it computes in half precision (its float64 copy would
    be a different model). Which way works is found out at the first call; if neither does, the output is None. Models
    with random outputs have no second run: their draws are judged instead (judge.majority).

    Images that are run alone are computed without TF32, so that on GPUs that have it the arithmetic differs.
    """

    def __init__(self, model: CountedModel, dtype: torch.dtype):
        copied = None if model.half or model.mean is not None else in_float64(model.model)

        def alone(z: Float[Tensor, "b *image"]) -> Tensor:
            with without_tf32():
                return torch.cat([model.model(row).double() for row in z.to(dtype).split(1)])

        self.ways: list[Model] = [alone] if copied is None else [copied, alone]
        self.works = False

    @torch.no_grad()
    def __call__(self, z: Float[Tensor, "b *image"]) -> Float[Tensor, "b *output"] | None:
        while self.ways:
            try:
                out = self.ways[0](z)
                if self.works or out.dtype == torch.float64:
                    self.works = True
                    return out
            except Exception as error:  # a model may raise anything
                if self.works or out_of_memory(error):
                    raise
            del self.ways[0]
        return None


def in_float64(model: Model) -> nn.Module | None:
    """A copy of the model in float64, or None for a function, or a module that cannot be copied."""
    if not isinstance(model, nn.Module):
        return None
    try:
        return copy.deepcopy(model).double()
    except Exception:  # a module may raise anything; without a second run the margin must only exceed the rounding
        return None
