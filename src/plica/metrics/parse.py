"""Metrics from text, as on the command line and in plans: l1, l1.5, linf, l0, a name of the table, file.py:function."""

from __future__ import annotations

import math
import re
import warnings
from typing import cast

from plica.metrics.base import Metric
from plica.metrics.lp import Lp
from plica.metrics.registry import METRICS
from plica.utils.factories import find
from plica.utils.messages import did_you_mean, shown

USUAL = 16  # a larger p without a decimal point, such as l22, is rarely meant


def metric_names() -> str:
    """The texts that parse_metric accepts, for messages and the command line."""
    named = ", ".join(METRICS)
    return (
        f"l1, l2, l1.5, linf (l followed by any p > 0), l0, l0-pixel, {named}, or file.py:function or "
        "package.module:function"
    )


def parse_metric(text: str) -> Metric:
    """The metric that a text names; file.py:function and package.module:function are any d(x, x_adv) -> (b,).

    Raises:
        ValueError: there is none, or it cannot be imported; one sentence.
    """
    if text in METRICS:
        return METRICS[text]()
    if ":" in text:
        metric = find(text, "metric")
        if not callable(metric):
            raise ValueError(
                f"The metric {text!r} is a {type(metric).__name__}, not a function d(x, x_adv) -> (b,); "
                f"write {metric_names()}."
            )
        return cast(Metric, metric)
    if text in ("l0", "l0-pixel"):
        return Lp(0, text.partition("-")[2] or None)
    power = re.fullmatch(r"l(inf|(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)", text, re.ASCII)
    if power is None or (power[1] != "inf" and not 0 < float(power[1]) < math.inf):
        similar = did_you_mean(text, ["l1", "l2", "linf", "l0", "l0-pixel", *METRICS])
        raise ValueError(f"There is no metric {shown(text)}; {similar}write {metric_names()}.")
    return Lp(power[1])


def warn_of_slip(text: str) -> None:
    """Warns of a p that is seldom meant, for text that somebody has typed."""
    p = text.removeprefix("l")
    if text.startswith("l") and p.isdecimal() and int(p) > USUAL:
        warnings.warn(f"{text} is the l_p norm with p = {p}; write {text}.0 if it is no slip.", stacklevel=2)
