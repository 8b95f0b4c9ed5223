"""One figure of results: images, perturbed images, and the magnified perturbations.

Each column is an image, the smallest radius first. Perturbations are drawn on a diverging colour map where zero is
white; for each pixel the channel that changed most is shown. At the right, a histogram of all magnitudes.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from torch import Tensor

from plica.core.result import Result

INK = "#1f3d5c"
# an odd number of colours, so that zero is exactly white
SIGNED = LinearSegmentedColormap.from_list("signed", ["#08306b", "#4a90c9", "#ffffff", "#e0684b", "#67000d"], N=257)
# inches: labels, one image, between images, above an image, the histogram's column
LEFT, CELL, GAP, TITLE, SIDE = 1.05, 1.05, 0.08, 0.2, 2.9


def draw_perturbations(
    file: str | Path,
    x: Float[Tensor, "b *image"],
    y: Shaped[Tensor, "b *label"],
    answers: Mapping[str, Result],
    classes: Sequence[str] | None = None,
    most: int = 8,
) -> None:
    """Write a picture (PNG) of at most `most` images, with two rows for each answer (metric's name -> result).

    The images have a perturbation in every answer; if there is no such image, in any answer. Images are (h, w) or
    (channels, h, w), three channels in colour, others averaged; any other shape is drawn as a curve over its entries.
    """
    page = _Page(columns=_spread(answers, most), answers=len(answers))
    if not page.columns:
        page.axes(0, 0, 0).set_axis_off()
        page.figure.axes[0].text(0, 0.5, "No image has a perturbation to show.", va="center")
    for column, row in enumerate(page.columns):
        _image(page.axes(0, 0, column), x[row], _name(y[row], classes), "image" if column == 0 else "")
    for group, (name, answer) in enumerate(answers.items(), start=1):
        for column, row in enumerate(page.columns):
            prediction = _name(answer.prediction[row], classes)
            _image(
                page.axes(group, 0, column),
                answer.x_adv[row],
                prediction,
                "perturbed,\npredicted as" if column == 0 else "",
            )
            unit = f"{name} distance" if len(name) < 8 else f"{name}\ndistance"
            label = f"perturbation,\n{unit},\nmagnification" if column == 0 else ""
            _perturbation(page.axes(group, 1, column), answer.x_adv[row] - x[row], float(answer.distance[row]), label)
        _histogram(page.side(group), name, x, answer)
    page.figure.savefig(file, format="png")


class _Page:
    """A figure laid out in inches: a group of one row for the images, then a group of two rows for each answer."""

    def __init__(self, columns: list[int], answers: int) -> None:
        self.columns = columns
        self.wide = LEFT + max(len(columns), 1) * (CELL + GAP)
        self.high = 0.1 + TITLE + CELL + answers * (0.16 + 2 * (TITLE + CELL)) + 0.1
        self.figure = Figure(figsize=(self.wide + SIDE, self.high), dpi=150, facecolor="white")
        FigureCanvasAgg(self.figure)

    def axes(self, group: int, line: int, column: int) -> Axes:
        """The axes of one image: its group, its row in the group, its column."""
        return self._add(LEFT + column * (CELL + GAP), self._top(group) + line * (TITLE + CELL) + TITLE, CELL, CELL)

    def side(self, group: int) -> Axes:
        """The wide axes at the right of a group."""
        return self._add(self.wide + 0.6, self._top(group) + TITLE, SIDE - 0.8, 2 * CELL + TITLE - 0.35)

    def _top(self, group: int) -> float:
        return 0.1 if group == 0 else 0.1 + TITLE + CELL + 0.16 + (group - 1) * (0.16 + 2 * (TITLE + CELL))

    def _add(self, left: float, top: float, wide: float, high: float) -> Axes:
        full_wide, full_high = self.figure.get_size_inches()
        bottom = full_high - top - high
        return self.figure.add_axes((left / full_wide, bottom / full_high, wide / full_wide, high / full_high))


def _spread(answers: Mapping[str, Result], most: int) -> list[int]:
    """Row numbers from the smallest to the largest distance of the first answer, evenly spread over its ranks."""
    moved = np.stack([_moved(answer) for answer in answers.values()])  # (answers, b)
    shown = np.flatnonzero(moved.all(axis=0) if moved.all(axis=0).any() else moved.any(axis=0))
    first = next(iter(answers.values())).distance.cpu().numpy()
    ranked = shown[np.argsort(first[shown], kind="stable")]
    picks = np.linspace(0, len(ranked) - 1, min(most, len(ranked))).round().astype(int)
    return [int(row) for row in ranked[picks]] if len(ranked) else []


def _moved(answer: Result) -> Bool[np.ndarray, " b"]:
    """Where a perturbation was found; misclassified images, at distance 0, need none."""
    return (answer.success & (answer.distance > 0)).cpu().numpy()


def _perturbation(axes: Axes, change: Float[Tensor, " *image"], distance: float, label: str) -> None:
    """One perturbation, magnified to the full scale of colours; one entry in a thousand may saturate."""
    delta = signed(change)
    times = float(f"{1 / scale(delta):.2g}")
    full = 1 / times
    _frame(axes, f"{distance:.3g} (\u00d7{times:g})", label)
    if delta.ndim == 2:
        axes.imshow(delta, cmap=SIGNED, vmin=-full, vmax=full, interpolation="nearest")
    else:
        axes.axhline(0.0, color="0.8", linewidth=0.5)
        axes.plot(delta, color=INK, linewidth=0.6)


def scale(change: Shaped[np.ndarray, "..."]) -> float:
    """The magnitude of the darkest colours: the 99.9 % quantile of |change|, at least a fifth of the largest, so that
    rounding beside a single changed pixel is not shown as a pattern; 1 where nothing changed."""
    size = np.abs(change)
    return max(float(np.quantile(size, 0.999)), float(size.max()) / 5) or 1.0


def _histogram(axes: Axes, name: str, x: Float[Tensor, "b *image"], answer: Result) -> None:
    """A histogram of |perturbation| over all entries of all perturbations of an answer."""
    moved = torch.from_numpy(_moved(answer)).to(x.device)
    if not moved.any():
        axes.set_axis_off()
        return
    size = (answer.x_adv - x)[moved].abs().flatten().double().cpu().numpy()
    axes.hist(size, bins=np.linspace(0, size.max(), 41).tolist(), color=INK, log=True)
    visible = (size > 0.5 / 255).mean()  # less than half a grey level would vanish in an 8-bit image
    axes.set_title(f"{name}: magnitudes over {int(moved.sum())} images", fontsize=8, color="0.15", pad=2.5)
    axes.set_xlabel(f"|perturbation| ({visible:.0%} above 1/510)", fontsize=7.5, color="0.15")
    axes.set_ylabel("entries", fontsize=7.5, color="0.15", labelpad=2)
    axes.tick_params(labelsize=7, color="0.6", labelcolor="0.3", length=2)
    axes.locator_params(axis="x", nbins=5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("0.6")


def _image(axes: Axes, image: Float[Tensor, " *image"], title: str, label: str) -> None:
    _frame(axes, title, label)
    pixels = _pixels(image)
    if pixels.ndim > 1:
        axes.imshow(pixels, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    else:
        axes.plot(pixels, color=INK, linewidth=0.6)


def _frame(axes: Axes, title: str, label: str) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set(linewidth=0.4, color="0.7")
    axes.set_title(title, fontsize=7.5, color="0.15", pad=2.5)
    axes.set_ylabel(label, fontsize=8, color="0.15", rotation=0, ha="right", va="center", labelpad=6)


def _pixels(image: Float[Tensor, " *image"]) -> Shaped[np.ndarray, "..."]:
    """(h, w, 3) or (h, w) of an image, else all entries in a row; two or four channels are averaged."""
    array = image.detach().float().cpu().numpy()
    if array.ndim == 3:
        return np.moveaxis(array, 0, 2).clip(0, 1) if len(array) == 3 else array.mean(0)
    return array if array.ndim == 2 else array.reshape(-1)


def signed(delta: Float[Tensor, " *image"]) -> Shaped[np.ndarray, "..."]:
    """(h, w): of the channels the signed entry of largest magnitude; else all entries in a row."""
    array = delta.detach().float().cpu().numpy()
    if array.ndim == 3:
        return np.take_along_axis(array, np.abs(array).argmax(0)[None], axis=0)[0]
    return array if array.ndim == 2 else array.reshape(-1)


def _name(label: Shaped[Tensor, "..."], classes: Sequence[str] | None) -> str:
    """The name of a class; empty for goals without classes."""
    if label.ndim or label.is_floating_point() or int(label) < 0:
        return ""
    return f"class {int(label)}" if classes is None else classes[int(label)]
