"""A model in which some pixels must not move: its gradient with respect to them is told as 0."""

from __future__ import annotations

from collections.abc import Callable

from jaxtyping import Bool
from torch import Tensor

from plica.core.model import CountedModel


class Holding(CountedModel):
    """A CountedModel whose gradients are 0 at the pixels that are held, so that no search moves them."""

    def __init__(
        self, model: Callable[[Tensor], Tensor], images: int, most: int, multiple: int | None,
        pixels: Bool[Tensor, "*image"],
    ):  # fmt: skip
        super().__init__(model, images, most, multiple)
        self.pixels = pixels

    def gradient(self, x, image, value):
        """As of CountedModel."""
        values, logits, grads = super().gradient(x, image, value)
        return values, logits, grads.masked_fill(self.pixels, 0)
