"""Goals, which define when a model misbehaves: functions goal(output, y) -> (b,), positive where it does.

A goal of your own is any such function that is differentiable almost everywhere. Its value should be in the units of
the output (a difference of logits, an error of the regression): a point counts if the value is larger than the effect
of rounding on the output.

A goal may also have a method `alternatives(output, y) -> (b, k)`, the values of k ways to reach it, of which the
largest is the goal. Searches then aim at one of them at a time, because each has fewer kinks than their maximum. A
method `check(output, y)` may raise ValueError if the two do not fit together.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import cast

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from plica.utils.factories import find
from plica.utils.messages import did_you_mean, shown

GoalFunction = Callable[[Tensor, Tensor], Tensor]


def flat(values: Shaped[Tensor, "b *_"]) -> Shaped[Tensor, "b n"]:
    """All entries of each image in one axis; (b, 1) of (b,)."""
    return values.flatten(1) if values.ndim > 1 else values[:, None]


def class_logits(output: Float[Tensor, "b *output"]) -> Float[Tensor, "b classes"]:
    """Logits of classes; one logit for each input, (b, 1) or (b,), is taken for two classes, [0, logit]."""
    if output.ndim == 1 or (output.ndim == 2 and output.shape[1] == 1):
        output = output.reshape(-1, 1)
        return torch.cat([torch.zeros_like(output), output], 1)
    return output


@dataclass(frozen=True)
class Misclassified:
    """Any class other than the label y (b,) has the largest logit: max_{i != y} f_i - f_y.

    Output: logits (b, classes), or one logit (b, 1) or (b,) for the labels 0 and 1. Alternatives: the other classes.
    """

    def __call__(self, output: Float[Tensor, "b *output"], y: Int[Tensor, " b"]) -> Float[Tensor, " b"]:
        logits = class_logits(output)
        own = logits.gather(1, y[:, None])[:, 0]
        return logits.scatter(1, y[:, None], -torch.inf).amax(1) - own

    def alternatives(self, output: Float[Tensor, "b *output"], y: Int[Tensor, " b"]) -> Float[Tensor, "b others"]:
        """f_class - f_y for each class other than y, in the order of the classes."""
        logits = class_logits(output)
        others = torch.arange(logits.shape[1] - 1, device=logits.device)
        others = others + (others >= y[:, None])
        return logits.gather(1, others) - logits.gather(1, y[:, None])

    def alternative(
        self, output: Float[Tensor, "b *output"], y: Int[Tensor, " b"], which: Int[Tensor, " b"]
    ) -> Float[Tensor, " b"]:
        """One of the alternatives for each image, by its column."""
        logits = class_logits(output)
        return (logits.gather(1, (which + (which >= y))[:, None]) - logits.gather(1, y[:, None])).squeeze(1)

    def check(self, output: Float[Tensor, "b *output"], y: Tensor) -> None:
        """Raises ValueError unless there are at least two classes, and one for every label."""
        if output.ndim > 2:
            raise ValueError(
                f"The model must return logits of shape (b, classes), got {tuple(output.shape)}; "
                + (
                    "flatten them, as in lambda x: model(x).flatten(1)."
                    if output[0].numel() == max(output.shape[1:])
                    else "for other outputs pass goal=..., such as plica.goals.Pixels(0.5)."
                )
            )
        logits = class_logits(output)
        if logits is not output and not bool(((y == 0) | (y == 1)).all()):
            raise ValueError(
                f"The model gives one logit for each image, {tuple(output.shape)}, which is taken for two classes, so "
                f"y must hold 0 and 1, but it ranges from {int(y.min())} to {int(y.max())}. For other labels return "
                "(b, classes); for other outputs pass goal=..., such as plica.goals.Deviates(0.1)."
            )
        check_labels("y", y, logits)


def check_labels(name: str, labels: Int[Tensor, "b *pixels"], logits: Float[Tensor, "b classes *pixels"]) -> None:
    """Raises ValueError unless `labels`, the argument `name`, are classes of these logits."""
    classes = logits.shape[1]
    if int(labels.min()) < 0 or int(labels.max()) >= classes:
        raise ValueError(f"{name} must hold classes from 0 to {classes - 1}, as the model has {classes}, "
                         f"but it ranges from {int(labels.min())} to {int(labels.max())}.")  # fmt: skip


@dataclass(frozen=True)
class Deviates:
    """Regression: some entry of the output is farther than `tolerance` from y: max_j |output_j - y_j| - tolerance.

    Output and y: (b, ...) of one shape. Alternatives: each entry too large, then each too small; the error of a model
    that is exactly right has no gradient, these have one.
    """

    tolerance: float

    def __post_init__(self):
        if not _is_number(self.tolerance) or not 0 <= self.tolerance < math.inf:
            raise ValueError(f"Deviates(tolerance=...) must be a finite number from 0 on, got {shown(self.tolerance)}.")

    def __call__(self, output: Float[Tensor, "b *output"], y: Shaped[Tensor, "b *output"]) -> Float[Tensor, " b"]:
        return flat(output - y).abs().amax(1) - self.tolerance

    def alternatives(
        self, output: Float[Tensor, "b *output"], y: Shaped[Tensor, "b *output"]
    ) -> Float[Tensor, "b ways"]:
        """output_j - y_j - tolerance for each entry, then y_j - output_j - tolerance for each."""
        error = flat(output - y)
        return torch.cat([error, -error], 1) - self.tolerance

    def check(self, output: Tensor, y: Tensor) -> None:
        """Raises ValueError unless y has the shape of the output."""
        _same_shape("Deviates", output, y)


@dataclass(frozen=True)
class AnyLabel:
    """Multi-label: the sign of some tag's logit is not that of y: max_j (1 - 2 y_j) f_j.

    Output and y: (b, ...) of one shape, logits and 0 or 1. Alternatives: each tag.
    """

    def __call__(self, output: Float[Tensor, "b *tags"], y: Shaped[Tensor, "b *tags"]) -> Float[Tensor, " b"]:
        return self.alternatives(output, y).amax(1)

    def alternatives(self, output: Float[Tensor, "b *tags"], y: Shaped[Tensor, "b *tags"]) -> Float[Tensor, "b ways"]:
        """(1 - 2 y_j) f_j for each tag."""
        return flat((1 - 2 * y.to(output.dtype)) * output)

    def check(self, output: Tensor, y: Tensor) -> None:
        """Raises ValueError unless y has the shape of the output and is 0 or 1 everywhere."""
        _same_shape("AnyLabel", output, y)
        _only_0_and_1("AnyLabel", y)


@dataclass(frozen=True)
class Pixels:
    """Dense prediction: at least `share` of the pixels are wrong.

    Output: logits (b, classes, *pixels) and y the class (b, *pixels) of each pixel; or one logit for each pixel, the
    shape of y, and y 0 or 1. The value is an order statistic of the pixels' margins: with n pixels the k-th largest,
    k = ceil(share n), at least 1.
    """

    share: float

    def __post_init__(self):
        if not _is_number(self.share) or not 0 < self.share <= 1:
            raise ValueError(f"Pixels(share=...) must be a number in (0, 1], got {shown(self.share)}.")

    def __call__(self, output: Float[Tensor, "b *output"], y: Shaped[Tensor, "b *pixels"]) -> Float[Tensor, " b"]:
        margins = self.margins(output, y)
        wrong = max(1, math.ceil(self.share * margins.shape[1] - 1e-9))
        return margins.topk(wrong, 1).values[:, -1]

    def margins(self, output: Float[Tensor, "b *output"], y: Shaped[Tensor, "b *pixels"]) -> Float[Tensor, "b pixels"]:
        """The margin of each pixel: positive where it is wrong."""
        if output.shape == y.shape:
            return AnyLabel().alternatives(output, y)
        own = output.gather(1, y[:, None])[:, 0]  # along the axis of the classes, without a copy of it
        return flat(output.scatter(1, y[:, None], -torch.inf).amax(1) - own)

    def check(self, output: Tensor, y: Tensor) -> None:
        """Raises ValueError unless the two are logits and classes of the same pixels."""
        if output.shape == y.shape:
            return _only_0_and_1("Pixels", y)
        fits = output.ndim == y.ndim + 1 and (output.shape[0], *output.shape[2:]) == y.shape
        if not fits or output.shape[1] < 2:
            raise ValueError(
                "Pixels needs an output (b, classes, *pixels) and y (b, *pixels), or one logit for each pixel and y of "
                f"the output's shape, got {tuple(output.shape)} and {tuple(y.shape)}"
                f"{'; write y[:, None]' if fits else ''}."
            )
        if y.is_floating_point():
            raise ValueError(f"Pixels needs y of whole numbers, the class of each pixel, got {y.dtype}.")
        check_labels("y", y, output)
        return None


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _same_shape(goal: str, output: Tensor, y: Tensor) -> None:
    if output.shape != y.shape:
        raise ValueError(
            f"{goal} needs y of the output's shape {tuple(output.shape)}, got {tuple(y.shape)}; reshape one of them."
        )


def _only_0_and_1(goal: str, y: Tensor) -> None:
    if not bool(((y == 0) | (y == 1)).all()):
        raise ValueError(f"{goal} needs y of 0 and 1, got values from {float(y.min()):g} to {float(y.max()):g}.")


WRITTEN = "misclassified, deviates=TOLERANCE, any-label, pixels=SHARE, or file.py:function or package.module:function"


def parse_goal(text: str) -> GoalFunction:
    """The goal that a text names: misclassified, deviates=0.1, any-label, pixels=0.25, or file.py:function.

    Raises:
        ValueError: there is none, or it cannot be imported; one sentence.
    """
    if ":" in text:
        goal = find(text, "goal")
        if not callable(goal):
            raise ValueError(f"The goal {text!r} is a {type(goal).__name__}, not a function goal(output, y) -> (b,).")
        return cast(GoalFunction, goal)
    name, equals, number = text.partition("=")
    plain = {"misclassified": Misclassified, "any-label": AnyLabel}
    numbered = {"deviates": Deviates, "pixels": Pixels}
    try:
        if name in plain and not equals:
            return plain[name]()
        if name in numbered and equals:
            return numbered[name](float(number))
    except ValueError as error:
        raise ValueError(f"The goal {shown(text)} cannot be had: {error}") from None
    raise ValueError(f"There is no goal {shown(text)}; {did_you_mean(name, [*plain, *numbered])}write {WRITTEN}.")
