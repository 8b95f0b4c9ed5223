"""plica.trust.examine: the checks that need a model and a few labelled images, before an evaluation is believed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from plica.core.domain.bounds import check_shared
from plica.core.model.fitting import ModelError, fitted
from plica.core.model.output import check_output
from plica.core.model.randomness import randomness_of
from plica.models.inputs import refusal
from plica.trust.findings import Verdict
from plica.trust.output_checks import train_mode_layers
from plica.trust.probe import FixedDraw, OneLogit, Probe, Unit, logits_of
from plica.trust.registry import CHECKS, Subject

Model = Callable[[Tensor], Tensor]
IMAGES = 256  # for checks that use forward runs only


def examine(
    model: Model,
    x: Float[Tensor, "b *image"],
    y: Shaped[Tensor, "labels *_"],
    *,
    bounds: tuple[float | Tensor, float | Tensor] = (0.0, 1.0),
    images: int = 64,
    seed: int = 0,
    surrogates: Sequence[Model] = (),
    checks: Iterable[str] | None = None,
    spec: str = "net.py:make",
) -> Verdict:
    """Find problems that make results on this model misleading, with a few hundred runs on each of `images` images.

    The model is run on the first 256 images (or `images`, if that is more) and attacked on the first `images`, so x
    should be in random order. A module is run in eval mode; its modes are restored afterwards.

    Args:
        model: a callable (b, *image) -> (b, classes) that gives logits, or one logit for two classes, (b, 1) or (b,).
        x: images, inside the bounds.
        y: labels, class numbers from 0.
        bounds: two numbers, or two tensors of an image's shape.
        images: number of images that are attacked.
        seed: of the random numbers that the checks draw.
        surrogates: other models of the same task; points that are misclassified by them are tried on this one.
        checks: names of those that are made, as in the registry of checks; all if not given.
        spec: the model as the command line has it, for what is to be typed.

    Raises:
        ValueError: the model cannot take the images, x and y do not fit each other, or the bounds have a row for each
            image.
    """
    if len(x) != len(y) or not len(x):
        raise ValueError(f"x and y need one label per image, and at least one image, got {len(x)} and {len(y)}.")
    check_shared(bounds, x.shape[1:])
    low, high = (torch.as_tensor(bound, dtype=x.dtype, device=x.device) for bound in bounds)
    x, y = x[: max(IMAGES, images)].detach(), y[: max(IMAGES, images)]
    layers = train_mode_layers(model)
    modules = [*model.modules()] if isinstance(model, nn.Module) else []
    modes = [module.training for module in modules]
    try:
        for module in modules:
            module.training = False
        subject = _subject(
            model, (x - low) / _divisor(high - low), y, low, high, images, seed, surrogates, layers, spec
        )
        made = [CHECKS[name] for name in (CHECKS if checks is None else checks)]
        findings = [finding for check in made for finding in check.run(subject)]
    finally:
        for module, training in zip(modules, modes, strict=True):
            module.training = training
    return Verdict.of(findings, (name for check in made for name in check.names))


def _divisor(span: Tensor) -> Tensor:
    """The span of each feature; 1 for a feature that is fixed, whose span is 0."""
    return torch.where(span > 0, span, 1)


def _subject(model, u, y, low, high, images, seed, surrogates, layers, spec) -> Subject:
    plain = bool((low == 0).all()) and bool((high == 1).all())
    models = [fitted(m) for m in (model, *surrogates)]
    model, *others = models if plain else (Unit(m, low, high) for m in models)
    try:
        with torch.no_grad():
            first = model(u[:1])
        logits = logits_of(model, u) if isinstance(first, Tensor) else first
    except Exception as error:
        cause = error.__cause__ if isinstance(error, ModelError) and isinstance(error.__cause__, Exception) else error
        raise ValueError(refusal(u, cause)) from error
    check_output(first, u[:1])
    if y.ndim != 1 or y.is_floating_point():
        raise ValueError(f"The checks know classes, one for each image; y has shape {tuple(y.shape)}, {y.dtype}.")
    if logits.is_floating_point() and logits.shape[1:] in ((), (1,)):
        model, *others = (OneLogit(m) for m in (model, *others))
        logits = logits_of(model, u)
    if logits.ndim != 2 or logits.shape[1] < 2 or not logits.is_floating_point():
        raise ValueError(f"The model must return logits of shape (b, classes), got {tuple(logits.shape)}.")
    if int(y.min()) < 0 or int(y.max()) >= logits.shape[1]:
        raise ValueError(
            f"The labels range from {int(y.min())} to {int(y.max())}, and the model has {logits.shape[1]} classes."
        )
    given = probe = Probe(model, u, y, logits, seed, spec)
    if randomness_of(model, u) is not None:
        fixed = FixedDraw(model)
        probe = replace(given, model=fixed, logits=logits_of(fixed, u))
    return Subject(u, layers, probe, probe.first(images), others, given)
