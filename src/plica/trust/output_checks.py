"""Are the outputs repeatable, independent of the other images of a batch, finite, and logits?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from plica.trust.findings import Finding, Severity
from plica.trust.probe import CALL, Probe

UNITS = 2000  # of rounding of the largest logit; sums in another order differ by less


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
    first, again = probe.model(x), probe.model(x)
    unit = UNITS * torch.finfo(first.dtype).eps * first.abs().amax().clamp(min=1e-30)
    changed = float(((first - again).abs().amax(1) > unit).double().mean())
    if changed:
        yield Finding(
            "random outputs",
            Severity.FATAL,
            f"The output for the same image changes from call to call ({changed:.0%} of the images, by up to "
            f"{float((first - again).abs().max()):.2g}): success is then luck; fix the randomness, or attack the mean.",
            changed,
        )
        return  # a dependence on the batch could not be seen beside it
    if len(x) < 2:
        return
    alone = torch.cat([probe.model(x[i : i + 1]) for i in range(min(len(x), 8))])
    differs = (first[: len(alone)] - alone).abs().amax(1)
    if bool((differs > unit).any()):
        yield Finding(
            "company",
            Severity.FATAL,
            f"The output for an image depends on the other images of its batch (by up to {float(differs.max()):.2g}), "
            "as with batch statistics; use stored statistics.",
            float((differs > unit).double().mean()),
        )


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
    """Rows that are positive and sum to one: a softmax saturates, and with it every gradient."""
    logits = probe.logits[probe.logits.isfinite().all(1)].double()
    if len(logits) and bool((logits >= 0).all()) and bool(((logits.sum(1) - 1).abs() < 1e-3).all()):
        yield Finding(
            "probabilities",
            Severity.RESERVATION,
            "The outputs are probabilities (they sum to one), whose gradients vanish where the model is sure; "
            "return the logits, before softmax.",
        )
