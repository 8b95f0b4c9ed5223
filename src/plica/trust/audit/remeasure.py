"""Compares stored results with new measurements: each check records what differs and returns the rows concerned."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64, Shaped
from torch import Tensor

from plica.trust.audit.reference import (
    Goal,
    Metric,
    Model,
    ParametricPerturbation,
    distances,
    margins,
    outputs,
    precision_of,
)
from plica.trust.probe import doubled, half_precision

UNITS = 1000  # of rounding of the largest logit; margins of two correct runs differ by less
HALF_UNITS = 4  # the same in half precision, where sums are taken in float32
LEVEL_UNITS = 4  # of rounding of the largest bound; a pixel on a level differs from it by less
THETA_TOLERANCE = 1e-5  # of the pixels' range; two correct computations of T(x, theta) in float32 differ by less
DRAWS = 200  # of a model with random outputs
JUDGED = 100  # of those the stored share was counted on
SIGMAS = 4.0  # standard deviations that two shares may differ by
Differences = dict[str, list[str]]  # by kind, a sentence for each


@dataclass(frozen=True)
class MeasureContext:
    """The model, metric and limits with which the results of a task are measured.

    Attributes:
        model: in its own precision.
        metric: p of an l_p norm, or any distance.
        radius: of max-loss, in the metric's units; None for min-radius.
        bounds: least and largest value of a pixel.
        sizes: batch sizes in the model's own precision; float64 uses the last one.
        fine: the model in float64; None where it cannot be copied so.
        mask: the features that may move; None for all.
        through: T of x_adv = T(x, theta); None for x + delta.
        by_theta: the metric is d(x, theta).
        goal: the margin of an output, positive where the answer's goal is reached.
        at_random: the model has random outputs, and was attacked with draws: shares of its draws are compared.
        levels: of the grid that the points lie on; None for any numbers.
        classes: whether the goal knows classes, so that one is predicted.
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
    goal: Goal = margins
    at_random: bool = False
    levels: int | None = None
    classes: bool = True

    @property
    def counts(self) -> bool:
        """Whether the metric is a number of changed entries or pixels."""
        return not callable(self.metric) and self.metric <= 0

    def with_float64(self, x: Float[Tensor, "b *image"]) -> MeasureContext:
        """The same with `fine`, which is tried on the first image of x; of a model in half precision it would be
        another model."""
        if self.at_random or self.fine is not None or self.half(x) is not None:
            return self
        return replace(self, fine=doubled(self.model, x))

    def half(self, x: Float[Tensor, "b *image"]) -> torch.dtype | None:
        """The half precision that the model computes in, if it does."""
        return half_precision(self.model, x[:1].to(precision_of(self.model, x)))

    def pixel_rounding(self, x: Tensor) -> float:
        """How far two levels of the grid may be apart more than they are, each rounded to the dtype of x."""
        if self.levels is None or self.metric != np.inf:
            return 0.0
        return torch.finfo(x.dtype).eps / 2 * max(float(torch.as_tensor(bound).abs().max()) for bound in self.bounds)

    def distances(self, x: Tensor, x_adv: Tensor, theta: Tensor | None) -> tuple[Float64[np.ndarray, " b"], float]:
        """Distances of the points, or of their theta if `by_theta`, and the relative error of the measurement."""
        if not self.by_theta:
            return distances(self.metric, x, x_adv)
        return (np.full(len(x), np.nan), 0.0) if theta is None else distances(self.metric, x, theta)

    def made_of(self, x: Tensor, theta: Tensor | None) -> Tensor | None:
        """theta, with the perturbation's start in rows of nan, where the point is the image itself."""
        if theta is None or self.through is None:
            return theta
        return torch.where(theta.isnan().any(1, keepdim=True), self.through.start(x).to(theta), theta)

    def margins(self, x: Float[Tensor, "b *image"], y: Shaped[np.ndarray, "b *label"]) -> Float64[np.ndarray, " b"]:
        """Margins in float64 where there is such a copy, else in the model's precision."""
        model, dtype = (self.model, precision_of(self.model, x)) if self.fine is None else (self.fine, torch.float64)
        return self.goal(outputs(model, x.to(dtype), self.sizes[-1]), y)

    def shares(self, x: Float[Tensor, "b *image"], y: Shaped[np.ndarray, "b *label"]) -> Float64[np.ndarray, " b"]:
        """The share of DRAWS runs of the model, in its own precision, in which the goal is reached."""
        x = x.to(precision_of(self.model, x))
        with torch.random.fork_rng():
            torch.manual_seed(0)  # an audit says the same each time, of models that draw by torch
            reached = [self.goal(outputs(self.model, x, self.sizes[-1]), y) > 0 for _ in range(DRAWS)]
        return np.mean(reached, axis=0)


