"""Public attacks, for comparison and for models without a gradient: thin adapters to public packages.

Each is a method of `plica.attack` and is judged and counted like every other. A package is imported when its method is
used; `pip install "plica[peers]"` installs foolbox and pyautoattack; adv-lib is installed by hand (advlib.py).
"""

from __future__ import annotations

from plica.attacks.external.advlib import ADV_LIB
from plica.attacks.external.autoattack import AUTOATTACK
from plica.attacks.external.common import Peer
from plica.attacks.external.foolbox import FOOLBOX
from plica.attacks.external.szegedy import SZEGEDY

PEERS: dict[str, Peer] = {peer.name: peer for peer in (*FOOLBOX, *SZEGEDY, *AUTOATTACK, *ADV_LIB)}
