"""What counts as a success of an attack, for each image: any class other than its label, or one target class."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from plica.core.losses import LOSSES, Targets, margin


@dataclass(frozen=True, eq=False)
class Goal:
    """The goal of b images, one entry per image.

    Attributes:
        y: labels, class numbers from 0.
        targets: the only class that counts as a success, for each image; None for any class other than y.
    """

    y: Int[Tensor, " b"]
    targets: Targets = None

    def __getitem__(self, rows: Tensor | slice) -> Goal:
        """The goals of some of the images, in the given order; an image may occur more than once."""
        return Goal(self.y[rows], None if self.targets is None else self.targets[rows])

    def margin(self, logits: Float[Tensor, "b classes"]) -> Float[Tensor, " b"]:
        """How far past the decision boundary, in logits: positive exactly where the goal is reached (losses.margin)."""
        return margin(logits, self.y, self.targets)

    def loss(self, name: str, logits: Float[Tensor, "b classes"]) -> Float[Tensor, " b"]:
        """A loss of losses.LOSSES by name, larger the nearer to the goal."""
        return LOSSES[name](logits, self.y, self.targets)

    def margin_to(self, logits: Float[Tensor, "b classes"], classes: Int[Tensor, " b"]) -> Float[Tensor, " b"]:
        """The margin of one class for each image, f_class - f_y; with targets the margin itself, whatever `classes`."""
        if self.targets is not None:
            return self.margin(logits)
        return (logits.gather(1, classes[:, None]) - logits.gather(1, self.y[:, None]))[:, 0]