@dataclass(frozen=True)
class Answers:
    """Rows of the samples with their images and points, and theta where a perturbation made the points.

    y: what the goal compares with. label: the class in the data, -1 where there is none.
    """

    rows: list[dict[str, Any]]
    x: Float[Tensor, "b *image"]
    y: Shaped[np.ndarray, "b *label"]
    x_adv: Float[Tensor, "b *image"]
    label: Int64[np.ndarray, " b"]
    theta: Float[Tensor, "b k"] | None = None

    def column(self, name: str) -> Shaped[np.ndarray, " b"]:
        return np.array([row[name] for row in self.rows])

    @property
    def claimed(self) -> Bool[np.ndarray, " b"]:
        return self.column("success").astype(bool)

    @property
    def measured(self) -> Bool[np.ndarray, " b"]:
        """Rows for which the method had an answer, with or without a success."""
        return self.claimed | ~np.isin(self.column("status"), ("NOT_FINITE", "FAILED"))

    def of(self, keep: Bool[np.ndarray, " b"]) -> Answers:
        """Some of the answers."""
        rows = [row for row, chosen in zip(self.rows, keep, strict=True) if chosen]
        mask = torch.as_tensor(keep)
        theta = None if self.theta is None else self.theta[mask]
        return Answers(rows, self.x[mask], self.y[keep], self.x_adv[mask], self.label[keep], theta)

    def compare(self, context: MeasureContext, differences: Differences) -> Bool[np.ndarray, " b"]:
        """Record all differences; the rows whose stored success is not confirmed."""
        wrong = self._labels(differences) | self._bounds(context, differences) | self._theta(context, differences)
        wrong |= self._levels(context, differences)
        classes = self._shares if context.at_random else self._classes
        return wrong | self._distances(context, differences) | classes(context, differences)

    def _record(
        self, differences: Differences, kind: str, wrong: np.ndarray, sentence: Callable[[int], str]
    ) -> np.ndarray:
        """Add a sentence for each wrong row; `wrong` again."""
        for i in np.flatnonzero(wrong).tolist():
            differences.setdefault(kind, []).append(f"image {self.rows[i]['id']}: {sentence(i)}")
        return wrong

    def _labels(self, differences: Differences) -> np.ndarray:
        label = self.column("label")
        return self._record(
            differences, "label", label != self.label, lambda i: f"label {label[i]} stored, {self.label[i]} in the data"
        )

    def _bounds(self, context: MeasureContext, differences: Differences) -> np.ndarray:
        """Points lie exactly inside the bounds, fixed features are unchanged, and so are images without a success."""
        flat = self.x_adv.double().flatten(1).numpy()
        low, high = flat.min(axis=1), flat.max(axis=1)
        least, most = (torch.as_tensor(bound).to(self.x_adv) for bound in context.bounds)
        out = ~((self.x_adv >= least) & (self.x_adv <= most)).flatten(1).all(1).numpy()  # nan is outside
        if context.mask is not None:
            changed = ((self.x_adv != self.x) & ~context.mask).flatten(1).any(1).numpy()
            out |= self._record(differences, "mask", changed, lambda i: "a fixed feature was changed")
        moved = ~self.claimed & (self.x_adv != self.x).flatten(1).any(1).numpy()
        self._record(differences, "moved", moved, lambda i: "no success, and the stored point is not the image")
        return self._record(
            differences, "bounds", out & self.claimed, lambda i: f"pixels from {low[i]:.9g} to {high[i]:.9g}"
        )

    def _levels(self, context: MeasureContext, differences: Differences) -> np.ndarray:
        """Pixels that were changed lie on a level."""
        if context.levels is None:
            return np.zeros(len(self.y), dtype=bool)
        low, high = (torch.as_tensor(bound).double().numpy() for bound in context.bounds)
        pixels = self.x_adv.double().numpy()
        step = np.where(high > low, high - low, 1) / (context.levels - 1)
        off = np.abs((pixels - low) / step - np.round((pixels - low) / step)) * step
        rounding = LEVEL_UNITS * torch.finfo(self.x_adv.dtype).eps * np.maximum(np.abs(low), np.abs(high))
        wrong = ((off > rounding) & (self.x_adv != self.x).numpy()).reshape(len(pixels), -1).any(1)
        return self._record(
            differences, "levels", wrong & self.claimed, lambda i: f"pixels off the grid of {context.levels} levels"
        )

    @torch.no_grad()
    def _theta(self, context: MeasureContext, differences: Differences) -> np.ndarray:
        """Whether the perturbation applied to the stored theta gives the stored point."""
        if context.through is None:
            return np.zeros(len(self.y), dtype=bool)
        if self.theta is None:
            return self._record(differences, "theta", self.claimed, lambda i: "the run has no theta for its point")
        low, high = (float(bound) for bound in context.bounds)
        again = context.through(self.x, self.theta.to(self.x)).clamp(low, high)
        difference = (again - self.x_adv).abs().flatten(1).amax(1).double().numpy()
        differs = self.claimed & ~(difference <= THETA_TOLERANCE * (high - low))
        return self._record(
            differences, "theta", differs, lambda i: f"the stored theta gives pixels {difference[i]:.3g} off the stored"
        )

    def _distances(self, context: MeasureContext, differences: Differences) -> np.ndarray:
        """The stored distance, and the radius."""
        stored = self.column("distance").astype(float)
        d, tolerance = context.distances(self.x, self.x_adv, self.theta)
        finite = ~self.claimed & (stored != np.inf)
        self._record(differences, "distance", finite, lambda i: f"distance {stored[i]:.9g} stored without a success")
        differs = self.claimed & ~(np.abs(d - stored) <= tolerance * d + 1e-12)
        self._record(
            differences, "distance", differs, lambda i: f"distance {stored[i]:.9g} stored, {d[i]:.9g} measured"
        )
        if context.radius is None:
            return differs
        # sums of n squares in another order differ by n units of rounding
        most = context.radius * (1 + (1e-12 if tolerance < 1e-6 else tolerance)) + context.pixel_rounding(self.x_adv)
        beyond = self.claimed & (d > most)
        outside = f"outside the radius {context.radius:.12g}"
        return differs | self._record(differences, "radius", beyond, lambda i: f"distance {d[i]:.12g}, {outside}")

    @np.errstate(invalid="ignore")  # inf - inf, of images whose output is not finite
    def _classes(self, context: MeasureContext, differences: Differences) -> np.ndarray:
        """Successes are misclassified in float64 and at every batch size; images without a success are not."""
        own = precision_of(context.model, self.x_adv)
        runs = [(f"batches of {size}", context.model, own, size) for size in context.sizes]
        runs += [("float64", context.fine, torch.float64, context.sizes[-1])] if context.fine is not None else []
        half = context.half(self.x_adv)
        units = UNITS * torch.finfo(own).eps if half is None else HALF_UNITS * torch.finfo(half).eps
        wrong = np.zeros(len(self.y), dtype=bool)
        for words, model, dtype, size in runs:
            logits = outputs(model, self.x_adv.to(dtype), size)
            unit = float(units) * np.abs(logits).reshape(len(logits), -1).max(axis=1)
            wrong |= self._margins(differences, words, context.goal(logits, self.y), unit, context.through is None)
            if model is context.model and size == context.sizes[-1] and context.classes:
                self._predictions(differences, logits, unit)
        return wrong

    def _predictions(self, differences: Differences, logits: np.ndarray, unit: np.ndarray) -> None:
        """The stored class has the largest logit, or one that rounding may make the largest."""
        stored = self.column("prediction").astype(int)
        one_logit = logits.ndim == 1 or logits.shape[1] == 1
        logits = np.stack([np.zeros(len(logits)), logits.reshape(-1)], 1) if one_logit else logits
        known = (stored >= 0) & (stored < logits.shape[1])
        own = logits[np.arange(len(stored)), np.where(known, stored, 0)]
        differs = self.measured & ~(known & (own >= logits.max(axis=1) - unit))
        self._record(
            differences, "prediction", differs,
            lambda i: f"class {stored[i]} stored, {logits[i].argmax()} has the largest logit",
        )  # fmt: skip

    def _shares(self, context: MeasureContext, differences: Differences) -> np.ndarray:
        """Most draws reach the goal at successes, and do not at images without one; the stored share is confirmed."""
        claimed, stored = self.claimed, self.column("share").astype(float)
        share = context.shares(self.x_adv, self.y)
        pooled = (JUDGED * stored + DRAWS * share) / (JUDGED + DRAWS)
        unit = SIGMAS * np.sqrt(pooled * (1 - pooled) * (1 / JUDGED + 1 / DRAWS)) + 1 / JUDGED
        half = SIGMAS * np.sqrt(0.25 / DRAWS)
        missed = ~claimed & (share > 0.5 + half) & ~np.isin(self.column("status"), ("NOT_FINITE", "FAILED"))
        self._record(
            differences, "missed", missed,
            lambda i: f"{share[i]:.0%} of {DRAWS} draws are wrong at the unperturbed image, which counts as not broken",
        )  # fmt: skip
        differs = claimed & ~(np.abs(share - stored) <= unit)
        self._record(
            differences, "share", differs,
            lambda i: f"share {stored[i]:.2f} stored, {share[i]:.2f} of {DRAWS} draws measured; is it the same model?",
        )  # fmt: skip
        return self._record(
            differences, "class", claimed & ~(share > 0.5 - half),
            lambda i: f"{share[i]:.0%} of {DRAWS} draws reach the goal",
        )  # fmt: skip

    def _margins(
        self, differences: Differences, words: str, m: np.ndarray, unit: np.ndarray, at_images: bool
    ) -> np.ndarray:
        """Margins of one run of the model; `unit`: what rounding may change. at_images: whether those of images without
        a success are margins of the images themselves."""
        claimed, stored = self.claimed, self.column("margin").astype(float)
        missed = ~claimed & self.measured & (m > unit)
        differs = (m != stored) & ~(np.abs(m - stored) < np.maximum(unit, 0.4 * np.abs(stored)))
        differs &= self.measured if at_images else claimed
        self._record(
            differences, f"missed in {words}", missed,
            lambda i: f"the unperturbed image is misclassified, by a margin of {m[i]:.3g}, and counts as not broken",
        )  # fmt: skip
        self._record(
            differences, f"margin in {words}", differs,
            lambda i: f"margin {stored[i]:.3g} stored, {m[i]:.3g} measured; is it the same model?",
        )  # fmt: skip
        return self._record(
            differences, f"class in {words}", claimed & ~(m > 0),
            lambda i: f"classified correctly, by a margin of {-m[i]:.3g}",
        )  # fmt: skip
