"""The goal for the images of an attack: a goal function of plica.goals together with their y or targets."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from plica.core.losses import LOSSES, Targets, margin
from plica.goals import GoalFunction, Misclassified, class_logits, flat
from plica.solver.rows import WHOLE

MISCLASSIFIED = Misclassified()


@dataclass(frozen=True, eq=False)
class Goal:
    """The goal of b images, one entry per image.

    Attributes:
        y: labels, class numbers from 0; for goals other than misclassification, any tensor with leading axis b.
        targets: for each image the only class that counts as a success; None for any class other than y.
        function: goal(output, y) -> (b,), positive where the model misbehaves; may have `alternatives` (plica.goals).
    """

    y: Shaped[Tensor, "b *label"]
    targets: Targets = None
    function: GoalFunction = field(default=MISCLASSIFIED, metadata=WHOLE)

    def __getitem__(self, rows: Tensor | slice) -> Goal:
        """The goals of some of the images, in the given order; an image may occur more than once."""
        return replace(self, y=self.y[rows], targets=None if self.targets is None else self.targets[rows])

    @property
    def has_classes(self) -> bool:
        """Whether the goal is misclassification, so that losses and attacks that need classes apply."""
        return isinstance(self.function, Misclassified)

    @property
    def has_alternatives(self) -> bool:
        """Whether the goal is the largest of several alternatives, at which a search can aim one by one."""
        return self.targets is None and hasattr(self.function, "alternatives")

    def margin(self, output: Float[Tensor, "b *output"]) -> Float[Tensor, " b"]:
        """The value of the goal, in units of the output: positive exactly where the goal is reached. Its dtype is that
        of the output, even if y is float64."""
        if self.targets is not None:
            return margin(output, self.y, self.targets)
        return self.function(output, self.y).to(output.dtype) if len(output) else output.new_zeros(0)

    def loss(self, name: str, output: Float[Tensor, "b *output"]) -> Float[Tensor, " b"]:
        """A loss of losses.LOSSES by name, which increases towards the goal. Goals without classes have only the
        margin."""
        return self.margin(output) if name == "margin" else LOSSES[name](output, self.y, self.targets)

    def alternatives(self, output: Float[Tensor, "b *output"]) -> Float[Tensor, "b alternatives"]:
        """The margin of each alternative, such as each class other than y; the margin itself if there are none."""
        if not self.has_alternatives:
            return self.margin(output)[:, None]
        return self.function.alternatives(output, self.y).to(output.dtype)  # type: ignore[attr-defined]

    def margin_to(self, output: Float[Tensor, "b *output"], alternative: Int[Tensor, " b"]) -> Float[Tensor, " b"]:
        """The margin of one alternative for each image, by its column of `alternatives`."""
        if self.targets is None and isinstance(self.function, Misclassified):
            return self.function.alternative(output, self.y, alternative)
        return self.alternatives(output).gather(1, alternative[:, None])[:, 0]

    def aim(self, alternative: Int[Tensor, " b"], output: Float[Tensor, "_ *output"]) -> Aim | None:
        """An Aim at one alternative for each image, for outputs like this one. None unless the alternatives are
        differences of two logits among several."""
        if self.targets is not None or not self.has_classes or output.ndim != 2 or output.shape[1] == 1:
            return None
        pair = torch.stack([self.y, alternative + (alternative >= self.y)], 1)
        slope = output.new_zeros(len(pair), output.shape[1]).scatter_(
            1, pair, output.new_tensor([[-1.0, 1.0]]).expand(len(pair), -1)
        )
        return Aim(slope.argsort(dim=1), slope)

    def prediction(self, output: Float[Tensor, "b *output"]) -> Int[Tensor, " b"]:
        """The class with the largest logit; -1 if the goal has no classes."""
        if not self.has_classes:
            return torch.full((len(output),), -1, device=output.device)
        return class_logits(output).argmax(1)


@dataclass(frozen=True)
class Aim:
    """The class that each row aims at, prepared once and used for many outputs.

    Attributes:
        order: the classes sorted by slope: the label first, the class aimed at last.
        slope: the gradient of f_class - f_y, for the class aimed at, with respect to the logits f.
    """

    order: Int[Tensor, "r classes"]
    slope: Float[Tensor, "r classes"]

    def margins(self, logits: Float[Tensor, "r classes"], part: slice = slice(None)) -> Float[Tensor, "r others"]:
        """f_class - f_y for each class other than y; the last is that of the class aimed at."""
        ordered = logits.gather(1, self.order[part])
        return ordered[:, 1:] - ordered[:, :1]


def finite(output: Float[Tensor, "b *output"]) -> Tensor:
    """Whether every number that the model returns for an image is finite.  (b,)"""
    return flat(output).isfinite().all(1)
