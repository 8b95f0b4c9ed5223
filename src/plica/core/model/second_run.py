"""A second run of a model in another arithmetic, which has to confirm what the first run says of a point."""

from __future__ import annotations

import copy

import torch
from jaxtyping import Float
from torch import Tensor, nn

from plica.core.model.counted import CountedModel, Model
from plica.core.model.precision import without_tf32
from plica.utils.limits import out_of_memory


class SecondRun:
    """A model run another way, as a function of points in float64: in float64, or with each image alone where there is
    no copy in float64 or the model computes in half precision, whose copy in float64 would be another model.

    Which of them the model takes is seen at the first points. None is returned where it takes neither. A model that
    answers at random is not copied: its draws are judged (judge.majority).

    An image alone is computed without TF32, so that this is another arithmetic on GPUs that have it.
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
            except Exception as error:  # whatever a user's model raises
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
    except Exception:  # whatever a user's module raises: without float64 the margin must exceed the rounding alone
        return None
