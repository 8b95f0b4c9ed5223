"""Training losses at the points of the inner problem, from logits at x and at x_adv.

plain    cross-entropy at x_adv (Madry et al. 2018)
trades   cross-entropy at x + weight KL(p(x) || p(x_adv)) (Zhang et al. 2019)
mart     -log p_y(x_adv) - log(1 - max_{k != y} p_k(x_adv)) + weight KL(p(x) || p(x_adv)) (1 - p_y(x))
         (Wang et al. 2020)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

TINY = 1e-12  # under a logarithm

Logits = Float[Tensor, "b classes"]


@dataclass(frozen=True)
class OuterLoss:
    """value(logits at x_adv, logits at x, y, weight) -> (b,). weight: its default; 0 if logits at x are not needed."""

    value: Callable[[Tensor, Tensor, Tensor, float], Tensor]
    weight: float


def plain(adv: Logits, clean: Logits, y: Int[Tensor, " b"], weight: float) -> Float[Tensor, " b"]:
    return cross_entropy(adv, y, reduction="none")


def trades(adv: Logits, clean: Logits, y: Int[Tensor, " b"], weight: float) -> Float[Tensor, " b"]:
    return cross_entropy(clean, y, reduction="none") + weight * _divergence(clean, adv)


def mart(adv: Logits, clean: Logits, y: Int[Tensor, " b"], weight: float) -> Float[Tensor, " b"]:
    other = adv.softmax(1).scatter(1, y[:, None], 0).amax(1)
    own = clean.softmax(1).gather(1, y[:, None])[:, 0]
    boosted = cross_entropy(adv, y, reduction="none") - (1 - other).clamp(min=TINY).log()
    return boosted + weight * _divergence(clean, adv) * (1 - own)


def _divergence(clean: Logits, adv: Logits) -> Float[Tensor, " b"]:
    """KL(p(x) || p(x_adv))."""
    log_clean, log_adv = clean.log_softmax(1), adv.log_softmax(1)
    return (log_clean.exp() * (log_clean - log_adv)).sum(1)


OUTER: dict[str, OuterLoss] = {
    "plain": OuterLoss(plain, 0.0),
    "trades": OuterLoss(trades, 6.0),
    "mart": OuterLoss(mart, 5.0),
}
