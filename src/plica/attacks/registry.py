"""The attacks, by name: each takes an AttackInput and returns an AttackOutput. A new one: docs/extend.md."""

from plica.attacks.base import Attack, AttackInput, AttackOutput, treats_perturbations
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


def radius(task: AttackInput) -> AttackOutput:
    """The nearest point for a metric with a prox; in l_p for p < 1 by way of a q between p and 1."""
    return concave(task) if is_concave(task.question.metric) else convex(task)


@treats_perturbations
def auto(task: AttackInput) -> AttackOutput:
    """The best there is: `radius` where the metric has a prox, `curved` without, `pwcf` for other perturbations."""
    if task.question.through is not None:
        return pwcf(task)
    return radius(task) if has_prox(task.question.metric) else curved(task)


ATTACKS: Registry[Attack] = Registry(
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


def check_treats_perturbations(method: str) -> None:
    """Raises Unsupported unless the method is marked by `treats_perturbations`."""
    if not _treats_perturbations(method):
        able = " or ".join(name for name in ATTACKS if _treats_perturbations(name))
        raise Unsupported(f"{method} adds a perturbation to the image and knows no other; with through=... use {able}.")


def _treats_perturbations(method: str) -> bool:
    return getattr(ATTACKS[method], "perturbations", False)
