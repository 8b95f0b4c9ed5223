"""The first penalty method (Szegedy et al. 2014): min weight ||x' - x||_2^2 + cross-entropy towards a class, in the
box, by scipy's L-BFGS-B (BSD-3), with the largest weight that still leads to the class.

No maintained public package contains it any more. Without a target, the class is the most likely wrong one.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from plica.attacks.external.common import Peer, Watched
from plica.utils.optional import require


@dataclass(frozen=True)
class SzegedySettings:
    """How the budget is shared between weights.

    Attributes:
        evaluations: gradients for each weight; the last weight gets what is left.
        first_weight: of the squared distance, relative to the cross-entropy.
        factor: the weight is multiplied by it after a success and divided after a failure, until both have occurred.
    """

    evaluations: int = 20
    first_weight: float = 1.0
    factor: float = 10.0


SETTINGS = SzegedySettings()


def lbfgs(watched: Watched, norm: float, gradients: int, seed: int) -> None:
    """L-BFGS-B, at one gradient per evaluation; images are attacked one by one."""
    minimize = require("scipy.optimize", "This attack").minimize
    for one in watched.each():
        with torch.no_grad():
            logits = one(one.u)
        rest = logits.scatter(1, one.y[:, None], -torch.inf)
        target = rest.argmax(1) if one.targets is None else one.targets
        x = one.u.flatten().double().cpu().numpy()
        weight, low, high, left = SETTINGS.first_weight, 0.0, np.inf, gradients
        while left > 0:
            search = _Search(one, target, x, weight, min(SETTINGS.evaluations, left))
            with suppress(_SpentError):
                minimize(search, x, jac=True, method="L-BFGS-B", bounds=[(0, 1)] * len(x))
            left -= search.evaluations
            low, high = (max(low, weight), high) if search.met else (low, min(high, weight))
            weight = low * SETTINGS.factor if high == np.inf else (low * high) ** 0.5 or high / SETTINGS.factor


class _SpentError(Exception):
    """The budget of evaluations is spent. (L-BFGS-B checks its own limit, maxfun, only between steps.)"""


class _Search:
    """The objective and its gradient at x', as numpy arrays. met: whether the point with the smallest objective so far
    is of the target class."""

    def __init__(self, one: Watched, target: Tensor, x: np.ndarray, weight: float, most: int):
        self.one, self.target, self.x, self.weight, self.most = one, target, x, weight, most
        self.evaluations, self.least, self.met = 0, np.inf, False

    def __call__(self, z: np.ndarray) -> tuple[float, np.ndarray]:
        if self.evaluations >= self.most:
            raise _SpentError
        self.evaluations += 1
        u = torch.from_numpy(z).to(self.one.u).view_as(self.one.u).requires_grad_(True)
        with torch.enable_grad():
            logits = self.one(u)
            loss = cross_entropy(logits, self.target)
            (grad,) = torch.autograd.grad(loss, u)
        away = z - self.x
        value = self.weight * float(away @ away) + float(loss.detach())
        if value < self.least:
            self.least, self.met = value, bool(logits.argmax(1) == self.target)
        return value, 2 * self.weight * away + grad.flatten().double().cpu().numpy()


SZEGEDY = (Peer("lbfgs", "scipy", lbfgs, norms=(2.0,)),)
