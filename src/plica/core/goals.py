"""What counts as a success of an attack, for each image: any class other than its label, or one target class.

A goal may be reached in several ways: by any of the other classes. These are its alternatives, whose margins have fewer
kinks than the margin of the goal, which is the largest of them; searches aim at one alternative at a time.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
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

    def alternatives(self, logits: Float[Tensor, "b classes"]) -> Float[Tensor, "b alternatives"]:
        """The margin of each class other than y, f_class - f_y, by class; with targets the margin alone."""
        if self.targets is not None:
            return self.margin(logits)[:, None]
        others = torch.arange(logits.shape[1] - 1, device=logits.device)
        others = others + (others >= self.y[:, None])
        return logits.gather(1, others) - logits.gather(1, self.y[:, None])

    def margin_to(self, logits: Float[Tensor, "b classes"], alternative: Int[Tensor, " b"]) -> Float[Tensor, " b"]:
        """The margin of one alternative for each image, by its column of `alternatives`."""
        return self.alternatives(logits).gather(1, alternative[:, None])[:, 0]
