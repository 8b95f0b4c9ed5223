"""Metrics that have a name, as on the command line and in plans: one line each. A new one: docs/extend.md.

l_p norms have names of their own, l followed by p (parse.py).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from plica.metrics.base import Metric
from plica.metrics.colour import CIEDE2000
from plica.metrics.dists import DISTS
from plica.metrics.lpips import LPIPS
from plica.metrics.quality import MEASURES, Similarity
from plica.metrics.wasserstein import Wasserstein
from plica.utils.registry import Registry

# name: a function without arguments that makes the metric
METRICS: Registry[Callable[[], Metric]] = Registry(
    "plica.metrics",
    {
        "dists": lambda: DISTS(LPIPS().maps),  # of AlexNet, all layers weighted equally
        "lpips": LPIPS,
        "ciede2000": CIEDE2000,
        "wasserstein": Wasserstein,
        **{name: partial(Similarity, name) for name in MEASURES},
    },
)
