"""FMN (Pintor et al. 2021), DDN (Rony et al. 2019) and DeepFool (Moosavi-Dezfooli et al. 2016) from foolbox (MIT).

FMN and DDN take one gradient per step. DeepFool takes one per class it considers, ten at most, and at most 50 steps.
`fmn-projected` is the one method here that is not run as its authors ship it.
"""

from __future__ import annotations

import math

import torch

from plica.attacks.external.common import Peer, Watched
from plica.utils.optional import require


def _foolbox(module: str = "foolbox"):
    return require(module, "This attack")


def _run(attack, watched: Watched) -> None:
    package = _foolbox()
    model = package.PyTorchModel(watched, bounds=(0, 1), device=watched.u.device)
    aim = package.criteria.Misclassification(watched.y)
    if watched.targets is not None:
        aim = package.criteria.TargetedMisclassification(watched.targets)
    points = attack.run(model, watched.u, aim)
    with torch.no_grad():
        watched(points)  # the end point, which the attack may not have evaluated


def fmn(watched: Watched, norm: float, gradients: int, seed: int) -> None:
    """Fast minimum norm: one gradient per step. foolbox 3.3.4 does not project for l2: see `fmn_projected`."""
    attacks = _foolbox().attacks
    kind = {1: attacks.L1FMNAttack, 2: attacks.L2FMNAttack, math.inf: attacks.LInfFMNAttack}[norm]
    _run(kind(steps=gradients), watched)


def fmn_projected(watched: Watched, norm: float, gradients: int, seed: int) -> None:
    """Fast minimum norm for l2 with the projection of the paper: 3.3.4 divides a norm by itself there, so that nothing
    is projected and radii come out several times too large."""
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
    """A step costs a gradient for each of the (at most ten) likeliest classes but the image's own."""
    attacks = _foolbox().attacks
    kind = {2: attacks.L2DeepFoolAttack, math.inf: attacks.LinfDeepFoolAttack}[norm]
    cost = min(10, watched.classes) - 1
    _run(kind(steps=max(1, min(50, gradients // cost))), watched)


FOOLBOX = (
    Peer("fmn", "foolbox", fmn),
    Peer("fmn-projected", "foolbox", fmn_projected, norms=(2.0,)),
    Peer("ddn", "foolbox", ddn, norms=(2.0,)),
    Peer("deepfool", "foolbox", deepfool, norms=(2.0, math.inf), targeted=False),
)
