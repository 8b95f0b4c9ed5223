"""plica.bracket: between which two numbers each image's robustness radius lies, by an attack and a certificate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jaxtyping import Bool, Float, Int
from torch import Tensor

from plica.api import attack
from plica.certify import Certificate, certify, check_certifiable
from plica.core.formulations import MinRadius
from plica.core.losses import Targets
from plica.core.result import Result

CLOSED = 1e-3  # a gap that counts as none


@dataclass(frozen=True)
class Bracket:
    """One entry per image.

    Attributes:
        lower: no misclassified input of the box lies nearer; 0 where nothing is proved.
        upper: the distance of a misclassified input; inf where none was found.
        result: the attack's.
        certificate: of the lower bounds.
    """

    lower: Float[Tensor, " b"]
    upper: Float[Tensor, " b"]
    result: Result
    certificate: Certificate

    @property
    def gap(self) -> Float[Tensor, " b"]:
        """upper / lower - 1; 0 where both are 0 or inf."""
        gap = self.upper / self.lower - 1
        return gap.masked_fill(self.upper == self.lower, 0)

    @property
    def closed(self) -> Bool[Tensor, " b"]:
        """Whether the gap is at most a thousandth: the radius is exact to that."""
        return self.gap <= CLOSED


def bracket(
    model: Callable[[Tensor], Tensor],
    x: Float[Tensor, "b *image"],
    y: Int[Tensor, " b"],
    question: MinRadius,
    *,
    gradients: int = 300,
    seconds: float = 10.0,
    nodes: int | None = None,
    seed: int = 0,
    bounds: tuple[float | Tensor, float | Tensor] = (0.0, 1.0),
    targets: Targets = None,
    **attacking: Any,
) -> Bracket:
    """The radius of every image from both sides: an attack's distance caps the search for a certificate.

    Args:
        model, x, y, bounds, targets: as in `plica.attack`; the model must be one that `plica.certify` can treat.
        question: a MinRadius under a metric that has lower bounds.
        gradients, seed: of the attack.
        seconds, nodes: of the certificate, for each image.
        attacking: further arguments of `plica.attack`.

    Raises:
        ValueError, TypeError: as `plica.attack` and `plica.certify`; a question that is no MinRadius.
        Unsupported: the metric or an operation of the model has no lower bounds; said before the attack.
    """
    if not isinstance(question, MinRadius):
        raise TypeError(
            f"plica.bracket answers plica.MinRadius(...), got {type(question).__name__}; use plica.certify."
        )
    check_certifiable(model, x, question)
    result = attack(
        model, x, y, question, gradients=gradients, seed=seed, bounds=bounds, targets=targets, **attacking
    )  # fmt: skip
    certificate = certify(
        model, x, y, question, upper=result.distance, seconds=seconds, nodes=nodes, bounds=bounds, targets=targets
    )
    return Bracket(certificate.radius, result.distance, result, certificate)
