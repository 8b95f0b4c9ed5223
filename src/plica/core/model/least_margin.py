"""From which margin on a point of each image counts: more than rounding can make."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from plica.core.model.rounding import Noise, least_margin, without
from plica.goals import flat

R = TypeVar("R")


@dataclass(frozen=True, eq=False)
class LeastMargin:
    """What was measured of a model at b images, and the margin that follows from it.

    Attributes:
        few_digits: (b,) images at which differences of logits have few digits.
        at_image: (b,) where an output is one or two numbers, their size at each image, or half of that at images of
            random pixels if this is more (of two numbers only where no second run follows): at the boundary they may be
            0, and do not tell how large their roundings are.
        noise: what was measured of the model where there are such images.
        has_few: whether there is such an image; known to the host.
        constant: (b, numbers) logits that a model sets to a large constant, as -1e9 for a class that it rules out;
            they have no share in what rounding does to the others. None for no images.
        floor: (b,) of a model under autocast, margins that count for nothing: twice that of an image which it
            misclassifies there alone, so that this is not its own nearest point; None otherwise.
    """

    few_digits: Bool[Tensor, " b"]
    at_image: Float[Tensor, " b"]
    noise: Noise = field(default_factory=Noise)
    has_few: bool = False
    constant: Tensor | None = None
    floor: Tensor | None = None

    @classmethod
    def unmeasured(cls, images: int, device: torch.device | str) -> LeastMargin:
        """Of so many images, before the model was run at them."""
        return cls(torch.zeros(images, dtype=torch.bool, device=device), torch.zeros(images, device=device))

    def __call__(self, logits: Float[Tensor, "r *output"], image: Int[Tensor, " r"], eps: float) -> Float[Tensor, " r"]:
        """From the output at points of `image`; eps: unit of rounding of the model."""
        few = self.few_digits[image] if self.has_few else None
        logits = self.varying(logits, image)
        least = least_margin(logits, eps, few, self.noise)
        if self.floor is not None:
            least = torch.maximum(least, self.floor[image].to(least))
        if flat(logits).shape[1] > 2:
            return least
        at_image = flat(self.at_image.to(logits)[image])  # instead of those at the points
        return torch.maximum(least, least_margin(at_image, eps, few, self.noise))

    def rows(self, rows: Int[Tensor, " i"]) -> LeastMargin:
        """Of some of the images."""
        constant, floor = (None if part is None else part[rows] for part in (self.constant, self.floor))
        return LeastMargin(self.few_digits[rows], self.at_image[rows], self.noise, self.has_few, constant, floor)

    def of_all(self) -> LeastMargin:
        """The same with few digits at all images."""
        return replace(self, few_digits=torch.ones_like(self.few_digits), has_few=True)

    def varying(self, logits: Float[Tensor, "r *output"], image: Int[Tensor, " r"]) -> Float[Tensor, "r *_"]:
        """The output at points of `image`, with another of its logits in place of each of `constant`."""
        return logits if self.constant is None else without(self.constant[image], logits)

    def without_constants(self, model: Callable[[Tensor], R]) -> Callable[[Tensor], R]:
        """The model, with another of its logits in place of each that is constant at some image."""
        if self.constant is None:
            return model
        columns = self.constant.any(0, keepdim=True)

        def varying(z: Tensor) -> R:
            output = model(z)
            return without(columns, output) if isinstance(output, Tensor) else output

        return varying
