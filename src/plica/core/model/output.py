"""Checks what a model returns: a tensor of logits, or probabilities."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from plica.core.model.probabilities import are_probabilities, sum_to_one
from plica.core.model.rounding import random_images


def check_output(out: Any, x: Tensor) -> None:
    """Raises ValueError unless `out`, which a model returned for x, is a floating-point tensor with an entry for each
    image."""
    fits = isinstance(out, Tensor) and out.ndim > 0 and len(out) == len(x) and out.numel() > 0
    if fits and out.is_floating_point():
        return
    seen = f"{out.dtype} of shape {tuple(out.shape)}" if isinstance(out, Tensor) else type(out).__name__
    raise ValueError(
        f"The model must return floating-point logits of shape (b, classes), or with a goal of shape (b, ...), "
        f"here b = {len(x)}, got {seen}; wrap it in a function that does{_wrapper(out)}."
    )


def _wrapper(out: object) -> str:
    """An example of a function that takes logits out of what a model returns, where it returns several things."""
    entries = dict(out) if isinstance(out, Mapping) else dict(enumerate(out)) if isinstance(out, tuple | list) else {}
    tensors = [name for name, entry in entries.items() if isinstance(entry, Tensor)]
    name = "logits" if "logits" in tensors else next(iter(tensors), None)
    if name is not None:
        return f", such as lambda x: model(x)[{name!r}]"
    return ", such as lambda x: model(x).logits" if isinstance(getattr(out, "logits", None), Tensor) else ""


@torch.no_grad()
def returns_probabilities(
    model: Callable[[Tensor], Tensor],
    output: Float[Tensor, "b *output"],
    x: Float[Tensor, "b *image"],
    bounds: tuple[float, float],
    eps: float = 0.0,
) -> bool:
    """Whether a model's outputs are probabilities. Where they sum to one at some image, images of random pixels and
    corners of the bounds decide, so that no answer depends on other images; their run is not counted.

    output: at the images x.
    eps: unit of rounding of the model.
    """
    if output.ndim != 2 or output.shape[1] < 2 or not bool(sum_to_one(output, eps).any()):
        return False
    images = random_images(x, bounds)
    corners = torch.where(images < images.mean(), images.amin(), images.amax())
    with suppress(Exception):  # a model may raise anything for random pixels
        output = model(torch.cat([images, corners]))
    return are_probabilities(output, eps)
