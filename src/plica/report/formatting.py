"""Numbers and questions as text of the report."""

from __future__ import annotations

import math
from collections.abc import Callable

from plica.analysis.compare import Interval
from plica.analysis.contenders import Group

MINUS, THIN, DASH = "\u2212", "\u2009", "\u2013"


def percent(share: float) -> str:
    """0.194 -> 19.4 %"""
    return f"{100 * share:.1f}{THIN}%"


def points(share: float) -> str:
    """-0.0152 -> -1.5, in percentage points."""
    return f"{100 * share:.1f}".replace("-", MINUS)


def distance(value: float) -> str:
    """Three digits; "not found" for inf."""
    if not math.isfinite(value):
        return "not found" if value > 0 else DASH
    return f"{value:.3g}".replace("-", MINUS)


def between(interval: Interval, write: Callable[[float], str] = distance) -> str:
    """value (low to high)"""
    return f"{write(interval.value)} ({span(interval, write)})"


def span(interval: Interval, write: Callable[[float], str] = distance) -> str:
    """low to high"""
    return f"{write(interval.low)} to {write(interval.high)}"


def title(group: Group, model: str = "") -> str:
    """The question as a heading, with the model if it is about one of several."""
    text = str(group)
    return text[0].upper() + text[1:] + (f", {model}" if model else "")


def budget(group: Group) -> float:
    """The radius of a max-loss question."""
    assert group.budget is not None
    return group.budget
