"""FMN (Pintor et al. 2021), DDN (Rony et al. 2019), DeepFool (Moosavi-Dezfooli et al. 2016), the penalty methods C&W
(Carlini, Wagner 2017) and EAD (Chen et al. 2018), and Brendel-Bethge (2019), from foolbox (MIT).

FMN, DDN, C&W, EAD and Brendel-Bethge take one gradient per step. DeepFool takes one per class it considers, ten at
most, and at most 50 steps.
`fmn-projected` is the one method here that is not run as its authors ship it.
"""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from plica.attacks.boundary_search import boundary_search
from plica.attacks.external.common import Peer, Watched
from plica.utils.optional import require


@dataclass(frozen=True)
class HopSkipJumpSettings:
    """Settings of HopSkipJump; docs/design/blackbox.md has the alternatives that were measured.

    Attributes:
        queries: forward runs per gradient of the budget; a gradient costs about as much.
        first_directions: random directions from which the first gradient is estimated; later estimates take more.
        width: length of the differences from which a gradient is estimated, over the distance: foolbox's gamma divided
            by the number of features. It is also the accuracy with which the boundary is located. foolbox's default,
            1 / features, is too small compared with the noise of decisions.
        steps: most steps; usually the budget ends the search earlier.
        draws: of noise that are tried as a starting point.
        boundary_forwards: forward runs at the end that move the best point towards the boundary.
    """

    queries: int = 3
    first_directions: int = 20
    width: float = 0.3
    steps: int = 1000
    draws: int = 10
    boundary_forwards: int = 6


SETTINGS = HopSkipJumpSettings()


def _foolbox(module: str = "foolbox"):
    return require(module, "This attack")


def _run(attack, watched: Watched) -> None:
    model = _foolbox().PyTorchModel(watched, bounds=(0, 1), device=watched.u.device)
    points = attack.run(model, watched.u, _aim(watched))
    with torch.no_grad():
        watched(points)  # the end point, which the attack may not have evaluated


def _aim(watched: Watched):
    criteria = _foolbox().criteria
    if watched.targets is not None:
        return criteria.TargetedMisclassification(watched.targets)
    return criteria.Misclassification(watched.y)


def fmn(watched: Watched, norm: float, gradients: int, seed: int) -> None:
    """Fast minimum norm: one gradient per step. foolbox 3.3.4 does not project for l2: see `fmn_projected`."""
    attacks = _foolbox().attacks
    kind = {1: attacks.L1FMNAttack, 2: attacks.L2FMNAttack, math.inf: attacks.LInfFMNAttack}[norm]
    _run(kind(steps=gradients), watched)


def fmn_projected(watched: Watched, norm: float, gradients: int, seed: int) -> None:
    """Fast minimum norm for l2 with the projection of the paper. foolbox 3.3.4 divides a norm by itself in its place,
    so that nothing is projected, and radii are several times too large."""
    package, ep = _foolbox(), _foolbox("eagerpy")

    class L2FMN(package.attacks.L2FMNAttack):
        def project(self, x, x0, epsilon):
            size = (x - x0).flatten(1).norms.l2(axis=1)
            factor = ep.minimum(1, epsilon / ep.maximum(size, 1e-12))
            return x0 + (x - x0) * factor.reshape((-1, *[1] * (x.ndim - 1)))

    _run(L2FMN(steps=gradients), watched)


def ddn(watched: Watched, norm: float, gradients: int, seed: int) -> None:
    """Decoupled direction and norm: one gradient per step."""
    _run(_foolbox().attacks.DDNAttack(steps=gradients), watched)


