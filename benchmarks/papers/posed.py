"""The questions as the papers pose them for BFGS-SQP (section 3 of "Optimizers Matter"), with each idea to be left out.

plica's own `pwcf` poses them otherwise (docs/design/pwcf.md: other unknowns, several starts, an end at the first
success); what the papers say of their form is tested on their form. Unknowns are the pixels of x', which the network
sees clamped into [0, 1] (3.1.1):

    MaxLoss    min -min(loss, clip)  s.t.  d(x, x') <= radius            clip: 0.01 of the margin, 10 of cross-entropy
    MinRadius  min d(x, x')          s.t.  max_{i != y} f_i >= f_y       linf: a further unknown t (Eq. 12)

So that a point that is feasible to the tolerance counts, the radius is smaller by 1e-4 of it and the margin is to be
1e-4.

Constraints of linf: `plain` max |x' - x| <= radius, `entries` the 2 n of Eq. 9, `folded` those as one (Eq. 11).
`scaled`: distances times n^(1/2 - 1/p), so that they are of the size of l2.
"""

from __future__ import annotations

import math
from argparse import Namespace
from dataclasses import dataclass

import torch
from common import NORMS, Answers, Setting
from torch import Tensor, nn

from plica.analysis.patterns import l1_over_l2
from plica.core.losses import cross_entropy, margin
from plica.metrics import plain_p
from plica.solver import BFGSSQP, Autograd, Solution

INSIDE, PAST = 1 - 1e-4, 1e-4
OUTSIDE = 1 + 1e-3  # radii away from which an end point violates the constraint
EVALUATIONS = 400
TOL = 1e-6
CLIPS = {"margin": 0.01, "ce": 10.0}


@dataclass(frozen=True)
class Posed:
    """One way to pose a question about a network. radius: None for MinRadius; clip: None for no clipping."""

    net: nn.Module
    shape: tuple[int, ...]
    p: float
    ball: bool
    loss: str = "margin"
    clip: float | None = 0.01
    linf: str = "folded"
    scaled: bool = True

    def __call__(self, u: Tensor, x: Tensor, y: Tensor, radius: Tensor) -> tuple[Tensor, Tensor]:
        """Objective (b,) and constraints (b, m) at the unknowns u (b, n), with t behind them for MinRadius and linf."""
        n = x.shape[1]
        z, factor = u[:, :n], n ** (0.5 - 1 / self.p) if self.scaled else 1.0
        logits = self.net(z.clamp(0, 1).view(-1, *self.shape))
        if self.ball:
            loss = margin(logits, y) if self.loss == "margin" else cross_entropy(logits, y)
            return -(loss if self.clip is None else loss.clamp(max=self.clip)), self._excess(z - x, radius, factor)
        beyond = PAST - margin(logits, y)[:, None]
        if self.p < math.inf:
            return factor * torch.linalg.vector_norm(z - x, self.p, dim=1), beyond
        t = u[:, n]
        return factor * t, torch.cat([self._excess(z - x, t, factor), beyond], 1)

    def _excess(self, delta: Tensor, radius: Tensor, factor: float) -> Tensor:
        """What is <= 0 where the perturbation is within the radius.  (b, m)"""
        if self.p < math.inf:
            return factor * (torch.linalg.vector_norm(delta, self.p, dim=1) - radius)[:, None]
        if self.linf == "plain":
            return factor * (delta.abs().amax(1) - radius)[:, None]
        if self.linf == "entries":
            return torch.cat([delta, -delta], 1) - radius[:, None]
        return torch.linalg.vector_norm((delta.abs() - radius[:, None]).clamp(min=0), dim=1)[:, None]


@dataclass(frozen=True)
class Ended:
    """What a run left, an entry for each image: the point in the box, its margin and distance in float64, and the run's
    end."""

    x_adv: Tensor
    margin: Tensor
    distance: Tensor
    solution: Solution

    def broken(self, radius: Tensor | float = math.inf) -> Tensor:
        """Misclassified, and inside the radius."""
        return (self.margin > 0) & (self.distance <= radius)


