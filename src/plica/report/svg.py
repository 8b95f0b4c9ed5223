"""Charts as inline SVG: text stays text, and colours come from the page's style sheet, for dark mode and print.

A chart is 420 units wide, about the width of a phone, so that its text is readable there too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from markupsafe import Markup

WIDE, HIGH = 420, 260
COLOURS = 8  # of the style sheet, each with its dashes; the ninth series has the first colour again
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 24, 42
STEPS = 300  # corners of a curve; more could not be seen


@dataclass
class Chart:
    """An x range, a y range, and the marks drawn so far.

    Attributes:
        percent: whether the y axis is labelled in per cent.
        counts: whether it is labelled at whole numbers only.
    """

    name: str
    title: str
    description: str
    x: tuple[float, float]
    y: tuple[float, float]
    x_label: str
    y_label: str = ""
    percent: bool = False
    counts: bool = False
    high: int = HIGH
    marks: list[Markup] = field(default_factory=list)
    labels: list[tuple[int, float, float]] = field(default_factory=list)  # of rules: line of text, left and right end

    def line(self, xs: Sequence[float], ys: Sequence[float], series: int, label: str) -> None:
        """A curve in the colour and the dashes of its series."""
        points = " ".join(f"{self._x(x):.1f},{self._y(y):.1f}" for x, y in zip(xs, ys, strict=True))
        self.marks.append(
            Markup('<polyline class="line s{}" points="{}"><title>{}</title></polyline>').format(
                series % COLOURS, points, label
            )
        )

    def steps(self, xs: Sequence[float], ys: Sequence[float], series: int, label: str) -> None:
        """A curve that keeps ys[k] from xs[k] to xs[k + 1]."""
        self.line(np.repeat(xs, 2)[1:].tolist(), np.repeat(ys, 2)[:-1].tolist(), series, label)

    def band(self, xs: Sequence[float], lows: Sequence[float], highs: Sequence[float], series: int, label: str) -> None:
        """The area between two curves of steps, and a thin line along the lower one."""
        x = np.repeat(xs, 2)[1:].tolist()
        low, high = (np.repeat(ys, 2)[:-1].tolist() for ys in (lows, highs))
        floor = [f"{self._x(a):.1f},{self._y(b):.1f}" for a, b in zip(x, low, strict=True)]
        roof = [f"{self._x(a):.1f},{self._y(b):.1f}" for a, b in zip(x, high, strict=True)]
        self.marks.append(
            Markup('<polygon class="band s{0}" points="{1}"/><polyline class="line floor s{0}" points="{2}"><title>{3}')
            .format(series % COLOURS, " ".join([*floor, *reversed(roof)]), " ".join(floor), label)
            + Markup("</title></polyline>")
        )  # fmt: skip

    def bars(self, edges: Sequence[float], heights: Sequence[float], series: int) -> None:
        """A histogram."""
        foot = self._y(self.y[0])
        for left, right, height in zip(edges[:-1], edges[1:], heights, strict=True):
            if height <= self.y[0]:
                continue
            x, top = self._x(left), self._y(height)
            self.marks.append(
                Markup('<rect class="bar s{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"/>').format(
                    series % COLOURS, x, top, max(self._x(right) - x - 0.6, 0.6), foot - top
                )
            )

    def dot(self, x: float, y: float, series: int, label: str) -> None:
        """A marked point."""
        self.marks.append(
            Markup('<circle class="dot s{}" cx="{:.1f}" cy="{:.1f}" r="4.5"><title>{}</title></circle>').format(
                series % COLOURS, self._x(x), self._y(y), label
            )
        )

    def rule(self, x: float, label: str) -> None:
        """A dashed vertical line with its name at the top, or below the names of others that it would cover."""
        if not self.x[0] <= x <= self.x[1]:
            return
        left = self._x(x)
        side = "end" if left > WIDE * 0.7 else "start"
        width = 4 + 6.5 * len(label)
        start, end = (left - width, left) if side == "end" else (left, left + width)
        taken = {row for row, low, high in self.labels if low < end and start < high}
        row = next(row for row in range(len(taken) + 1) if row not in taken)
        self.labels.append((row, start, end))
        self.marks.append(
            Markup('<line class="rule" x1="{0:.1f}" x2="{0:.1f}" y1="{1}" y2="{2}"/>').format(
                left, TOP, self.high - BOTTOM
            )
            + Markup('<text class="note" x="{:.1f}" y="{}" text-anchor="{}">{}</text>').format(
                left + (-4 if side == "end" else 4), TOP + 10 + 13 * row, side, label
            )
        )

    def __html__(self) -> Markup:
        head = Markup(
            '<svg class="chart" viewBox="0 0 {w} {h}" role="img" aria-labelledby="{n}-t {n}-d">'
            '<title id="{n}-t">{t}</title><desc id="{n}-d">{d}</desc>'
        ).format(w=WIDE, h=self.high, n=self.name, t=self.title, d=self.description)
        return head + self._grid() + Markup("").join(self.marks) + Markup("</svg>")

    def _grid(self) -> Markup:
        low, right = self.high - BOTTOM, WIDE - RIGHT
        out = []
        for value in ticks(*self.y, whole=self.counts):
            y = self._y(value)
            text = f"{value:.0%}".replace("%", "\u2009%") if self.percent else number(value)
            out.append(Markup('<line class="grid" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>').format(LEFT, right, y, y))
            if self.y_label or self.percent:
                out.append(
                    Markup('<text class="tick" x="{}" y="{:.1f}" text-anchor="end">{}</text>').format(
                        LEFT - 6, y + 4, text
                    )
                )
        for value in ticks(*self.x):
            out.append(
                Markup('<text class="tick" x="{:.1f}" y="{}" text-anchor="middle">{}</text>').format(
                    self._x(value), low + 16, number(value)
                )
            )
        out.append(Markup('<line class="axis" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(LEFT, right, low, low))
        middle = (LEFT + right) / 2
        out.append(
            Markup('<text class="label" x="{}" y="{}" text-anchor="middle">{}</text>').format(
                middle, self.high - 6, self.x_label
            )
        )
        if self.y_label:
            out.append(Markup('<text class="label" x="2" y="11">{}</text>').format(self.y_label))
        return Markup("").join(out)

    def _x(self, value: float) -> float:
        low, high = self.x
        return LEFT + (WIDE - LEFT - RIGHT) * (min(max(value, low), high) - low) / ((high - low) or 1)

    def _y(self, value: float) -> float:
        low, high = self.y
        return (
            self.high - BOTTOM - (self.high - TOP - BOTTOM) * (min(max(value, low), high) - low) / ((high - low) or 1)
        )


def ticks(low: float, high: float, whole: bool = False) -> list[float]:
    """About five round numbers within a range; of them only whole ones if `whole`."""
    from matplotlib.ticker import MaxNLocator  # not above: see cli/app.py

    values = MaxNLocator(5, steps=[1, 2, 2.5, 5, 10], integer=whole).tick_values(low, high)
    slack = 1e-9 * (high - low)
    return [float(v) for v in values if low - slack <= v <= high + slack]


def number(value: float) -> str:
    """0.25, 8, 0.0003, 2e+05: five significant digits at most."""
    if value and not 1e-4 <= abs(value) < 1e5:
        return f"{value:.2g}"
    return f"{value:.5g}"


def box(quantiles: Sequence[float], limits: tuple[float, float], series: int, label: str) -> Markup:
    """A box plot for a line of a table: from the 5 % to the 95 % quantile, a box of the middle half, the median."""
    low, high = limits
    lefts = [2 + 156 * min(max((q - low) / ((high - low) or 1), 0), 1) if math.isfinite(q) else 158 for q in quantiles]
    a, b, m, _c, d = (f"{p:.1f}" for p in lefts)
    return Markup(
        '<svg class="box s{s}" viewBox="0 0 160 16" role="img" aria-label="{t}"><line x1="{a}" x2="{d}" y1="8" y2="8"/>'
        '<rect x="{b}" width="{w:.1f}" y="3" height="10"/><line class="median" x1="{m}" x2="{m}" y1="1" y2="15"/></svg>'
    ).format(s=series % COLOURS, t=label, a=a, b=b, m=m, d=d, w=max(lefts[3] - lefts[1], 1))


def swatch(series: int) -> Markup:
    """The line of a series, for a legend."""
    return Markup(
        '<svg class="swatch" viewBox="0 0 28 8" aria-hidden="true">'
        '<line class="line s{}" x1="0" x2="28" y1="4" y2="4"/></svg>'
    ).format(series % COLOURS)


def thin(xs: np.ndarray, most: int = STEPS) -> np.ndarray:
    """At most `most` of the sorted values, including both ends."""
    if len(xs) <= most:
        return xs
    return xs[np.linspace(0, len(xs) - 1, most).round().astype(int)]