def deepfool(watched: Watched, norm: float, gradients: int, seed: int) -> None:
    """Each step costs a gradient for each of the (at most ten) most likely classes except the image's own."""
    attacks = _foolbox().attacks
    kind = {2: attacks.L2DeepFoolAttack, math.inf: attacks.LinfDeepFoolAttack}[norm]
    cost = min(10, watched.classes) - 1
    _run(kind(steps=max(1, min(50, gradients // cost))), watched)


@dataclass(frozen=True)
class PenaltySettings:
    """How C&W and EAD share a budget; their authors' nine rounds of 10,000 steps are out of reach.

    Attributes:
        rounds: most rounds of the binary search for the weight of the penalty.
        steps: least number of steps in a round; smaller budgets have fewer rounds.
        first_weight: weight in the first round; it grows tenfold from round to round until a point is found.
        stepsize: for C&W in the variables of tanh, for EAD in pixels at its first step.
    """

    rounds: int = 9
    steps: int = 20
    first_weight: float = 1e-1
    stepsize: float = 1e-2


PENALTY = PenaltySettings()
BRENDEL_STEPS = 50  # of Brendel-Bethge per halving of its trust region: its authors' 1000 steps over their 20 halvings


def _rounds(gradients: int) -> dict:
    rounds = max(1, min(PENALTY.rounds, gradients // PENALTY.steps))
    return dict(
        binary_search_steps=rounds, steps=max(1, gradients // rounds), initial_const=PENALTY.first_weight,
        abort_early=False,
    )  # fmt: skip


def cw(watched: Watched, norm: float, gradients: int, seed: int) -> None:
    """Minimises the squared l2 distance plus a weight times the margin by Adam, with the box written by tanh; the
    weight is found by binary search."""
    _run(_foolbox().attacks.L2CarliniWagnerAttack(stepsize=PENALTY.stepsize, **_rounds(gradients)), watched)


def ead(watched: Watched, norm: float, gradients: int, seed: int) -> None:
    """C&W with the elastic net, mostly l1, as the distance, by FISTA. Each step costs an additional forward run."""
    attack = _foolbox().attacks.EADAttack(
        initial_stepsize=PENALTY.stepsize, decision_rule="L1", **_rounds(gradients)
    )  # fmt: skip
    _run(attack, watched)


def brendel_bethge(watched: Watched, norm: float, gradients: int, seed: int) -> None:
    """Moves along the boundary from a far misclassified point: each step goes to the nearest point, within a trust
    region, of the plane given by the gradient of the margin. Images are attacked one by one, since the package scales
    the region by the batch size. Its l1 form is left out: on a linear model it did not terminate."""
    attacks = _foolbox().attacks
    kind = {2: attacks.L2BrendelBethgeAttack, math.inf: attacks.LinfinityBrendelBethgeAttack}[norm]
    for one in watched.each():
        torch.manual_seed(seed)
        with torch.no_grad():
            start = _start(one, one)
        if start is not None:
            model = _foolbox().PyTorchModel(one, bounds=(0, 1), device=one.u.device)
            attack = kind(steps=gradients, lr_num_decay=max(1, gradients // BRENDEL_STEPS))
            attack.run(model, one.u, _aim(one), starting_points=start)


class _SpentError(Exception):
    """The budget of forward runs is spent."""


class _Limited(nn.Module):
    """The model, which raises _SpentError when its forward runs are spent. HopSkipJump itself has no budget, and halves
    its step until it succeeds."""

    def __init__(self, watched: Watched, runs: int):
        super().__init__()
        self.watched, self.runs = watched, runs
        self.eval()

    @torch.no_grad()
    def forward(self, u: Tensor) -> Tensor:
        if self.watched.spent >= self.runs:
            raise _SpentError
        return self.watched(u)


def hopskipjump(watched: Watched, norm: float, gradients: int, seed: int) -> None:
    """A search that uses only predicted classes (Chen, Jordan, Wainwright 2020), with three forward runs for every
    gradient of the budget, image by image. Distances other than linf are searched as l2."""
    package = _foolbox()
    for one in watched.each():
        torch.manual_seed(seed)
        limited = _Limited(one, SETTINGS.queries * gradients - SETTINGS.boundary_forwards)
        model = package.PyTorchModel(limited, bounds=(0, 1), device=one.u.device)
        attack = package.attacks.HopSkipJumpAttack(
            steps=SETTINGS.steps,
            initial_gradient_eval_steps=SETTINGS.first_directions,
            gamma=SETTINGS.width * one.u.numel(),
            constraint="linf" if norm == math.inf else "l2",
        )
        with suppress(_SpentError):
            start = _start(limited, one)
            if start is not None:
                attack.run(model, one.u, _aim(one), starting_points=start)
        boundary_search(one.task, one.images, SETTINGS.boundary_forwards)


def _start(model: nn.Module, one: Watched) -> Tensor | None:
    """A misclassified starting point (with a target, one of that class): noise, the inverted image, or one colour."""
    plain = [torch.full_like(one.u, shade) for shade in (0.0, 1.0, 0.5)]
    for u in (*(torch.rand_like(one.u) for _ in range(SETTINGS.draws)), 1 - one.u, *plain):
        found = model(u).argmax(1)
        if bool(found == one.targets if one.targets is not None else found != one.y):
            return u
    return None


FOOLBOX = (
    Peer("fmn", "foolbox", fmn),
    Peer("fmn-projected", "foolbox", fmn_projected, norms=(2.0,)),
    Peer("ddn", "foolbox", ddn, norms=(2.0,)),
    Peer("hopskipjump", "foolbox", hopskipjump, any_metric=True, black_box=True),
    Peer("cw", "foolbox", cw, norms=(2.0,)),
    Peer("ead", "foolbox", ead, norms=(1.0,)),
    Peer("brendel-bethge", "numba", brendel_bethge, norms=(2.0, math.inf)),
    Peer("deepfool", "foolbox", deepfool, norms=(2.0, math.inf), targeted=False),
)
