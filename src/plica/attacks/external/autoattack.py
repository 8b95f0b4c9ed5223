"""AutoAttack's four (Croce, Hein 2020): APGD-CE, APGD-T, FAB-T and Square, from pyautoattack (MIT).

Settings are those of its standard version except for the number of iterations, which the budget determines; target
classes and, for l1, restarts share the budget (evaluation/method_sets.py has the budgets that give the standard
numbers). APGD and Square search a ball, so they answer MaxLoss only; FAB-T answers MinRadius as well. `apgd-dlr`
belongs to the version for models with random outputs. `apgd-margin` is the papers' APGD-M: Auto-PGD on the margin, a
loss that the package does not offer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from plica.attacks.boundary_search import boundary_search
from plica.attacks.external.common import Peer, Watched
from plica.core.losses import margin
from plica.metrics import Unsupported
from plica.utils.optional import require


@dataclass(frozen=True)
class AutoAttackSettings:
    """How a budget of gradients is shared; numbers of classes and restarts are those of the standard version.

    Attributes:
        targets: most classes that are aimed at, one after the other.
        targets_l1: the same for APGD-T under l1.
        restarts_l1: most restarts of APGD-CE under l1.
        phases_l1: phases of APGD under l1, with decreasing radii; each costs one gradient more than its iterations.
        restart_after: iterations of one restart; smaller budgets have fewer restarts.
        gradients_per_class: least number of gradients for one class; smaller budgets try fewer classes.
        queries: forward runs of Square per gradient of the budget; a gradient costs about as much.
        ends: runs of Square besides its steps: at the image, and at its first and last point.
        shrink: radius of Square's next ball for MinRadius, over the distance of the point found.
        boundary_forwards: forward runs at the end of Square's search that move the best point towards the boundary.
        smallest_side: least height and width in pixels; for smaller images the squares of Square's l1 form vanish.
    """

    targets: int = 9
    targets_l1: int = 5
    restarts_l1: int = 5
    phases_l1: int = 3
    restart_after: int = 100
    gradients_per_class: int = 3
    queries: int = 3
    ends: int = 3
    shrink: float = 0.7
    boundary_forwards: int = 6
    smallest_side: int = 8


SETTINGS = AutoAttackSettings()
NAMES = {1: "L1", 2: "L2", math.inf: "Linf"}


def _module(name: str):
    return require(f"pyautoattack.{name}", "This attack")


def _classes(watched: Watched, gradients: int, targets: int = SETTINGS.targets) -> int:
    return max(1, min(targets, watched.classes - 1, gradients // SETTINGS.gradients_per_class))


def _apgd_steps(norm: float, gradients: int) -> int:
    return max(4, gradients - SETTINGS.phases_l1) if norm == 1 else max(1, gradients - 1)


def _radius(watched: Watched) -> float:
    if watched.radius is None:
        raise ValueError("A ball is needed.")
    return float(watched.radius[0])


def _apgd(watched: Watched, norm: float, gradients: int, seed: int, loss: str):
    affordable = max(1, gradients // (SETTINGS.restart_after + SETTINGS.phases_l1))
    runs = min(SETTINGS.restarts_l1, affordable) if norm == 1 else 1
    return _module("autopgd_base").APGDAttack(
        watched, n_iter=_apgd_steps(norm, gradients // runs), norm=NAMES[norm], n_restarts=runs, eps=_radius(watched),
        seed=seed, loss=loss, device=watched.u.device, use_largereps=norm == 1,
    )  # fmt: skip


def apgd_ce(watched: Watched, norm: float, gradients: int, seed: int) -> None:
    """Auto-PGD on the cross-entropy."""
    _apgd(watched, norm, gradients, seed, "ce").perturb(watched.u, watched.y)


def apgd_dlr(watched: Watched, norm: float, gradients: int, seed: int) -> None:
    """Auto-PGD on the DLR loss, any class; the loss needs three classes."""
    if watched.classes < 3:
        raise Unsupported(f'apgd-dlr needs three classes, the model has {watched.classes}; use "apgd-ce" or "auto".')
    _apgd(watched, norm, gradients, seed, "dlr").perturb(watched.u, watched.y)


def apgd_margin(watched: Watched, norm: float, gradients: int, seed: int) -> None:
    """Auto-PGD on the margin, which replaces the package's DLR loss; both are functions of the logits and labels."""
    attack = _apgd(watched, norm, gradients, seed, "dlr")
    attack.dlr_loss = margin
    attack.perturb(watched.u, watched.y)


