"""Stored answers beside what is measured anew: each check notes what differs and tells the rows that have it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64, Shaped
from torch import Tensor, nn

from plica.trust.audit.reference import Metric, Model, ParametricPerturbation, distances, margins, outputs
from plica.trust.probe import doubled

UNITS = 1000  # of rounding of the largest logit: margins of two honest runs differ by less
MADE = 1e-5  # of the pixels' range: by so much may two honest computations of T(x, theta) differ in float32
Differences = dict[str, list[str]]  # by kind, a sentence for each


@dataclass(frozen=True)
class MeasureContext:
    """With what a task is measured. sizes: rows of the calls in the model's own precision; float64 takes the last.

    fine: the model in float64, None where it cannot be had so. mask: the features that may move, None for all.
    through: T(x, theta) that made the points, and by_theta: the metric is d(x, theta).
    """

    model: Model
    metric: Metric
    radius: float | None
    bounds: tuple[float | Tensor, float | Tensor]
    sizes: tuple[int, ...]
    fine: Model | None = None
    mask: Tensor | None = None
    through: ParametricPerturbation | None = None
    by_theta: bool = False

    def with_float64(self, x: Float[Tensor, "b *image"]) -> MeasureContext:
        """The same with `fine`, tried on the first image."""
        return self if self.fine is not None else replace(self, fine=doubled(self.model, x))

    def precision(self, x: Tensor) -> torch.dtype:
        """That of the model's weights, or of x."""
        weights = self.model.parameters() if isinstance(self.model, nn.Module) else ()
        return next((w.dtype for w in weights if w.is_floating_point()), x.dtype)

    def far(self, x: Tensor, x_adv: Tensor, theta: Tensor | None) -> tuple[Float64[np.ndarray, " b"], float]:
        """Distances of the points, or of what they were made of, and the error of measuring, relatively."""
        if not self.by_theta:
            return distances(self.metric, x, x_adv)
        return (np.full(len(x), np.nan), 0.0) if theta is None else distances(self.metric, x, theta)

    def made_of(self, x: Tensor, theta: Tensor | None) -> Tensor | None:
        """theta, with the perturbation's start in rows of nan: their points are the images."""
        if theta is None or self.through is None:
            return theta
        return torch.where(theta.isnan().any(1, keepdim=True), self.through.start(x).to(theta), theta)

    def margins(self, x: Float[Tensor, "b *image"], y: Int64[np.ndarray, " b"]) -> Float64[np.ndarray, " b"]:
        """Margins in the best precision."""
        model, dtype = (self.model, self.precision(x)) if self.fine is None else (self.fine, torch.float64)
        return margins(outputs(model, x.to(dtype), self.sizes[-1]), y)


