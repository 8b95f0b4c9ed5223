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
    """The smallest margin that counts at points of each of b images, from measurements of the model.

    Attributes:
        few_digits: (b,) images at which differences of logits have few digits.
        at_image: (b,) for an output of one or two numbers: their size at each image, or half of their usual size at
            images of random pixels if that is larger (for two numbers only if no second run follows). At the boundary
            the numbers may be 0, so that their size there does not tell how large their rounding errors are.
        noise: the effect of rounding on the model's output, measured if there are images with few digits.
        has_few: whether there is an image with few digits; kept on the host.
        constant: (b, numbers) logits that the model sets to a large constant, such as -1e9 for a class that it rules
            out. They do not affect the rounding of the others. None for no images.
        floor: (b,) for a model under autocast: twice the margin of an image that it misclassifies only there, so that
            the image is not its own nearest point. None otherwise.
    """

    few_digits: Bool[Tensor, " b"]
    at_image: Float[Tensor, " b"]
    noise: Noise = field(default_factory=Noise)
    has_few: bool = False
    constant: Tensor | None = None
    floor: Tensor | None = None

    @classmethod
    def unmeasured(cls, images: int, device: torch.device | str) -> LeastMargin:
        """For this many images, before the model was run at them."""
        return cls(torch.zeros(images, dtype=torch.bool, device=device), torch.zeros(images, device=device))

    def __call__(self, logits: Float[Tensor, "r *output"], image: Int[Tensor, " r"], eps: float) -> Float[Tensor, " r"]:
        """The smallest margin that counts at each point. image: index of its image. eps: unit roundoff of the model."""
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
        """The same for some of the images."""
        constant, floor = (None if part is None else part[rows] for part in (self.constant, self.floor))
        return LeastMargin(self.few_digits[rows], self.at_image[rows], self.noise, self.has_few, constant, floor)

    def of_all(self) -> LeastMargin:
        """The same, but with few digits at all images."""
        return replace(self, few_digits=torch.ones_like(self.few_digits), has_few=True)

    def varying(self, logits: Float[Tensor, "r *output"], image: Int[Tensor, " r"]) -> Float[Tensor, "r *_"]:
        """The output at points of `image`, with each logit of `constant` replaced by the largest of the others."""
        return logits if self.constant is None else without(self.constant[image], logits)

    def without_constants(self, model: Callable[[Tensor], R]) -> Callable[[Tensor], R]:
        """The model, with each logit that is constant at some image replaced by the largest of the others."""
        if self.constant is None:
            return model
        columns = self.constant.any(0, keepdim=True)

        def varying(z: Tensor) -> R:
            output = model(z)
            return without(columns, output) if isinstance(output, Tensor) else output

        return varying
