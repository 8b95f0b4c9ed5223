"""The style of figures: text of 8 points, the width of a column, colours that colour-blind readers can distinguish."""

from __future__ import annotations

import io
from contextlib import AbstractContextManager
from typing import Any

import matplotlib as mpl
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLUMN, PAGE = 3.35, 6.9  # inches: one column and the full width of a two-column page
# Okabe and Ito's set (2008), without its yellow, which is too light for lines on white
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (5, 1.5, 1, 1.5)), (0, (3, 1)), (0, (1, 2)), "-")
STYLE: dict[Any, Any] = {
    "font.size": 8, "axes.titlesize": 8, "axes.labelsize": 8, "xtick.labelsize": 7, "ytick.labelsize": 7,
    "legend.fontsize": 7, "legend.frameon": False, "axes.spines.top": False, "axes.spines.right": False,
    "axes.linewidth": 0.6, "lines.linewidth": 1.3, "xtick.major.width": 0.6, "ytick.major.width": 0.6,
    "axes.prop_cycle": cycler(color=COLOURS), "figure.constrained_layout.use": True, "figure.dpi": 150,
    "pdf.fonttype": 42, "svg.fonttype": "none",
}  # fmt: skip


def paper() -> AbstractContextManager:
    """A context in which matplotlib draws for papers; fonts are embedded in PDF and stay text in SVG."""
    return mpl.rc_context(STYLE)


def ready(axes: Axes | None, wide: float = COLUMN, high: float = 2.2) -> Axes:
    """`axes`, or those of a new figure."""
    if axes is not None:
        return axes
    with paper():
        return Figure(figsize=(wide, high)).add_subplot(axes_class=ShownAxes)


class ShownAxes(Axes):
    """Axes that a notebook shows as the picture of their figure, which belongs to no window."""

    def _repr_png_(self) -> bytes:
        return png(self)


class ShownGrid(np.ndarray):
    """An array of axes of one figure, which a notebook shows as its picture."""

    def _repr_png_(self) -> bytes:
        return png(self.flat[0])


def png(axes: Axes) -> bytes:
    """The figure of some axes, in the format PNG."""
    picture = io.BytesIO()
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.savefig(picture, format="png")
    return picture.getvalue()


def line(series: int) -> dict[str, Any]:
    """Colour and dashes of the k-th line."""
    return {"color": COLOURS[series % len(COLOURS)], "linestyle": DASHES[series % len(DASHES)]}
