"""Metrics by name, as on the command line and in configuration."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from typing import cast

from plica.metrics.base import Metric
from plica.metrics.colour import CIEDE2000
from plica.metrics.dists import DISTS
from plica.metrics.lp import Lp
from plica.metrics.lpips import LPIPS
from plica.metrics.quality import MEASURES, Similarity
from plica.metrics.wasserstein import Wasserstein

NAMED: dict[str, Callable[[], Metric]] = {
    "dists": lambda: DISTS(LPIPS().maps),  # of AlexNet, all layers alike
    "lpips": LPIPS,
    "ciede2000": CIEDE2000,
    "wasserstein": Wasserstein,
    **{name: partial(Similarity, name) for name in MEASURES},
}


def imported(text: str, kind: str, known: str) -> object:
    """What module:name names; ValueError with one sentence, of what `kind` it should be and what else is `known`."""
    module, _, name = text.partition(":")
    if not module or not name or module.startswith("."):
        raise ValueError(f"The {kind} {text!r} names nothing of a module; {known}.")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"The {kind} {text!r} cannot be imported ({error}); {known}.") from None


def parse_metric(text: str) -> Metric:
    """The metric a string names: l1, l1.5, l2, linf, a key of NAMED, or module:function (any d(x, x_adv) -> (b,))."""
    known = f"write l1, l2, l1.5, linf (any l followed by p > 0), {', '.join(NAMED)}, or module:function"
    if text in NAMED:
        return NAMED[text]()
    if ":" in text:
        found = imported(text, "metric", known)
        if not callable(found):
            raise ValueError(
                f"The metric {text!r} is a {type(found).__name__}, not a function d(x, x_adv) -> (b,); {known}."
            )
        return cast(Metric, found)
    try:
        return Lp(text.removeprefix("l") if text.startswith("l") else "none")
    except ValueError:
        raise ValueError(f"There is no metric {text!r}; {known}.") from None
