"""Objective and violation during a run of the solver, for any problem written for plica.minimize."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from plica.plot.style import COLUMN, line, paper


class OutOfTime(Exception):  # noqa: N818 - not an error of the problem
    """A recorded function was called after its time was over."""


class Recorded:
    """A function for plica.minimize, on one problem, that records the objective, the largest violation and the seconds
    passed at every evaluation: `plica.minimize(recorded, x0)`, then `recorded.objective`, ...

    `seconds` after it was made, or since `restart`, the next call raises OutOfTime; the records remain.
    """

    def __init__(self, fun: Callable[[Tensor], Any], seconds: float = math.inf):
        self.fun, self.seconds = fun, seconds
        self.objective: list[float] = []
        self.violation: list[float] = []
        self.passed: list[float] = []
        self.start = time.monotonic()

    def restart(self) -> None:
        """Count the seconds from now on."""
        self.start = time.monotonic()

    def __call__(self, x: Tensor) -> Any:
        """fun(x); its objective, its largest violation and the time are recorded.

        Raises:
            OutOfTime: `seconds` have passed.
        """
        out = self.fun(x)
        f, *rest = out if isinstance(out, tuple) else (out,)
        c, h = (*rest, None, None)[:2]
        worst = 0.0
        if c is not None and c.numel():
            worst = max(worst, float(c.detach()[0].max()))
        if h is not None and h.numel():
            worst = max(worst, float(h.detach()[0].abs().max()))
        self.objective.append(float(f.detach()[0]))
        self.violation.append(worst)
        self.passed.append(time.monotonic() - self.start)
        if self.passed[-1] > self.seconds:
            raise OutOfTime
        return out


def trajectory(records: Mapping[str, Recorded], axes: tuple[Axes, Axes] | None = None) -> tuple[Axes, Axes]:
    """Objective, and violation on a logarithmic scale, against evaluations, on one as well, a line per name (Fig. 1 of
    "Optimizers Matter"). Violations below 1e-8 are drawn at 1e-8."""
    if axes is None:
        with paper():
            above, below = Figure(figsize=(COLUMN, 3.2)).subplots(2, 1, sharex=True)
    else:
        above, below = axes
    for series, (name, record) in enumerate(records.items()):
        evaluations = np.arange(1, len(record.objective) + 1)
        above.plot(evaluations, record.objective, label=name, **line(series))
        below.plot(evaluations, np.maximum(record.violation, 1e-8), **line(series))
    above.set_ylabel("objective")
    below.set(ylabel="violation", xlabel="evaluations", yscale="log", xscale="log")
    above.legend()
    return above, below
