"""ALMA (Rony et al. 2021), PDPGD (Matyasko, Chau 2021), SDF (Abdollahpoorrostam et al. 2024), and FMN and DDN again, as
adv-lib has them (BSD-3).

adv-lib depends on visdom, for plots that are not used here, and visdom does not build with setuptools 82 and later
(it needs pkg_resources). So: `pip install --no-deps adv-lib` and `pip install tqdm torchvision setuptools` (the last
for distutils, from Python 3.12 on); if visdom is missing, an empty module replaces it during the import.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from plica.attacks.external.common import NORMS, Peer, Watched
from plica.metrics import plain_p
from plica.utils.optional import require, stand_ins

PACKAGE = "adv_lib.attacks"


class AdvLib(Peer):
    """A peer that is imported without visdom."""

    def __call__(self, task):
        with stand_ins("visdom"):
            return super().__call__(task)


def _aim(watched: Watched) -> dict:
    """The arguments that every attack of adv-lib takes."""
    aimed = watched.targets is not None
    return dict(model=watched, inputs=watched.u, labels=watched.targets if aimed else watched.y, targeted=aimed)


def _attack(name: str):
    return getattr(require(PACKAGE, "This attack"), name)


def _finish(watched: Watched, points: Tensor) -> None:
    with torch.no_grad():
        watched(points)  # the end point, which the attack may not have evaluated


def alma(watched: Watched, norm: float, gradients: int, seed: int) -> None:
    """Augmented Lagrangian: one gradient per step. The length of its first step and its smoothing are set for small
    budgets: with adv-lib's defaults, which are made for a thousand steps, radii under l1 at 100 gradients were four
    times as large (docs/benchmarks.md).

    Distances other than l1 and l2 are registered with adv-lib for the time of the call. Their first step is a fiftieth
    of the distance of noise of 0.1 per pixel; with a tenth, radii in CIEDE2000 at 1000 steps were 3.5 times as large.
    """
    torch.manual_seed(seed)
    first = 0.5 if norm == 1 else 0.1
    with _lent(watched) as name:
        if name not in NORMS.values():
            first = 0.02 * float(watched.distance(watched.u, (watched.u + 0.1).clamp(0, 1)).median())
        points = _attack("alma")(
            **_aim(watched), num_steps=gradients, distance=name, init_lr_distance=first,
            α=0.5 if gradients < 1000 else 0.9,
        )  # fmt: skip
    _finish(watched, points)


@contextmanager
def _lent(watched: Watched) -> Iterator[str]:
    """The name under which ALMA finds the question's distance: l1 or l2, which it has; for another distance "plica",
    which is added to its table within the context."""
    p = plain_p(watched.task.question.metric)
    if p in (1, 2):
        yield NORMS[p]
        return
    known = require(f"{PACKAGE}.augmented_lagrangian", "ALMA")._distances
    known["plica"] = watched.distance
    try:
        yield "plica"
    finally:
        del known["plica"]


def pdpgd(watched: Watched, norm: float, gradients: int, seed: int) -> None:
    """Primal-dual proximal gradient: one gradient per step."""
    torch.manual_seed(seed)
    _finish(watched, _attack("pdpgd")(**_aim(watched), norm=norm, num_steps=gradients))


def sdf(watched: Watched, norm: float, gradients: int, seed: int) -> None:
    """SuperDeepFool: steps of DeepFool, which cost a gradient per class, then a projection. Ends when all images are
    misclassified."""
    torch.manual_seed(seed)
    steps = max(1, min(100, gradients // watched.classes))
    _finish(watched, _attack("sdf")(**_aim(watched), steps=steps, df_steps=steps))


def fmn(watched: Watched, norm: float, gradients: int, seed: int) -> None:
    """Fast minimum norm: one gradient per step."""
    torch.manual_seed(seed)
    _finish(watched, _attack("fmn")(**_aim(watched), norm=norm, steps=gradients))


def ddn(watched: Watched, norm: float, gradients: int, seed: int) -> None:
    """Decoupled direction and norm, not rounded to 8 bits: one gradient per step."""
    torch.manual_seed(seed)
    _finish(watched, _attack("ddn")(**_aim(watched), steps=gradients, levels=None))


ADV_LIB = (
    AdvLib("alma", PACKAGE, alma, any_metric=True),
    AdvLib("pdpgd", PACKAGE, pdpgd),
    AdvLib("sdf", PACKAGE, sdf, norms=(2.0,), targeted=False),
    AdvLib("fmn-adv", PACKAGE, fmn),
    AdvLib("ddn-adv", PACKAGE, ddn, norms=(2.0,)),
)
