"""What perturbations look like: pictures, magnitudes, and how their measures spread over images."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from plica.analysis.patterns import MEASURES, l1_over_l2
from plica.plot.perturbations import SIGNED, scale, signed
from plica.plot.style import COLOURS, PAGE, line, paper, ready

BINS = 40


def perturbation(delta: Float[Tensor, " *image"], axes: Axes | None = None, *, title: str = "") -> Axes:
    """One perturbation with its sign, red raised and blue lowered, to its own scale, which the title tells."""
    axes = ready(axes, 1.2, 1.4)
    change = signed(delta)
    full = scale(change)
    if change.ndim == 2:
        axes.imshow(change, cmap=SIGNED, vmin=-full, vmax=full, interpolation="nearest")
    else:
        axes.plot(change, color=COLOURS[0], linewidth=0.6)
    axes.set_title("\n".join(filter(None, [title, f"\u00b1{full:.2g}"])))
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(True)
    return axes


def magnitudes(delta: Float[Tensor, " *image"], axes: Axes | None = None) -> Axes:
    """How many entries of one perturbation have which magnitude, counts on a logarithmic scale."""
    axes = ready(axes, 1.2, 1.0)
    size = delta.detach().abs().flatten().double().cpu().numpy()
    axes.hist(size.tolist(), bins=BINS, range=(0, float(size.max()) or 1.0), color=COLOURS[0], log=True)
    axes.set(xlabel="|change|")
    return axes


def panels(x: Float[Tensor, " *image"], found: Mapping[str, Float[Tensor, " *image"]]) -> np.ndarray:
    """One image under several methods, losses or distances: perturbation above, magnitudes below, l1/l2 between
    (Fig. 3 and 4 of "Implications of Solution Patterns"). Gives the axes, (2, methods)."""
    with paper():
        wide = min(PAGE, 1.15 * max(len(found), 1))
        axes = Figure(figsize=(wide, 2.5)).subplots(2, len(found), squeeze=False, height_ratios=(1.4, 1))
        for column, (name, x_adv) in enumerate(found.items()):
            dense = float(l1_over_l2((x_adv - x)[None]))
            perturbation(x_adv - x, axes[0, column], title=name)
            magnitudes(x_adv - x, axes[1, column]).set_title(f"l1/l2 {dense:.3g}")
    return axes


def measure_histogram(
    found: Mapping[str, Float[Tensor, "_ *image"] | np.ndarray],
    axes: Axes | None = None,
    *,
    measure: str = "l1_over_l2",
) -> Axes:
    """How a measure of plica.patterns spreads over images, an outline per name (Fig. 5, 6 and 8 of the same paper).

    found: perturbations (b, *image), or the measure itself (b,) as a numpy array.
    """
    axes = ready(axes)
    values = {
        name: given if isinstance(given, np.ndarray) else MEASURES[measure](given).cpu().numpy()
        for name, given in found.items()
    }
    values = {name: value[np.isfinite(value)] for name, value in values.items()}
    every = np.concatenate(list(values.values()))
    edges = np.linspace(every.min(), every.max(), BINS + 1) if len(every) and every.min() < every.max() else BINS
    for series, (name, value) in enumerate(values.items()):
        weights = np.full(len(value), 1 / max(len(value), 1))
        axes.hist(value, bins=edges, weights=weights, histtype="step", linewidth=1.2, label=name, **line(series))
    axes.set(xlabel="l1/l2 of the perturbation" if measure == "l1_over_l2" else measure.replace("_", " "))
    axes.set_ylabel("share of images")
    axes.legend()
    return axes
