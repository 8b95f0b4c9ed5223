"""Figures of perturbations: images, magnitudes, and histograms of measures over images."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from torch import Tensor

from plica.analysis.counts import bins
from plica.analysis.patterns import MEASURES, l1_over_l2
from plica.plot.perturbations import SIGNED, scale, signed
from plica.plot.style import COLOURS, PAGE, ShownGrid, line, paper, ready

BINS = 40


def perturbation(delta: Float[Tensor, " *image"], axes: Axes | None = None, *, title: str = "") -> Axes:
    """One perturbation, red where a pixel is raised and blue where it is lowered; of several channels, for each pixel,
    that which changed most. The title states the change that the darkest colours stand for. Other shapes than
    (channels, h, w) and (h, w) are drawn as a curve."""
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
    axes.set(xlabel="magnitude")
    return axes


def panels(x: Float[Tensor, " *image"], points: Mapping[str, Float[Tensor, " *image"]]) -> np.ndarray:
    """One image under several methods, losses or distances: perturbation above, magnitudes below, l1/l2 between
    (Fig. 3 and 4 of "Implications of Solution Patterns").

    Args:
        x: the image.
        points: the perturbed image of each method, by its name.

    Returns:
        The axes, (2, methods), of a new figure.
    """
    with paper():
        wide = min(PAGE, 1.15 * max(len(points), 1))
        axes = Figure(figsize=(wide, 2.5)).subplots(2, len(points), squeeze=False, height_ratios=(1.4, 1))
        for column, (name, x_adv) in enumerate(points.items()):
            dense = float(l1_over_l2((x_adv - x)[None]))
            perturbation(x_adv - x, axes[0, column], title=name)
            magnitudes(x_adv - x, axes[1, column]).set_title(f"l1/l2 {dense:.3g}")
        axes[1, 0].set_ylabel("entries")
    return axes.view(ShownGrid)


def measure_histogram(
    perturbations: Mapping[str, Float[Tensor, "_ *image"] | np.ndarray],
    axes: Axes | None = None,
    *,
    measure: str = "l1_over_l2",
) -> Axes:
    """A histogram of a measure of plica.patterns over images, an outline per name (Fig. 5, 6 and 8 of the same paper).

    Args:
        perturbations: by name, x_adv - x (b, *image), or the measure itself (b,) as a numpy array.
        axes: drawn on; those of a new figure if not given.
        measure: a name in plica.patterns.MEASURES.
    """
    axes = ready(axes)
    values = {
        name: value if isinstance(value, np.ndarray) else MEASURES[measure](value).cpu().numpy()
        for name, value in perturbations.items()
    }
    values = {name: value[np.isfinite(value)] for name, value in values.items()}
    joined = np.concatenate(list(values.values()))
    count = bins(2 * len(joined))  # finer than for radii, as several outlines share them
    edges = np.linspace(joined.min(), joined.max(), count + 1) if len(joined) and joined.min() < joined.max() else count
    for series, (name, value) in enumerate(values.items()):
        weights = np.full(len(value), 1 / max(len(value), 1))
        axes.hist(value, bins=edges, weights=weights, histtype="step", linewidth=1.2, label=name, **line(series))
    axes.set(xlabel="l1/l2 of the perturbation" if measure == "l1_over_l2" else measure.replace("_", " "))
    axes.set_ylabel("share of images")
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.legend()
    return axes
