"""Losses that attacks maximise: margin, cross-entropy and DLR; each grows towards and past the decision boundary.

All take logits (b, classes), or one logit for two classes (goals.class_logits), labels y (b,) and targets: None for
"any other class", or (b,) the one class that counts.
"""

from __future__ import annotations

from collections.abc import Callable

from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from plica.goals import Misclassified, class_logits

Targets = Int[Tensor, " b"] | None


def margin(logits: Float[Tensor, "b *output"], y: Int[Tensor, " b"], targets: Targets = None) -> Float[Tensor, " b"]:
    """max_{i != y} f_i - f_y, or f_t - max_{i != t} f_i with a target t: positive where the attack has succeeded."""
    return Misclassified()(logits, y) if targets is None else -Misclassified()(logits, targets)


def cross_entropy(
    logits: Float[Tensor, "b *output"], y: Int[Tensor, " b"], targets: Targets = None
) -> Float[Tensor, " b"]:
    """-log p_y; with a target t, log p_t."""
    logits = class_logits(logits)
    if targets is None:
        return functional.cross_entropy(logits, y, reduction="none")
    return -functional.cross_entropy(logits, targets, reduction="none")


def dlr(logits: Float[Tensor, "b classes"], y: Int[Tensor, " b"], targets: Targets = None) -> Float[Tensor, " b"]:
    """Difference of logits ratio (Croce, Hein 2020): the margin over a difference of logits, so that their scale
    cancels.

    Untargeted: margin / (f_(1) - f_(3)). With a target: (f_t - f_y) / (f_(1) - (f_(3) + f_(4)) / 2). f_(k): k-th
    largest logit.
    """
    if targets is None:
        return margin(logits, y) / spread(logits, False)
    difference = (logits.gather(1, targets[:, None]) - logits.gather(1, y[:, None]))[:, 0]
    return difference / spread(logits, True)


def spread(logits: Float[Tensor, "b classes"], targeted: bool) -> Float[Tensor, " b"]:
    """The denominator of DLR."""
    top = logits.topk(4 if targeted else 3, dim=1).values
    third = (top[:, 2] + top[:, 3]) / 2 if targeted else top[:, 2]
    return (top[:, 0] - third).clamp(min=1e-12)


Loss = Callable[[Tensor, Tensor, "Tensor | None"], Tensor]
LOSSES: dict[str, Loss] = {"margin": margin, "ce": cross_entropy, "dlr": dlr}
