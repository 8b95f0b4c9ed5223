"""Radii as curves, histograms and differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float64
from matplotlib.axes import Axes
from matplotlib.ticker import SymmetricalLogLocator
from torch import Tensor

from plica.analysis import compare, counts
from plica.analysis.contenders import Contender
from plica.core.result import Result
from plica.plot.style import COLOURS, line, ready

Radii = Result | Contender | Tensor | np.ndarray | Sequence[float]


def of(radii: Radii) -> Float64[np.ndarray, " b"]:
    """The radii of all images, inf where no point was found."""
    if isinstance(radii, Result):
        return np.where(radii.success.cpu().numpy(), radii.distance.cpu().numpy(), np.inf)
    if isinstance(radii, Contender):
        return radii.radius[radii.attacked]
    return np.asarray(radii.cpu() if isinstance(radii, Tensor) else radii, dtype=np.float64)


def accuracy_curve(
    answers: Mapping[str, Radii], axes: Axes | None = None, *, budgets: Sequence[float] = (), unit: str = "distance"
) -> Axes:
    """The share of images with a radius above each distance, a line per name, with a pointwise 95 % band (Wilson).
    A thin line is the share that is proved, where the answers hold lower bounds.

    Args:
        answers: radii by name, one for each image.
        axes: drawn on; those of a new figure if not given.
        budgets: distances to mark with dashed lines, and their values.
        unit: the label of the axis of distances.
    """
    axes = ready(axes)
    radii_of = {name: of(radii) for name, radii in answers.items()}
    finite = np.concatenate([radius[np.isfinite(radius)] for radius in radii_of.values()])
    top = float(np.quantile(finite, 0.98)) if len(finite) else 1.0
    distances = np.linspace(0, top, 400)
    for series, (name, radius) in enumerate(radii_of.items()):
        low, high = compare.band(radius, distances)
        axes.fill_between(distances, low, high, color=COLOURS[series % len(COLOURS)], alpha=0.15, linewidth=0)
        axes.plot(distances, compare.accuracy(radius, distances), label=name, **line(series))
        answer = answers[name]
        if isinstance(answer, Contender) and answer.lower is not None:
            proved = compare.accuracy(answer.lower[answer.attacked], distances)
            axes.plot(distances, proved, label=f"{name}, certified", linewidth=0.7, **line(series))
    _mark(axes, budgets)
    axes.set(xlim=(0, top), ylim=(0, 1), xlabel=unit, ylabel="accuracy")
    axes.yaxis.set_major_formatter("{x:.0%}")
    axes.legend()
    return axes


def radii_histogram(
    radii: Radii,
    axes: Axes | None = None,
    *,
    budgets: Sequence[float] = (),
    bins: int | None = None,
    unit: str = "radius",
) -> Axes:
    """A histogram of the radii, without those of misclassified images, 0, and of images without a point, inf; budgets
    are dashed lines (Fig. 7 b of "Implications of Solution Patterns"). bins: by default fewer for few images. axes and
    unit as for accuracy_curve."""
    axes = ready(axes)
    radius = of(radii)
    radius = radius[(radius > 0) & np.isfinite(radius)]
    axes.hist(radius.tolist(), bins=bins or counts.bins(len(radius)), color=COLOURS[0])
    _mark(axes, budgets)
    axes.set(xlabel=unit, ylabel="images", xlim=(0, None))
    axes.locator_params(axis="x", nbins=5)
    axes.locator_params(axis="y", nbins=5, integer=True)
    return axes


def radii_by_image(
    radii: Radii, axes: Axes | None = None, *, budgets: Sequence[float] = (), unit: str = "radius"
) -> Axes:
    """The radius of each image, in the images' order, with budgets across (Fig. 1 of the same paper); images without a
    point have none. axes and unit as for accuracy_curve."""
    axes = ready(axes)
    radius = of(radii)
    axes.plot(
        np.arange(len(radius)), np.where(np.isfinite(radius), radius, np.nan), ".", color=COLOURS[0], markersize=3
    )
    for budget in budgets:
        axes.axhline(budget, color="#c00000", linestyle="--", linewidth=0.9)
        text = axes.text(1, budget, f"{budget:.3g}", transform=axes.get_yaxis_transform(), ha="right", va="bottom")
        text.set(color="#c00000", fontsize=7)
    axes.set(xlabel="image", ylabel=unit, ylim=(0, None))
    return axes


def radius_difference(
    a: Radii, b: Radii, axes: Axes | None = None, *, names: tuple[str, str] = ("first", "second"), unit: str = "radius"
) -> Axes:
    """radius(b) - radius(a) of each image, sorted: where it is negative, b found a nearer point
    (Fig. 4 of "Optimizers Matter"). Linear up to the median difference, logarithmic beyond. Images for which one of
    them found no point are left out, and counted in the title; left out are also those that both say are misclassified.

    Args:
        a, b: radii of the same images.
        axes: drawn on; those of a new figure if not given.
        names: of a and b.
        unit: of the radii, for the label of the axis.
    """
    axes = ready(axes)
    first, second = of(a), of(b)
    compared = np.isfinite(first) & np.isfinite(second)
    compared &= (first > 0) | (second > 0)  # an image that is misclassified unperturbed needs no search
    change = np.sort(second[compared] - first[compared])
    rank = np.arange(len(change))
    for better, series, name in ((change < 0, 0, names[1]), (change > 0, 1, names[0])):
        label = f"{name} nearer: {int(better.sum())}"
        axes.fill_between(rank, np.where(better, change, 0), color=COLOURS[series], step="mid", label=label)
    left_out = int((np.isinf(first) | np.isinf(second)).sum())
    axes.set_title(f"{len(change)} images" + (f", {left_out} without a point" if left_out else ""))
    typical = float(np.median(np.abs(change[change != 0]))) if change.any() else 1.0
    axes.set_yscale("symlog", linthresh=typical, subs=[2, 5])
    few_decades = np.abs(change).max(initial=0) < 30 * typical  # whose powers of ten alone are too few ticks
    subs = [1, 2, 5] if few_decades else [1]
    axes.yaxis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=typical, subs=subs))
    axes.yaxis.set_major_formatter("{x:.3g}")
    axes.axhline(0, color="0.4", linewidth=0.6)
    axes.set(xlabel="images, sorted", ylabel=f"{unit}: {names[1]} \u2212 {names[0]}")
    axes.legend()
    return axes


def _mark(axes: Axes, budgets: Sequence[float]) -> None:
    """Dashed lines at the budgets, with their values at the top."""
    for budget in budgets:
        axes.axvline(budget, color="#c00000", linestyle="--", linewidth=0.9)
        text = axes.text(budget, 1, f"{budget:.3g} ", transform=axes.get_xaxis_transform(), va="top", clip_on=True)
        text.set_rotation(90)  # across, labels of near budgets would cover each other
        text.set(color="#c00000", fontsize=7)
