"""Adapts a network to pixels and logits: a normalisation before it, and its logits extracted from records after it."""

from __future__ import annotations

import dataclasses
import math
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

Normalisation = tuple[tuple[float, ...], tuple[float, ...]]  # mean and deviation, one for all channels or one each

NAMED: dict[str, Normalisation | None] = {
    "none": None,
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)),
    "half": ((0.5,), (0.5,)),
}
FIELDS = ("logits", "out", "output", "scores")  # where records keep the logits, in this order


@dataclass(frozen=True)
class LoadedModel:
    """The result of a loader.

    Attributes:
        net: the network.
        normalisation: that of its authors; None for none.
        one_by_one: whether the network takes one image at a time.
        says_normalisation: whether its authors specify a normalisation, even if that is none.
    """

    net: nn.Module
    normalisation: Normalisation | None = None
    one_by_one: bool = False
    says_normalisation: bool = True


def split_normalisation(spec: str) -> tuple[str, Normalisation | None, bool]:
    """ "net.onnx@imagenet" or "net.onnx@0.5,0.5,0.5/0.2,0.2,0.2" split into the model, its normalisation, and whether
    one was given.

    Raises:
        ValueError: the text after the @ looks like numbers, but is not a normalisation.
    """
    model, at, text = spec.rpartition("@")
    if at and text in NAMED:
        return model, NAMED[text], True
    if not (at and re.fullmatch(r"[\d.,eE+-]+(/[\d.,eE+-]+)?", text)):
        return spec, None, False  # an @ of the model's own
    try:
        mean, std = (tuple(float(word) for word in part.split(",")) for part in text.split("/"))
    except ValueError:
        mean = std = ()
    fits = mean and (len(mean) == len(std) or 1 in (len(mean), len(std)))
    if not fits or not all(map(math.isfinite, mean + std)) or not all(s > 0 for s in std):
        raise ValueError(
            f"{text!r} is not a valid normalisation; write mean/deviation, as 0.5/0.25 or "
            f"0.49,0.48,0.45/0.2,0.2,0.2, or one of {', '.join(NAMED)}."
        )
    return model, (mean, std), True


def logits_of(output: Any) -> Any:
    """The tensor of logits in a tuple, a mapping or a record; other outputs are returned unchanged.

    From a tuple the first entry is taken; from a mapping or record "logits", else "out", "output" or "scores", else its
    only entry.
    """
    if isinstance(output, Mapping):
        named = [output[name] for name in FIELDS if name in output]
        return logits_of(named[0] if named else next(iter(output.values()))) if named or len(output) == 1 else output
    if isinstance(output, tuple | list) and output and not hasattr(output, "logits"):
        return logits_of(output[0])
    if not isinstance(output, Tensor):
        tensors = [getattr(output, name) for name in FIELDS if isinstance(getattr(output, name, None), Tensor)]
        if not tensors and dataclasses.is_dataclass(output) and len(dataclasses.fields(output)) == 1:
            tensors = [getattr(output, dataclasses.fields(output)[0].name)]
        return tensors[0] if tensors else output
    return output


def forward_hook(module: nn.Module, inputs: Any, output: Any) -> Any:
    """The logits in place of the object that contains them, as a hook of torch.nn.Module."""
    return logits_of(output)


class Adapted(nn.Module):
    """logits(net((x - mean) / std)) for pixels x in [0, 1].

    Args:
        net: the network.
        normalisation: mean and std, of all channels or of each.
        one_by_one: the network takes one image at a time.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, net: nn.Module, normalisation: Normalisation | None = None, one_by_one: bool = False):
        super().__init__()
        self.net, self.one_by_one, self.normalises = net, one_by_one, normalisation is not None
        mean, std = normalisation or ((0.0,), (1.0,))
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32))

    def forward(self, x: Float[Tensor, "b *image"]) -> Float[Tensor, "b classes"]:
        if self.normalises:
            axes = [1] * max(x.ndim - 2, 0)
            x = (x - self.mean.view(1, -1, *axes)) / self.std.view(1, -1, *axes)
        if self.one_by_one:
            return torch.cat([logits_of(self.net(row)) for row in x.split(1)])
        return logits_of(self.net(x))


def takes_batches(net: nn.Module, example: Tensor, name: str) -> bool:
    """Whether two images give what each gives alone. Warns if they do not, since running one image at a time is slow.

    Args:
        net: the network.
        example: one image (1, *image), such as zeros.
        name: of the network, for the warning.
    """
    two = torch.cat([example, example + 0.5])
    with torch.no_grad():
        try:
            alone = torch.cat([logits_of(net(row)) for row in two.split(1)])
            together = logits_of(net(two))
            fits = together.shape == alone.shape and torch.allclose(together, alone, rtol=1e-3, atol=1e-4)
        except Exception:  # a graph for one image may raise anything
            fits = False
    if not fits:
        warnings.warn(
            f"{name} takes one image at a time and will be run so, which is slow; export it with a dynamic batch.",
            stacklevel=2,
        )
    return fits