@dataclass(frozen=True)
class Answers:
    """Rows of samples beside their images and points, and the theta they were made of by a perturbation."""

    rows: list[dict[str, Any]]
    x: Float[Tensor, "b *image"]
    y: Int64[np.ndarray, " b"]
    x_adv: Float[Tensor, "b *image"]
    theta: Float[Tensor, "b k"] | None = None

    def column(self, name: str) -> Shaped[np.ndarray, " b"]:
        return np.array([row[name] for row in self.rows])

    @property
    def claimed(self) -> Bool[np.ndarray, " b"]:
        return self.column("success").astype(bool)

    def of(self, keep: Bool[np.ndarray, " b"]) -> Answers:
        """Some of them."""
        rows = [row for row, kept in zip(self.rows, keep, strict=True) if kept]
        mask = torch.as_tensor(keep)
        theta = None if self.theta is None else self.theta[mask]
        return Answers(rows, self.x[mask], self.y[keep], self.x_adv[mask], theta)

    def compare(self, ruler: MeasureContext, told: Differences) -> Bool[np.ndarray, " b"]:
        """Note all that differs; tells the rows whose success is not what it claims."""
        wrong = self._labels(told) | self._box(ruler, told) | self._made(ruler, told)
        return wrong | self._far(ruler, told) | self._classes(ruler, told)

    def _note(self, told: Differences, kind: str, wrong: np.ndarray, say: Callable[[int], str]) -> np.ndarray:
        for i in np.flatnonzero(wrong).tolist():
            told.setdefault(kind, []).append(f"image {self.rows[i]['id']}: {say(i)}")
        return wrong

    def _labels(self, told: Differences) -> np.ndarray:
        label = self.column("label")
        return self._note(told, "label", label != self.y, lambda i: f"label {label[i]} stored, {self.y[i]} in the data")

    def _box(self, ruler: MeasureContext, told: Differences) -> np.ndarray:
        """Points inside the bounds, to the last bit; nothing moved where nothing was found, or where it must not."""
        flat = self.x_adv.double().flatten(1).numpy()
        low, high = flat.min(axis=1), flat.max(axis=1)
        least, most = (torch.as_tensor(bound).to(self.x_adv) for bound in ruler.bounds)
        out = ~((self.x_adv >= least) & (self.x_adv <= most)).flatten(1).all(1).numpy()  # nan is outside
        if ruler.mask is not None:
            stirred = ((self.x_adv != self.x) & ~ruler.mask).flatten(1).any(1).numpy()
            out |= self._note(told, "mask", stirred, lambda i: "a feature moved that must not")
        moved = ~self.claimed & (self.x_adv != self.x).flatten(1).any(1).numpy()
        self._note(told, "moved", moved, lambda i: "no success, and yet the stored point is not the image")
        return self._note(told, "bounds", out & self.claimed, lambda i: f"pixels from {low[i]:.9g} to {high[i]:.9g}")

    @torch.no_grad()
    def _made(self, ruler: MeasureContext, told: Differences) -> np.ndarray:
        """Whether the perturbation applied to the stored theta gives the stored point."""
        if ruler.through is None:
            return np.zeros(len(self.y), dtype=bool)
        if self.theta is None:
            return self._note(told, "theta", self.claimed, lambda i: "the run has not kept what its point was made of")
        low, high = (float(bound) for bound in ruler.bounds)
        again = ruler.through(self.x, self.theta.to(self.x)).clamp(low, high)
        apart = (again - self.x_adv).abs().flatten(1).amax(1).double().numpy()
        off = self.claimed & ~(apart <= MADE * (high - low))
        return self._note(told, "theta", off, lambda i: f"the stored theta gives pixels {apart[i]:.3g} off the stored")

    def _far(self, ruler: MeasureContext, told: Differences) -> np.ndarray:
        """The stored distance, and the radius."""
        stored = self.column("distance").astype(float)
        d, near = ruler.far(self.x, self.x_adv, self.theta)
        off = self.claimed & ~(np.abs(d - stored) <= near * d + 1e-12)
        self._note(told, "distance", off, lambda i: f"distance {stored[i]:.9g} stored, {d[i]:.9g} measured")
        if ruler.radius is None:
            return off
        # sums of n squares in another order differ by n units of rounding
        beyond = self.claimed & (d > ruler.radius * (1 + (1e-12 if near < 1e-6 else near)))
        said = f"outside the radius {ruler.radius:.12g}"
        return off | self._note(told, "radius", beyond, lambda i: f"distance {d[i]:.12g}, {said}")

    def _classes(self, ruler: MeasureContext, told: Differences) -> np.ndarray:
        """Misclassified in float64 and at every batch size; right at the image where nothing was found."""
        own = ruler.precision(self.x_adv)
        runs = [(f"batches of {size}", ruler.model, own, size) for size in ruler.sizes]
        runs += [("float64", ruler.fine, torch.float64, ruler.sizes[-1])] if ruler.fine is not None else []
        wrong = np.zeros(len(self.y), dtype=bool)
        for words, model, dtype, size in runs:
            logits = outputs(model, self.x_adv.to(dtype), size)
            unit = UNITS * float(torch.finfo(own).eps) * np.abs(logits).max(axis=1)
            wrong |= self._margins(told, words, margins(logits, self.y), unit)
        return wrong

    def _margins(self, told: Differences, words: str, m: np.ndarray, unit: np.ndarray) -> np.ndarray:
        """One reading of the margins; `unit`: what rounding may change."""
        claimed, stored = self.claimed, self.column("margin").astype(float)
        missed = ~claimed & (m > unit) & ~np.isin(self.column("status"), ("NOT_FINITE", "FAILED"))
        off = claimed & (np.abs(m - stored) > np.maximum(unit, 0.4 * np.abs(stored)))
        self._note(
            told, f"missed in {words}", missed,
            lambda i: f"misclassified as it is, by a margin of {m[i]:.3g}, and counted as withstanding",
        )  # fmt: skip
        self._note(
            told, f"margin in {words}", off,
            lambda i: f"margin {stored[i]:.3g} stored, {m[i]:.3g} measured; is it the same model?",
        )  # fmt: skip
        return self._note(
            told, f"class in {words}", claimed & ~(m > 0),
            lambda i: f"classified rightly, by a margin of {-m[i]:.3g}",
        )  # fmt: skip
