"""Are the outputs repeatable, independent of the other images of a batch, finite, and logits?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from plica.core.model.output import returns_probabilities
from plica.trust.findings import Finding, Severity
from plica.trust.probe import CALL, Probe, doubled, half_precision, logits_of

UNITS = 2000  # units of rounding of the largest logit; sums in another order differ by less
HALF_UNITS = 8  # the same in half precision, where sums are computed in float32
ALONE, TOGETHER = 32, 7  # images that are run one by one; rows of the other calls, a number that attacks do not use
FEW = 0.02  # largest share of images of uncertain class that is reported as a note only


def train_mode_layers(model: Callable[[Tensor], Tensor]) -> list[str]:
    """The kinds of layers in train mode that behave differently there."""
    if not isinstance(model, nn.Module):
        return []
    kinds = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd, nn.modules.instancenorm._InstanceNorm)
    return sorted({type(m).__name__ for m in model.modules() if m.training and isinstance(m, kinds)})


def mode(layers: Sequence[str]) -> Iterator[Finding]:
    """A module given in train mode, with layers that behave differently there."""
    if layers:
        yield Finding(
            "train mode",
            Severity.RESERVATION,
            f"The model was given in train mode, with {', '.join(layers)}: plica runs it in eval mode, "
            "other code may not; call model.eval().",
        )


@torch.no_grad()
def repeatable(probe: Probe) -> Iterator[Finding]:
    """Outputs of two calls on the same images, and of the images one by one."""
    x = probe.x[:CALL]
    first, again = (probe.model(x).detach() for _ in range(2))
    unit = _unit(half_precision(probe.model, x), first) * first.abs().amax().clamp(min=1e-30)
    changed = float(((first - again).abs().amax(1) > unit).double().mean())
    if changed:
        yield Finding(
            "random outputs",
            Severity.FATAL,
            f"The output for the same image changes from call to call ({changed:.0%} of the images, by up to "
            f"{float((first - again).abs().max()):.2g}): success is then luck; attack the mean over draws, by "
            "--draws 16, draws: 16 in a plan, or plica.attack(..., draws=16).",
            changed,
        )
        return  # it would hide a dependence on the batch
    if len(x) < 2:
        return
    alone = torch.cat([probe.model(x[i : i + 1]) for i in range(min(len(x), 8))])
    differs = (first[: len(alone)] - alone).abs().amax(1)
    if bool((differs > unit).any()):
        yield Finding(
            "batch dependence",
            Severity.FATAL,
            f"The output for an image depends on the other images of its batch (by up to {float(differs.max()):.2g}), "
            "as with batch statistics; use stored statistics.",
            float((differs > unit).double().mean()),
        )


@torch.no_grad()
def rounding(probe: Probe) -> Iterator[Finding]:
    """Images whose class depends on rounding: two equal largest logits, or another class in another batch, and in
    float64 where that is the same model. Half precision is named in any case."""
    half, classes = half_precision(probe.model, probe.x), probe.logits.argmax(1)
    tops = probe.logits.topk(2, dim=1).values
    ties, changes = tops[:, 0] == tops[:, 1], torch.zeros_like(classes, dtype=torch.bool)
    for images, logits in _other_runs(probe, half is None):
        moved = (logits - probe.logits[images].double()).abs().amax(1)
        small = moved <= _unit(half, probe.logits) * probe.logits[images].abs().amax(1)  # otherwise it is not rounding
        changes[images] |= small & (logits.argmax(1) != classes[images])
    precision = f"The model computes in {str(half).removeprefix('torch.')}" if half else "Logits have few digits"
    uncertain, tied, count = int((ties | changes).sum()), int(ties.sum()), len(ties)
    if uncertain:
        yield Finding(
            "rounding",
            Severity.RESERVATION if uncertain > FEW * count else Severity.NOTE,
            f"{precision}: rounding decides the class of {uncertain} of {count} images ({tied} with two equal "
            f"largest logits, which never count as misclassified; {uncertain - tied} whose class changes "
            "with the batch or in float64); run the model in float32, or take the numbers as known to that share.",
            uncertain / count,
        )
    elif half:
        yield Finding(
            "rounding",
            Severity.NOTE,
            f"{precision}, and is judged so: none of {count} images has two equal largest logits, or changes its "
            "class with the batch.",
            0.0,
        )


def _other_runs(probe: Probe, in_float64: bool) -> Iterator[tuple[slice, Tensor]]:
    """The logits of some images in other batches than those of the probe, and in float64."""
    model, x = probe.model, probe.x
    yield slice(None), torch.cat([model(part).double() for part in x.flip(0).split(TOGETHER)]).flip(0)
    yield slice(ALONE), torch.cat([model(part).double() for part in x[:ALONE].split(1)])
    fine = doubled(model, x) if in_float64 else None
    if fine is not None:
        yield slice(None), logits_of(fine, x.double())


def _unit(half: torch.dtype | None, logits: Tensor) -> float:
    """The change that rounding may cause, divided by the largest logit."""
    return UNITS * torch.finfo(logits.dtype).eps if half is None else HALF_UNITS * torch.finfo(half).eps


def finite(probe: Probe) -> Iterator[Finding]:
    """NaN or infinite logits."""
    share = float((~probe.logits.isfinite().all(1)).double().mean())
    if share:
        yield Finding(
            "not finite",
            Severity.FATAL if share > 0.5 else Severity.RESERVATION,
            f"The output is NaN or infinite for {share:.0%} of the images, which no attack can treat.",
            share,
        )


def probabilities(probe: Probe) -> Iterator[Finding]:
    """Rows that are positive and sum to one. Attacks use their logarithms, which have the gradients of the logits as
    long as a second class has a probability above 0."""
    rows = probe.logits.isfinite().all(1)
    x, logits = probe.x[rows], probe.logits[rows]
    if returns_probabilities(probe.model, logits, x, (0.0, 1.0), torch.finfo(logits.dtype).eps):
        smallest = torch.finfo(logits.dtype).tiny
        alone = float(((logits < smallest).sum(1) == logits.shape[1] - 1).double().mean())
        words = "The outputs are probabilities (they sum to one), of which attacks use the logarithms"
        if alone:
            words += f"; at {alone:.0%} of the images all but one are 0, and with them every gradient"
        severity = Severity.RESERVATION if alone else Severity.NOTE
        yield Finding("probabilities", severity, f"{words}; return the logits, before softmax.", alone or None)
