"""Is there a gradient, on how many images, and is it the derivative of the output?"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from plica.trust.findings import Finding, Severity
from plica.trust.probe import Probe, doubled, lead, logits_of, rows, slope

DIRECTIONS = 3  # the gradient's own, and random ones
AGREE = 0.1  # relative difference of derivative and difference quotient


def vanishing(probe: Probe) -> Iterator[Finding]:
    """Detached outputs; gradients that are zero."""
    slopes = slope(probe.model, probe.x, probe.y)
    if slopes is None:
        yield Finding(
            "detached",
            Severity.FATAL,
            "The output has no gradient with respect to the input (.detach(), numpy or no_grad inside?): only "
            "black-box methods see this model.",
            1.0,
        )
        return
    size = slopes[1].flatten(1).norm(dim=1)
    # a gradient this small compared with the logits is rounding error
    zero = size <= 1e-10 * probe.logits.abs().amax(1).clamp(min=1e-10)
    share = float(zero[probe.right].double().mean()) if bool(probe.right.any()) else 0.0
    if share:
        yield Finding(
            "zero gradient",
            Severity.FATAL if share > 0.5 else Severity.RESERVATION,
            f"The gradient is zero on {share:.0%} of the images that the model gets right: methods that follow it "
            "stand still there; rounding, saturation or clipping in the model?",
            share,
        )


def differences(probe: Probe, images: int = 16) -> Iterator[Finding]:
    """Compare the gradient with central differences, at a few images moved slightly away from possible kinks.

    (L(x + h d) - L(x - h d)) / 2h = <grad L, d>, with d the gradient's direction or random, in float64 where the model
    can be copied so. Directions whose derivative is rounding do not count.
    """
    fine = doubled(probe.model, probe.x)
    model, h = (probe.model, 2e-2) if fine is None else (fine, 1e-6)
    x = probe.x[probe.right][:images] if bool(probe.right.any()) else probe.x[:images]
    y = probe.y[probe.right][:images] if bool(probe.right.any()) else probe.y[:images]
    x = x if fine is None else x.double()
    x = (0.99 * x + 0.005 + 1e-3 * probe.noise(x, 1)).clamp(0, 1)
    slopes = slope(model, x, y)
    if slopes is None:
        return  # `vanishing` reports it
    grad = slopes[1]
    noise = 32 * torch.finfo(x.dtype).eps * logits_of(model, x).abs().amax(1) / h
    wrong = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    for number in range(DIRECTIONS):
        d = _unit(grad if number == 0 else probe.noise(x, 1 + number))
        derivative = (grad * d).flatten(1).sum(1)
        quotient = (lead(logits_of(model, x + h * d), y) - lead(logits_of(model, x - h * d), y)) / (2 * h)
        off = (derivative - quotient).abs()
        # a direction across the gradient has a derivative of about |grad| / sqrt(n), by chance far less
        size = torch.maximum(
            torch.maximum(derivative.abs(), quotient.abs()), grad.flatten(1).norm(dim=1) / d[0].numel() ** 0.5
        )
        wrong |= off > AGREE * size + noise
    share = float(wrong.double().mean())
    if share > 0.25:  # a few differences straddle a kink
        yield Finding(
            "finite differences",
            Severity.RESERVATION,
            f"On {share:.0%} of {len(x)} images finite differences contradict the gradient: the model changes in "
            "steps, or its backward pass is not that of its forward pass.",
            share,
        )


def _unit(d: Float[Tensor, "b *image"]) -> Tensor:
    return d / rows(d.flatten(1).norm(dim=1).clamp(min=1e-30), d)
