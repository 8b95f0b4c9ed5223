"""The result of plica.certify: a lower bound of the robustness radius of each image."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

STEPS = 255  # of the parameter of a line, from 0 to 1: as it is stored, and as it is proved with


class CertificateStatus(Enum):
    """Why the search on an image ended; the value is a sentence."""

    PROVED = "Proved: no misclassified input lies within the radius."
    CLOSED = "The lower bound comes within a thousandth of the upper one: nothing is left to search."
    EFFORT = "The time or the nodes are spent; the best bound was kept."
    STUCK = "No part of the search can be divided further, and one is not proved; the best bound was kept."
    ATTACKED = "An attack has found a point within the radius: there is nothing to prove."
    MISCLASSIFIED = "Misclassified from the start: the radius is 0."
    NOT_FINITE = "The model gave values that are not finite; nothing is proved."
    FAILED = "An error was raised, which a note of the run names; nothing is proved."


class Split(NamedTuple):
    """The sign (1 or -1) that is fixed for one neuron: an input of an activation.

    Activations are counted from 0 in the order of computation, entries within the flattened values of one image.
    """

    activation: int
    neuron: int
    sign: int


@dataclass(frozen=True, eq=False)
class Leaf:
    """A part of the set around an image, and the numbers that prove one function of the logits positive there.

    Attributes:
        rival: the class that is excluded.
        splits: the signs that define the part, from the root.
        multipliers: of the splits, >= 0.
        slopes: STEPS times the parameters of the lines, all activations in one tensor.
    """

    rival: int
    splits: tuple[Split, ...]
    multipliers: tuple[float, ...]
    slopes: UInt8[Tensor, " k"]


@dataclass(frozen=True, eq=False)
class Lemma:
    """A bound of one neuron inside the network: the smallest of its bounds on parts that make up the whole set.

    Attributes:
        activation: the activation that takes the neuron's value, counted as in Split.
        neuron: the entry of the flattened input of that activation.
        sign: 1 for a lower bound of the value, -1 for a lower bound of minus the value.
        leaves: the parts. Their slopes are those of the lines before the activation; their rival has no meaning.
    """

    activation: int
    neuron: int
    sign: int
    leaves: tuple[Leaf, ...]


@dataclass(frozen=True, eq=False)
class Evidence:
    """The proof for one image.

    Attributes:
        slopes: as in Leaf, for the lines used for bounds inside the network; the same for all leaves.
        leaves: for every rival they make up the whole set.
        lemmas: in the order of their activations; the proof of each may use those of earlier activations.
    """

    slopes: UInt8[Tensor, " k"]
    leaves: tuple[Leaf, ...]
    lemmas: tuple[Lemma, ...] = ()


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
            allowed for; the network as run in float32 may differ from it by roundings. "executed": it holds for the
            network as run in float32, whatever the order in which sums are added.
        evidence: by which the radius is proved; None where it is 0.
    """

    radius: Float[Tensor, " b"]
    proved: Bool[Tensor, " b"]
    status: list[CertificateStatus]
    nodes: Int[Tensor, " b"]
    seconds: Float[Tensor, " b"]
    arithmetic: list[str]
    evidence: list[Evidence | None]

    def __len__(self) -> int:
        return len(self.status)

    def __repr__(self) -> str:
        """Counts and the median in a line, not the evidence."""
        found = self.radius[self.proved].cpu()
        median = f", median radius {float(found.median()):.4g}" if len(found) else ""
        ends = ", ".join(f"{count} {status.name}" for status, count in Counter(self.status).items())
        return f"Certificate({len(self)} images: {len(found)} proved{median}; {ends})"
