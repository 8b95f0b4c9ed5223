"""Do the pixels, their normalisation and the labels look right?

A wrong normalisation raises no error: it makes the model weak, and its radii small. It is detected if the model is
correct significantly more often with a different normalisation of the pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from plica.trust.findings import Finding, Severity
from plica.trust.probe import Probe, logits_of

STATISTICS = {
    "ImageNet's mean and deviation": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "CIFAR-10's mean and deviation": ((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)),
    "mean 0.5 and deviation 0.5": ((0.5,), (0.5,)),
    "MNIST's mean and deviation": ((0.1307,), (0.3081,)),
}
SPELT = dict(
    zip(STATISTICS, ("@imagenet", "@cifar10", "@half", "@0.1307/0.3081"), strict=True)
)  # behind a model's name
SIGMAS = 3.0  # least gain that counts, in standard deviations of the number of images that change sides
GAIN = 0.05  # least gain of accuracy that counts


def pixel_range(x: Tensor) -> Iterator[Finding]:
    """Pixels, in units of the bounds, outside [0, 1], or in a part of it so small that they were scaled twice."""
    low, high = float(x.min()), float(x.max())
    if not math.isfinite(low + high):
        yield Finding("pixels", Severity.FATAL, "Some pixels are not finite; repair the data.")
    elif high > 100:
        yield _pixels(low, high, "they look like 8-bit values that were never divided by 255")
    elif low < 0 or high > 1:
        yield _pixels(low, high, "they look normalised already; give pixels and let the model normalise")
    elif high - low < 0.01:
        yield _pixels(
            low,
            high,
            "as if they were divided by 255 twice, or the bounds should be 0 and 1",
        )


def _pixels(low: float, high: float, reason: str) -> Finding:
    return Finding(
        "pixels", Severity.FATAL, f"The pixels range from {low:.3g} to {high:.3g} of their bounds: {reason}."
    )


def normalisation(probe: Probe) -> Iterator[Finding]:
    """Accuracy at chance, and transformed pixels with which the model is right significantly more often.

    Images that are gained and lost are compared as in McNemar's test: gained - lost > 3 sqrt(gained + lost). The gain
    must also be more than a twentieth of the images, and the accuracy then more than twice that of chance.
    """
    count, right = len(probe.x), probe.right
    chance = 1 / probe.logits.shape[1]
    best: tuple[int, str] | None = None
    cure = "correct the normalisation"
    for name, transform in _pixel_transforms(probe):
        try:
            right_then = logits_of(probe.model, transform(probe.x)).argmax(1) == probe.y
        except Exception:  # the model does not take pixels of this shape
            continue
        gained, lost = int((right_then & ~right).sum()), int((~right_then & right).sum())
        surplus = gained - lost
        needed = max(SIGMAS * math.sqrt(gained + lost), GAIN * count, (best or (0,))[0])
        if surplus > needed and float(right_then.double().mean()) > 2 * chance:
            best = (surplus, name)
            spelt = next((text for known, text in SPELT.items() if name == f"normalised with {known}"), None)
            cure = (
                f"write {spelt} behind the model's name, as in --model {probe.spec}{spelt}"
                if spelt
                else "correct the normalisation"
            )
    accuracy = float(right.double().mean())
    if best is not None:
        yield Finding(
            "normalisation",
            Severity.FATAL,
            f"The model is right on {accuracy:.0%} of the images, and on {accuracy + best[0] / count:.0%} {best[1]}: "
            f"it is not given pixels as it was trained on; {cure}.",
        )
    if count >= 10 and accuracy < chance + 2 * math.sqrt(chance * (1 - chance) / count):
        yield Finding(
            "accuracy",
            Severity.FATAL,
            f"The model is right on {accuracy:.0%} of {count} images, which is chance for {probe.logits.shape[1]} "
            "classes; look at the labels, their order, and the weights.",
        )


def _pixel_transforms(probe: Probe) -> Iterator[tuple[str, Callable[[Tensor], Tensor]]]:
    """Transforms of the pixels that may have been forgotten or applied twice, as (description, transform).

    If two give the same accuracy, the first is reported.
    """
    colours = probe.x.shape[1] if probe.x.ndim == 4 else 0
    for name, (mean, std) in STATISTICS.items():
        if len(mean) in (1, colours):
            m, s = (probe.x.new_tensor(t).view(-1, *[1] * max(probe.x.ndim - 2, 0)) for t in (mean, std))
            yield f"normalised with {name}", lambda x, m=m, s=s: (x - m) / s
            yield f"with {name} undone", lambda x, m=m, s=s: x * s + m
    yield "with pixels from 0 to 255", lambda x: x * 255
    yield "with pixels divided by 255", lambda x: x / 255
    if colours == 3:
        yield "with red and blue exchanged", lambda x: x.flip(1)
    if probe.x.ndim == 4 and probe.x.shape[-1] in (1, 3) and colours != probe.x.shape[-1]:
        yield "with the channels first", lambda x: x.permute(0, 3, 1, 2)


def few_classes(probe: Probe) -> Iterator[Finding]:
    """With two or three classes some losses and targeted attacks do not exist."""
    classes = probe.logits.shape[1]
    if classes < 4:
        yield Finding(
            "few classes",
            Severity.NOTE,
            f"The model has {classes} classes: DLR and attacks that aim at several classes need four or more.",
        )


def labels(probe: Probe) -> Iterator[Finding]:
    """All labels alike: no sample of the classes."""
    classes = len(torch.unique(probe.y))
    if classes == 1 and len(probe.y) >= 10:
        yield Finding(
            "labels",
            Severity.RESERVATION,
            f"All {len(probe.y)} images have the label {int(probe.y[0])}; take a sample of all classes.",
        )
