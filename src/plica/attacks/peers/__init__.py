"""Other attacks, to compare with: the project's own PGD, and thin adapters to what public packages have.

Each is a method of `plica.attack` and is judged and counted like every other. A package is imported when its method is
asked for; `pip install "plica[peers]"` brings foolbox and pyautoattack, adv-lib comes by hand (see advlib.py).
"""

from __future__ import annotations

from collections.abc import Callable

from plica.attacks.peers.advlib import ADV_LIB
from plica.attacks.peers.autoattack import AUTOATTACK
from plica.attacks.peers.foolbox import FOOLBOX
from plica.attacks.pgd import pgd
from plica.attacks.task import Found, Task

PEERS: dict[str, Callable[[Task], Found]] = {
    "pgd": pgd,
    **{peer.name: peer for peer in (*FOOLBOX, *AUTOATTACK, *ADV_LIB)},
}
