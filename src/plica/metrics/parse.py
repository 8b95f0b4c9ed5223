"""Metrics from text, as on the command line and in plans: l1, l1.5, linf, l0, a name of the table, module:function."""

from __future__ import annotations

import importlib
import math
import re
import warnings
from pathlib import Path
from typing import Any, cast

from plica.metrics.base import Metric
from plica.metrics.lp import Lp
from plica.metrics.registry import METRICS
from plica.utils.factories import same_default_device
from plica.utils.messages import did_you_mean, one_line, shown

USUAL = 16  # a larger p without a decimal point, such as l22, is rarely meant


def metric_names() -> str:
    """The texts that parse_metric accepts, for messages and the command line."""
    return f"l1, l2, l1.5, linf (l followed by any p > 0), l0, l0-pixel, {', '.join(METRICS)}, or module:function"


def parse_metric(text: str) -> Metric:
    """The metric that a text names; module:function is any d(x, x_adv) -> (b,).

    Raises:
        ValueError: there is none, or it cannot be imported; one sentence.
    """
    if text in METRICS:
        return METRICS[text]()
    if ":" in text:
        metric = import_object(text, "metric", f"write {metric_names()}")
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


def import_object(text: str, kind: str, cure: str) -> Any:
    """The object that module:name names.

    Args:
        text: module:name.
        kind: what it should be, for the message.
        cure: what else could be written, for the message.

    Raises:
        ValueError: it is not of this form, or cannot be imported; one sentence.
    """
    module, _, name = text.partition(":")
    if not module or not name or module.startswith("."):
        raise ValueError(f"The {kind} {text!r} is not of the form module:name; {cure}.")
    if module.endswith(".py"):
        if not Path(module).is_file():
            raise ValueError(f"The {kind} {shown(text)} names a file that does not exist; {cure}.")
        raise ValueError(
            f"The {kind} {shown(text)} names a file, and a module is needed: write {Path(module).stem}:{name}, and run "
            "the command where the file lies, or put its folder on PYTHONPATH."
        )
    try:
        with same_default_device(module):
            return getattr(importlib.import_module(module), name)
    except Exception as error:  # a module may raise anything while it is imported
        raise ValueError(
            f"The {kind} {shown(text)} cannot be imported ({one_line(error, named=True)}); {cure}."
        ) from error