def solve(posed: Posed, x: Tensor, y: Tensor, radius: Tensor | None, start: Tensor, solver: BFGSSQP) -> Ended:
    """From the images `start`, in float64: the solver's tests of its end need it."""
    flat, begin = x.double().flatten(1), start.double().flatten(1)
    inner = torch.zeros(len(x), dtype=torch.float64) if radius is None else INSIDE * radius.double()
    if not posed.ball and posed.p == math.inf:
        begin = torch.cat([begin, (begin - flat).abs().amax(1, keepdim=True)], 1)
    net = posed.net.double()
    try:
        solution = solver.solve(Autograd.of(posed, begin, (flat, y, inner)), begin)
        x_adv = solution.x[:, : flat.shape[1]].clamp(0, 1)
        with torch.no_grad():
            passed = margin(net(x_adv.view(-1, *posed.shape)), y)
    finally:
        posed.net.float()
    distance = torch.linalg.vector_norm(x_adv - flat, posed.p, dim=1)
    return Ended(x_adv.view(-1, *posed.shape), passed, distance, solution)


def noise(x: Tensor, radius: Tensor | float, p: float, seed: int) -> Tensor:
    """Images of the box at noise whose norm is half of the radius: where a run starts."""
    generator = torch.Generator().manual_seed(seed)
    delta = torch.randn(x.shape, generator=generator).flatten(1)
    length = 0.5 * torch.as_tensor(radius).float().expand(len(x))
    delta = delta * (length / torch.linalg.vector_norm(delta, p, dim=1))[:, None]
    return (x + delta.view_as(x)).clamp(0, 1)


def solver(evaluations: int = EVALUATIONS) -> BFGSSQP:
    """Ends by its own test of stationarity, or when so many evaluations are spent."""
    return BFGSSQP(tol=TOL, max_evaluations=evaluations, patience=None)


def kept(answers: Answers, given: Namespace, chosen: Setting, norm: str, radius: float, name: str, **how) -> dict:
    """The runs from noise within the radius on the first images that the network gets right, as one answer: for each
    image, whether it is broken, the distance over the radius, the measure of sparsity, evaluations and the end.

    how: of `Posed`. stages: 2 for four starts of an eighth of the evaluations each, of which the best goes on.
    """
    x, y = chosen.correct(given.n)
    stages, ball = how.pop("stages", 1), how.get("ball", True)
    posed = Posed(chosen.net, tuple(x.shape[1:]), float(plain_p(NORMS[norm]) or 0), **({"ball": True} | how))
    limit = torch.full((len(x),), radius, dtype=torch.float64)
    within = limit if ball else None

    def ask() -> dict:
        start, evaluations = noise(x, radius, posed.p, given.seed), given.evaluations
        if stages == 2:
            start, evaluations = _best_of(posed, x, y, limit, given), evaluations // 2
        ended = solve(posed, x, y, within, start, solver(evaluations))
        delta = ended.x_adv - x
        return {
            "broken": ended.broken(radius if ball else math.inf).tolist(),
            "violated": (ended.distance > OUTSIDE * radius).tolist() if ball else [False] * len(x),
            "distance": ended.distance.tolist(),
            "l1_over_l2": l1_over_l2(delta).tolist(),
            "evaluations": ended.solution.evaluations.tolist(),
            "status": [stop.name for stop in ended.solution.status],
        }

    key = f"{chosen.name} {norm} {radius:.4g} {name} n={len(x)} evaluations={given.evaluations} seed={given.seed}"
    return answers(key, ask)


def _best_of(posed: Posed, x: Tensor, y: Tensor, limit: Tensor, given: Namespace) -> Tensor:
    """Of four starts, run for an eighth of the evaluations each, the point to go on from: of the runs that are feasible
    the one of least objective, else the least violated."""
    best, value = x, torch.full((len(x),), math.inf, dtype=torch.float64)
    for k in range(4):
        start = noise(x, limit, posed.p, given.seed + k)
        ended = solve(posed, x, y, limit if posed.ball else None, start, solver(given.evaluations // 8))
        feasible = ended.solution.violation <= TOL
        rank = torch.where(feasible, ended.solution.f, 1e6 * (1 + ended.solution.violation))
        better = rank < value
        value = torch.where(better, rank, value)
        best = torch.where(better.view(-1, *[1] * (x.ndim - 1)), ended.x_adv, best)
    return best
