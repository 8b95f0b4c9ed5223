"""The attacks, by name: each takes a Task and returns what it Found."""

from collections.abc import Callable

from plica.attacks.curved import curved
from plica.attacks.geometry import has_prox
from plica.attacks.peers import PEERS
from plica.attacks.pwcf import pwcf
from plica.attacks.radius import radius
from plica.attacks.task import Found, Task


def auto(task: Task) -> Found:
    """The best that the metric allows: `radius` where it has a prox, else `curved`."""
    return radius(task) if has_prox(task.question.metric) else curved(task)


ATTACKS: dict[str, Callable[[Task], Found]] = {"auto": auto, "pwcf": pwcf, "radius": radius, "curved": curved, **PEERS}
