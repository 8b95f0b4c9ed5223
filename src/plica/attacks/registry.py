"""The attacks, by name: each takes a Task and returns an AttackOutput. A new one: docs/extend.md."""

from collections.abc import Callable

from plica.attacks.base import AttackOutput, Task
from plica.attacks.curved import curved
from plica.attacks.external import PEERS
from plica.attacks.grid import grid
from plica.attacks.perceptual import PERCEPTUAL
from plica.attacks.prox_settings import has_prox
from plica.attacks.pwcf.search import pwcf
from plica.attacks.radius.concave import concave, is_concave
from plica.attacks.radius.search import radius as convex
from plica.metrics import Unsupported
from plica.utils.registry import Registry


def radius(task: Task) -> AttackOutput:
    """The nearest point for a metric with a prox; in l_p for p < 1 by way of a q between p and 1."""
    return concave(task) if is_concave(task.question.metric) else convex(task)


def auto(task: Task) -> AttackOutput:
    """The best there is: `radius` where the metric has a prox, `curved` without, `pwcf` for other perturbations."""
    if task.question.through is not None:
        return pwcf(task)
    return radius(task) if has_prox(task.question.metric) else curved(task)


ATTACKS: Registry[Callable[[Task], AttackOutput]] = Registry(
    "plica.attacks",
    {
        "auto": auto,
        "pwcf": pwcf,
        "radius": radius,
        "curved": curved,
        "grid": grid,
        **{a.name: a for a in PERCEPTUAL},
        **PEERS,
    },
)
MOVING = ("auto", "pwcf", "grid")  # those that answer perturbations other than x' = x + delta


def treats_perturbations(method: str) -> None:
    """Raises Unsupported unless the method treats perturbations x' = T(x, theta)."""
    if method not in MOVING:
        raise Unsupported(
            f"{method} adds a perturbation to the image and knows no other; with through=... use {' or '.join(MOVING)}."
        )
