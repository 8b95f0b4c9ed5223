"""The attacks, by name: each takes an AttackInput and returns an AttackOutput. A new one: docs/extend.md."""

from dataclasses import replace

from plica.attacks.base import Attack, AttackInput, AttackOutput, treats_perturbations
from plica.attacks.curved import curved
from plica.attacks.external import PEERS
from plica.attacks.external.autoattack import takes_squares
from plica.attacks.external.common import MissingPackageError
from plica.attacks.grid import grid
from plica.attacks.perceptual import PERCEPTUAL
from plica.attacks.pgd import pgd
from plica.attacks.prox_settings import has_prox
from plica.attacks.pwcf.search import pwcf
from plica.attacks.radius.concave import concave, is_concave
from plica.attacks.radius.search import radius as convex
from plica.attacks.radius.sparse import sparse
from plica.core.model.gradient import NoGradientError
from plica.core.status import Status
from plica.metrics import Unsupported, counts, plain_p
from plica.utils.registry import Registry

# gradients whose worth of runs is enough for decisions: at 600, radii in l2 were half those of squares, at 100 larger
DECISIONS = 300


def radius(task: AttackInput) -> AttackOutput:
    """The nearest point for a metric with a prox, in l_p for p < 1 by way of a q between p and 1; and for a count."""
    if counts(task.question.metric) is not None:
        return sparse(task)
    return concave(task) if is_concave(task.question.metric) else convex(task)


@treats_perturbations
def auto(task: AttackInput) -> AttackOutput:
    """The best there is: `radius` where the metric has a prox, `curved` without, `pwcf` for other perturbations.

    A model without gradient is attacked with forward runs only, and the status says so.
    """
    try:
        if task.question.through is not None:
            return pwcf(task)
        metric = task.question.metric
        return radius(task) if has_prox(metric) or counts(metric) is not None else curved(task)
    except NoGradientError:
        if task.question.through is not None and not hasattr(task.question.through, "grid"):
            raise
        if counts(task.question.metric) is not None:
            raise Unsupported(
                f"{task.question.metric} is searched along gradients, and the model has none with respect to x; use a "
                "straight-through estimator in it, or ask for l1, l2 or linf, which forward runs alone can answer."
            ) from None
    try:
        output = _black_box(task)(task)
    except MissingPackageError as error:
        raise MissingPackageError(f"The model has no gradient with respect to x, and {error}") from error
    return replace(output, status=[Status.BLACK_BOX] * len(task.x))


def _black_box(task: AttackInput) -> Attack:
    """The best that takes forward runs alone: `grid` for a perturbation of few unknowns, `square` for the norms and
    images that it has a form for, else `hopskipjump`, which for l2 is the better one with many runs."""
    if task.question.through is not None:
        return grid
    square = PEERS["square"]
    p, many = plain_p(task.question.metric), task.radius is None and task.gradients >= DECISIONS
    fits = p in square.norms and takes_squares(task.x) and task.targets is None and not (p == 2 and many)
    return square if fits else PEERS["hopskipjump"]


ATTACKS: Registry[Attack] = Registry(
    "plica.attacks",
    {
        "auto": auto,
        "pwcf": pwcf,
        "radius": radius,
        "curved": curved,
        "grid": grid,
        **{a.name: a for a in PERCEPTUAL},
        "pgd": pgd,
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
