"""Direction and penalty parameter for the next line search (Algorithm 1), from inner products alone.

The direction is d = -H (mu df + dc lam), with lam from the dual (25). Everything that steering needs to know about a
trial mu follows from the products P = [df, dc] H [df, dc]', so no trial uses an n-vector.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from plica.solver.bfgs_sqp.qp import box_qp


@dataclass(frozen=True)
class Steering:
    """The settings of Algorithm 1.

    Attributes:
        c_viol: share of the best possible reduction of the violation that a direction must achieve.
        c_mu: factor of mu from trial to trial.
        tries: most trials.
    """

    c_viol: float = 0.1
    c_mu: float = 0.9
    tries: int = 10

    def __post_init__(self):
        for name in ("c_viol", "c_mu"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"Steering({name}=...) must lie in (0, 1), got {getattr(self, name)}.")

    def __call__(
        self, c: Float[Tensor, "r m"], equalities: int, P: Float[Tensor, "r k k"], mu: Float[Tensor, " r"], tol: float
    ) -> tuple[Float[Tensor, "r k"], Float[Tensor, " r"]]:
        """Weights (mu, lam) of the gradients in -H^-1 d, and the new mu.

        mu is multiplied by c_mu until the linear model of the violation (27) decreases by at least c_viol times the
        decrease for the best direction (mu = 0). Rows whose violation no direction decreases, or is at most `tol`, keep
        their mu.
        """
        model = _Model(c, equalities, P)
        w = model.weights(mu)
        if c.shape[1] == 0:
            return w, mu
        violation = model.violation(torch.zeros_like(w))
        reduced = violation - model.violation(w)
        short = ((reduced < self.c_viol * violation) & (violation > tol)).nonzero()[:, 0]
        if len(short) == 0:
            return w, mu
        part = _Model(c[short], equalities, P[short])
        aim = self.c_viol * (violation[short] - part.violation(part.weights(torch.zeros_like(mu[short]))))
        mu, w, trial = mu.clone(), w.clone(), mu[short]
        open_ = reduced[short] < aim
        for _ in range(self.tries):
            if not bool(open_.any()):
                break
            trial = torch.where(open_, self.c_mu * trial, trial)
            w_trial = part.weights(trial)
            w[short] = torch.where(open_[:, None], w_trial, w[short])
            open_ = open_ & (violation[short] - part.violation(w_trial) < aim)
        mu[short] = trial
        return w, mu

    def best(
        self, c: Float[Tensor, "r m"], equalities: int, P: Float[Tensor, "r k k"]
    ) -> tuple[Float[Tensor, "r k"], Float[Tensor, " r"]]:
        """The weights of the best direction for the violation alone (mu = 0), and the share of the violation that it
        removes by the linear model."""
        model = _Model(c, equalities, P)
        w = model.weights(torch.zeros_like(c[:, 0]))
        return w, 1 - model.violation(w) / model.violation(torch.zeros_like(w)).clamp(min=torch.finfo(c.dtype).tiny)


@dataclass(frozen=True)
class _Model:
    """The linear model of the violation along d = -H (w G)."""

    c: Tensor
    equalities: int
    P: Tensor

    def weights(self, mu: Tensor) -> Tensor:
        """(mu, lam), lam from the dual (25): in [0, 1] for inequalities, in [-1, 1] for equalities."""
        hi = torch.ones_like(self.c[0])
        lo = torch.zeros_like(hi)
        lo[len(lo) - self.equalities :] = -1
        lam = box_qp(self.P[:, 1:, 1:], self.c - mu[:, None] * self.P[:, 1:, 0], lo, hi)
        return torch.cat([mu[:, None], lam], 1)

    def violation(self, w: Tensor) -> Tensor:
        """l(d; x) of Eq. (27).  (r,)"""
        ahead = self.c - (self.P[:, 1:] * w[:, None]).sum(2)
        split = self.c.shape[1] - self.equalities
        return ahead[:, :split].clamp(min=0).sum(1) + ahead[:, split:].abs().sum(1)
