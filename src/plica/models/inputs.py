"""Converts inputs for a model, and tries whether the model accepts them."""

import re

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from plica.core.model.fitting import channels_hint, fitted
from plica.models.load import Model
from plica.utils.limits import out_of_memory
from plica.utils.messages import one_line

TRIED = 16  # images, until the model takes one
PRECISION = (
    r"dtype|scalar type|Input type \((?!torch)"  # in errors of torch about it; "(torch.cuda..." is about devices
)


def prepare_inputs(
    model: Model, x: Float[Tensor, "b *image"], y: Shaped[Tensor, "b *label"]
) -> tuple[Model, Float[Tensor, "b *image"], Shaped[Tensor, "b *label"]]:
    """Prepare a model and inputs for each other, and try them. Returns the model, made to take any number of images;
    the images, on its device and in its precision; and the labels, on its device.

    Raises:
        ValueError: the model accepts none of the images tried; its error, in one sentence.
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
    raise ValueError(refusal(x, errors[0]))


def refusal(x: Float[Tensor, "b *image"], error: Exception) -> str:
    """The sentence about images for which the model raised the error, with advice if precisions do not match."""
    about, cure = f"The model cannot take images of shape {tuple(x.shape[1:])}", ""
    if isinstance(error, RuntimeError) and re.search(PRECISION, str(error)):
        about += f" in {x.dtype}"
        cure = (
            "; all that it computes with must have one precision: convert also tensors that are no buffers, which "
            "model.half() and model.double() leave as they are, or give the model in float32"
        )
    else:
        cure = channels_hint(x)
    return f"{about}: {one_line(error, named=True)}{cure}."


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
