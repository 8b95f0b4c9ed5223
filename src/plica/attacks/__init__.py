"""The attacks, by name: each takes a Task and returns what it Found."""

from collections.abc import Callable

from plica.attacks.pwcf import pwcf
from plica.attacks.task import Found, Task

ATTACKS: dict[str, Callable[[Task], Found]] = {"pwcf": pwcf}
AUTO = "pwcf"
