"""What plica.certify answers: a lower bound of the robustness radius of each image."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from jaxtyping import Bool, Float, Int
from torch import Tensor


class CertificateStatus(Enum):
    """Why the search on an image ended; the value is a sentence."""

    PROVED = "Proved: no misclassified input lies within the radius."
    CLOSED = "The lower bound comes within a thousandth of the upper one: nothing is left to search."
    EFFORT = "The time or the nodes are spent; the best bound was kept."
    STUCK = "No part of the search can be divided further, and one is not proved; the best bound was kept."
    ATTACKED = "An attack has found a point within the radius: there is nothing to prove."
    MISCLASSIFIED = "Misclassified from the start: the radius is 0."
    NOT_FINITE = "The model gave values that are not finite; nothing is proved."


@dataclass(frozen=True)
class Certificate:
    """One entry per image, on the device of x.

    Attributes:
        radius: no misclassified input of the box lies nearer; 0 where nothing is proved, inf where no input of the box
            is misclassified. For MaxLoss the radius of the question where proved.
        proved: whether the radius is positive; for MaxLoss whether the whole radius of the question is proved.
        status: why the search on the image ended.
        nodes: parts of the input set that were bounded.
        seconds: wall time.
        arithmetic: "real": the bound holds for the network in real arithmetic, computed in float64 with every rounding
            allowed for. The network as run in float32 may differ from it by roundings.
    """

    radius: Float[Tensor, " b"]
    proved: Bool[Tensor, " b"]
    status: list[CertificateStatus]
    nodes: Int[Tensor, " b"]
    seconds: Float[Tensor, " b"]
    arithmetic: list[str]

    def __len__(self) -> int:
        return len(self.status)