def apgd_t(watched: Watched, norm: float, gradients: int, seed: int) -> None:
    """Auto-PGD on the targeted DLR loss, one class after the other; the loss needs four classes."""
    if watched.classes < 4:
        raise Unsupported(f'apgd-t needs four classes, the model has {watched.classes}; use "apgd-ce" or "auto".')
    classes = _classes(watched, gradients, SETTINGS.targets_l1 if norm == 1 else SETTINGS.targets)
    attack = _module("autopgd_base").APGDAttack_targeted(
        watched, n_iter=_apgd_steps(norm, gradients // classes), norm=NAMES[norm], eps=_radius(watched), seed=seed,
        n_target_classes=classes, device=watched.u.device, use_largereps=norm == 1,
    )  # fmt: skip
    attack.perturb(watched.u, watched.y)


def fab(watched: Watched, norm: float, gradients: int, seed: int) -> None:
    """FAB towards whichever class is nearest at each iteration, which costs a gradient for each class."""
    _module("fab_pt").FABAttack_PT(
        watched, norm=NAMES[norm], n_iter=max(1, gradients // watched.classes),
        eps=0.0 if watched.radius is None else _radius(watched), seed=seed, device=watched.u.device,
    ).perturb(watched.u, watched.y)  # fmt: skip


def fab_t(watched: Watched, norm: float, gradients: int, seed: int) -> None:
    """FAB towards one class after the other, one gradient per iteration. Without a radius all classes are searched."""
    classes = _classes(watched, gradients)
    attack = _module("fab_pt").FABAttack_PT(
        watched, norm=NAMES[norm], n_iter=gradients // classes, eps=0.0 if watched.radius is None else _radius(watched),
        seed=seed, targeted=True, n_target_classes=classes, device=watched.u.device,
    )  # fmt: skip
    attack.perturb(watched.u, watched.y)


def takes_squares(x: Tensor) -> bool:
    """Whether `square` treats images of this shape."""
    return x.ndim == 4 and min(x.shape[2:]) >= SETTINGS.smallest_side


def square(watched: Watched, norm: float, gradients: int, seed: int) -> None:
    """Random search with squares: three forward runs for every gradient of the budget, and no gradient.

    For MinRadius the ball shrinks: the first one contains the box, and after a point is found the next one is a little
    smaller than its distance. Each image is searched alone: points this far away cannot be assigned to their images by
    distance.
    """
    if not takes_squares(watched.u):
        shape, least = tuple(watched.u.shape[1:]), f"height and width at least {SETTINGS.smallest_side}"
        raise Unsupported(
            f'square needs images (channels, height, width), {least}, got {shape}; use "hopskipjump" or "auto".'
        )
    runs = SETTINGS.queries * gradients
    if watched.radius is not None:
        _squares(watched, norm, runs, _radius(watched), seed)
        return
    for one in watched.each():
        before, radius = math.inf, one.u.numel() ** (1 / norm)  # large enough for the whole box
        while (left := runs - one.spent - SETTINGS.ends - SETTINGS.boundary_forwards) > 0:
            _squares(one, norm, left, radius, seed)
            reached = float(one.reached)
            if not reached < before:
                break
            before, radius = reached, SETTINGS.shrink * reached / one.span
        boundary_search(one.task, one.images, SETTINGS.boundary_forwards)


def _squares(watched: Watched, norm: float, runs: int, radius: float, seed: int) -> None:
    """At most `runs` steps of Square in a ball. If the package cannot tile the image for its first point, rows of
    pixels are added that the model does not see."""
    height, width = watched.u.shape[2:]
    rows = 0 if norm == math.inf else next(rows for rows in range(5) if _can_be_tiled(height + rows, width))
    attack = _module("square").SquareAttack(
        lambda u: watched(u[:, :, :height]), norm=NAMES[norm], n_queries=runs, eps=radius, seed=seed,
        device=watched.u.device, resc_schedule=False,
    )  # fmt: skip
    measured = attack.margin_and_loss

    def without_ties(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """A margin of 0 is replaced by a tiny positive one, which is no success either: the package fails if all
        margins are exactly 0."""
        margin, loss = measured(x, y)
        return margin.masked_fill(margin == 0, torch.finfo(margin.dtype).tiny), loss

    attack.margin_and_loss = without_ties
    attack.perturb(pad(watched.u, (0, 0, 0, rows)), watched.y)


def _can_be_tiled(height: int, width: int) -> bool:
    """Whether the package can tile an image of this size with squares of a fifth of its height, for the first point of
    its l1 and l2 forms: if these squares are single pixels, or if none exceeds the image."""
    side = height // 5
    first = (height - 5 * side) // 2
    return side == 1 or all(first + length // side * side <= length for length in (height, width))


AUTOATTACK = (
    Peer("apgd-ce", "pyautoattack", apgd_ce, targeted=False, ball=True),
    Peer("apgd-dlr", "pyautoattack", apgd_dlr, targeted=False, ball=True),
    Peer("apgd-margin", "pyautoattack", apgd_margin, targeted=False, ball=True),
    Peer("apgd-t", "pyautoattack", apgd_t, targeted=False, ball=True),
    Peer("fab", "pyautoattack", fab, targeted=False),
    Peer("fab-t", "pyautoattack", fab_t, targeted=False),
    Peer("square", "pyautoattack", square, targeted=False, black_box=True),
)
