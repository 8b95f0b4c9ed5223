"""The gradient of a model's output with respect to its input, or the reason why there is none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from plica.core.model.fitting import ModelError
from plica.utils.limits import out_of_memory
from plica.utils.messages import one_line

# Parts of torch's error messages for a forward pass that leaves autograd, and what they mean.
LEAVES = {
    "call numpy() on tensor that requires grad": "it converts x to numpy",
    "requires grad. use": "it converts x to numpy",
    "inference tensors cannot be saved": "its weights or constants were made under torch.inference_mode()",
    "modified by an inplace operation": "it overwrites in place what its backward pass needs",
    "derivative for": "one of its operations has no derivative",
    "must implement either the backward": "one of its operations has no derivative",
    "not implement 'backward'": "one of its operations has no derivative",
}


class NoGradientError(ValueError):
    """The model gives no gradient with respect to its input; the message says why, and what can be done."""

    def __init__(self, why: str = "its output is not connected to x"):
        super().__init__(
            f"The model has no gradient with respect to x: {why} (no_grad, inference_mode, .detach(), numpy, PIL and "
            'integer arithmetic leave autograd). Methods "auto", "square" and "hopskipjump" ask by forward runs alone; '
            "or write such a step as x + (step(x) - x).detach(), a straight-through estimator."
        )


@contextmanager
def gradient_errors() -> Iterator[None]:
    """Converts torch's errors for a model that leaves autograd into NoGradientError; other errors do not change."""
    try:
        yield
    except NoGradientError:
        raise
    except (RuntimeError, NotImplementedError, TypeError) as error:
        text = str(error).lower()
        for part, why in LEAVES.items():
            if part in text:
                raise NoGradientError(why) from error
        raise


@contextmanager
def backward_errors() -> Iterator[None]:
    """Converts errors in backward passes that the model itself defines into ModelError, like those in its forward
    pass."""
    try:
        yield
    except Exception as error:
        text = str(error).lower()
        if out_of_memory(error) or any(part in text for part in LEAVES):
            raise
        raise ModelError(f"The backward pass of the model raised {one_line(error, named=True)}.") from error


def input_gradient(value: Float[Tensor, ""], x: Float[Tensor, "b *image"]) -> Float[Tensor, "b *image"]:
    """The gradient of `value` with respect to x.

    Raises:
        NoGradientError: the value does not depend on x as far as autograd can tell.
    """
    with backward_errors():
        grad = torch.autograd.grad(value, x, allow_unused=True)[0] if value.requires_grad else None
    if grad is None:
        raise NoGradientError
    return grad


def with_slope(output: Float[Tensor, "r *output"], slope: Float[Tensor, "r *output"]) -> Float[Tensor, ""]:
    """A number whose gradient with respect to `output` is `slope`; its value is arbitrary. torch.autograd.grad has an
    argument for this, but with it imports sympy at first use, which takes half a second."""
    return _WithSlope.apply(output, slope)  # type: ignore[return-value] - autograd's apply has no types


class _WithSlope(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, output: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(slope)
        return output.new_empty(())

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0] * ctx.saved_tensors[0], None  # a new tensor, as models may write to it
