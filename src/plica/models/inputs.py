"""Converts inputs for a model, and tries whether the model accepts them."""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from plica.core.model.fitting import fitted
from plica.models.load import Model
from plica.utils.limits import out_of_memory
from plica.utils.messages import one_line

TRIED = 16  # images, until the model takes one


def prepare_inputs(
    model: Model, x: Float[Tensor, "b *image"], y: Shaped[Tensor, "b *label"]
) -> tuple[Model, Float[Tensor, "b *image"], Shaped[Tensor, "b *label"]]:
    """The model as one that takes any number of images, and images and labels on its device, the images in its
    precision, tried until it takes one.

    Raises:
        ValueError: the model takes none of them; what it raised, in one sentence.
    """
    if isinstance(model, nn.Module):
        parameter = next((p for p in model.parameters() if p.is_floating_point()), x)
        x, y = x.to(parameter), y.to(parameter.device)
    model = fitted(model)
    errors = []
    for image in x[:TRIED].split(1):
        error = _error(model, image.repeat(2, *[1] * (x.ndim - 1)))
        if error is None:
            return model, x, y
        errors.append(error)
    raise ValueError(f"The model cannot take images of shape {tuple(x.shape[1:])}: {one_line(errors[0], named=True)}.")


def _error(model: Model, x: Float[Tensor, "b *image"]) -> Exception | None:
    """The exception that the model raises for x, or None."""
    try:
        with torch.no_grad():
            model(x)
    except Exception as error:
        if out_of_memory(error):
            raise
        return error.__cause__ if isinstance(error.__cause__, Exception) else error
    return None
