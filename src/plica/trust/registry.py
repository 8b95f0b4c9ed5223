"""The checks of a model that plica.trust.examine makes, in their order: one line each. A new one: docs/extend.md."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from jaxtyping import Float
from torch import Tensor

from plica.trust import data_checks, gradient_checks, gradient_masking, output_checks
from plica.trust.findings import Finding
from plica.trust.gradient_masking import Ascent, climb
from plica.trust.probe import Probe
from plica.utils.registry import Registry


@dataclass(frozen=True)
class Subject:
    """The data that a check may use.

    Attributes:
        pixels: the images in units of the bounds, [0, 1].
        train_mode_layers: kinds of layers that were in train mode and behave differently there.
        probe: the model in eval mode on these images, for checks that take a few forward runs.
        few: the probe of the first images, for checks that take gradients or many runs.
        surrogates: other models of the same task.
        given: as `probe`; but where the model has random outputs, `probe` and `few` have its draws fixed.
    """

    pixels: Float[Tensor, "b *image"]
    train_mode_layers: Sequence[str]
    probe: Probe
    few: Probe
    surrogates: Sequence[Callable[[Tensor], Tensor]]
    given: Probe

    @cached_property
    def ascent(self) -> Ascent | None:
        """A short gradient ascent on the few images; None where the model has no gradient or is right on none."""
        return climb(self.few)


@dataclass(frozen=True)
class Check:
    """One check, and the names of its findings; a verdict lists them as made, whether or not there is a finding."""

    names: tuple[str, ...]
    run: Callable[[Subject], Iterable[Finding]]


def _of_ascent(name: str, run: Callable[[Subject, Ascent], Iterable[Finding]]) -> Check:
    """A check that needs the gradient ascent, and is left out where there is none."""
    return Check((name,), lambda subject: () if subject.ascent is None else run(subject, subject.ascent))


CHECKS = Registry(
    "plica.checks",
    {
        "train mode": Check(("train mode",), lambda s: output_checks.mode(s.train_mode_layers)),
        "pixels": Check(("pixels",), lambda s: data_checks.pixel_range(s.pixels)),
        "normalisation": Check(("normalisation", "accuracy"), lambda s: data_checks.normalisation(s.probe)),
        "labels": Check(("labels",), lambda s: data_checks.labels(s.probe)),
        "few classes": Check(("few classes",), lambda s: data_checks.few_classes(s.probe)),
        "repeatable": Check(("random outputs", "batch dependence"), lambda s: output_checks.repeatable(s.given)),
        "rounding": Check(("rounding",), lambda s: output_checks.rounding(s.probe)),
        "not finite": Check(("not finite",), lambda s: output_checks.finite(s.probe)),
        "probabilities": Check(("probabilities",), lambda s: output_checks.probabilities(s.probe)),
        "vanishing": Check(("detached", "zero gradient"), lambda s: gradient_checks.vanishing(s.few)),
        "finite differences": Check(("finite differences",), lambda s: gradient_checks.differences(s.few)),
        "rises": _of_ascent("loss does not rise", lambda s, ascent: gradient_masking.rises(ascent)),
        "black box": _of_ascent("black box", lambda s, ascent: gradient_masking.blind(s.few, ascent)),
        "smoothed": _of_ascent("transfer", lambda s, ascent: gradient_masking.smoothed(s.few, ascent)),
        "transfer": _of_ascent("transfer", lambda s, ascent: gradient_masking.transferred(s.few, ascent, s.surrogates)),
        "one target class": _of_ascent("one target class", lambda s, ascent: gradient_masking.aimed(s.few, ascent)),
    },
)
