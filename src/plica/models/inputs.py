"""Inputs made ready for a model, and a first call that shows whether it takes them."""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from plica.models.load import Model
from plica.utils.messages import one_line


def prepare_inputs(
    model: Model, x: Float[Tensor, "b *image"], y: Shaped[Tensor, "b *label"]
) -> tuple[Float[Tensor, "b *image"], Shaped[Tensor, "b *label"]]:
    """Images and labels on the model's device, the images in its precision, tried on the first image.

    Raises:
        ValueError: the model cannot take such images; what it raised, in one sentence.
    """
    if isinstance(model, nn.Module):
        parameter = next((p for p in model.parameters() if p.is_floating_point()), x)
        x, y = x.to(parameter), y.to(parameter.device)
    shape = tuple(x.shape[1:])
    batch_error = _error(model, x[:1].repeat(2, *[1] * len(shape)))
    if batch_error is not None:
        single_error = _error(model, x[:1])
        batches = "" if single_error else " in batches, only one by one"
        raise ValueError(f"The model cannot take images of shape {shape}{batches}: {single_error or batch_error}.")
    return x, y


def _error(model: Model, x: Float[Tensor, "b *image"]) -> str | None:
    """What the model raises for such images."""
    try:
        with torch.no_grad():
            model(x)
    except Exception as error:
        return one_line(error, named=True)
    return None
