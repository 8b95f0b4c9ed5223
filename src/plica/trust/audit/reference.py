"""Margins and distances in float64, in numpy: a second implementation that shares no code with the judge."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor, nn

Model = Callable[[Tensor], Tensor]
COUNT_OF_PIXELS = -1.0  # in place of p
ROUNDED = 1e-4  # a distance may be so much below 0 by rounding
Metric = float | Callable[[Tensor, Tensor], Tensor]  # p of an l_p norm, or any distance


@runtime_checkable
class ParametricPerturbation(Protocol):
    """A perturbation x' = T(x, theta); `start` gives the theta at which x' = x."""

    def start(self, x: Tensor) -> Tensor: ...

    def __call__(self, x: Tensor, theta: Tensor) -> Tensor: ...


Goal = Callable[[np.ndarray, np.ndarray], np.ndarray]  # of output and y, float64: positive where it is reached


def norm_of(metric: str) -> float | None:
    """p where the text names an l_p norm (l2, l1.5, linf, l0), else None; for l0-pixel COUNT_OF_PIXELS."""
    if metric == "l0-pixel":
        return COUNT_OF_PIXELS
    match = re.fullmatch(r"l(inf|\d+(?:\.\d+)?)", metric)
    return float(match.group(1)) if match else None


def norms(p: float, x: Tensor, x_adv: Tensor) -> Float64[np.ndarray, " b"]:
    """(sum |x_adv - x|^p)^(1/p), scaled by the largest entry so that no power underflows; the largest entry for inf.

    For 0 the number of entries that differ, for COUNT_OF_PIXELS that of places where one of the channels does.
    """
    if p <= 0:
        differs = x_adv.double().cpu().numpy() != x.double().cpu().numpy()
        places = differs.max(axis=1) if p == COUNT_OF_PIXELS else differs
        return np.count_nonzero(places.reshape(len(x), -1), axis=1).astype(np.float64)
    delta = np.abs(x_adv.double().cpu().numpy() - x.double().cpu().numpy()).reshape(len(x), -1)
    top = delta.max(axis=1)
    if np.isinf(p):
        return top
    unit = delta / np.where(top > 0, top, 1)[:, None]
    return top * (unit**p).sum(axis=1) ** (1 / p)


@torch.no_grad()
def distances(metric: Metric, x: Tensor, x_adv: Tensor) -> tuple[Float64[np.ndarray, " b"], float]:
    """Distances, and the relative difference that rounding allows between two measurements of them.

    An l_p norm is given as p. Another metric is computed in float64, or in the precision of x if its weights require
    it; a value that rounding makes negative is set to 0.
    """
    if not callable(metric):
        return norms(metric, x, x_adv), 1e-7
    try:
        d, tolerance = metric(x.double(), x_adv.double()), 1e-6
    except RuntimeError:
        d, tolerance = metric(x, x_adv), 1e-4  # float32 sums
    d = d.double().cpu().numpy()
    return np.where((d < 0) & (d >= -ROUNDED), 0, d), tolerance


def precision_of(model: Model, x: Tensor) -> torch.dtype:
    """The dtype of the model's weights, or of x where it has none."""
    weights = model.parameters() if isinstance(model, nn.Module) else ()
    return next((w.dtype for w in weights if w.is_floating_point()), x.dtype)


@torch.no_grad()
def outputs(model: Model, x: Float[Tensor, "b *image"], size: int) -> Float64[np.ndarray, "b *output"]:
    """The model's outputs from calls of `size` rows, fewer in the last call; unlike those of attacks, calls are not
    padded."""
    return np.concatenate([model(part).detach().double().cpu().numpy() for part in x.split(size)])


def margins(output: Float64[np.ndarray, "b *output"], y: Int64[np.ndarray, " b"]) -> Float64[np.ndarray, " b"]:
    """The largest logit of another class minus that of y; one logit f of an image is that of class 1, class 0 has 0.

    Raises:
        ValueError: a label or target is not a class of the model.
    """
    one_logit = output.ndim == 1 or output.shape[1] == 1
    classes = 2 if one_logit else output.shape[1]
    unknown = y[(y < 0) | (y >= classes)]
    if len(unknown):
        raise ValueError(
            f"The run has an answer for the class {unknown[0]}, and the model's classes are 0 to {classes - 1}; "
            "give the model that the run was made with, or make the run again."
        )
    if one_logit:
        return (1 - 2 * y) * output.reshape(-1)
    rows = np.arange(len(y))
    others = output.copy()
    others[rows, y] = -np.inf
    return others.max(axis=1) - output[rows, y]


def goal_of(text: str | None) -> Goal | None:
    """The margin of a goal by its text, None for that of a user's function."""
    if text is None:
        return margins
    name, _, number = text.partition("=")
    if name == "deviates":
        return lambda output, y: np.abs(output - y).reshape(len(y), -1).max(axis=1) - float(number)
    if name == "any-label":
        return lambda output, y: _flips(output, y).max(axis=1)
    if name == "pixels":
        return lambda output, y: _at_least(_pixels(output, y), float(number))
    return None


def _flips(output: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The logit of each tag, signed such that it is positive where the tag is wrong."""
    return np.where(y > 0.5, -output, output).reshape(len(y), -1)


def _pixels(output: np.ndarray, y: np.ndarray) -> np.ndarray:
    if output.shape == y.shape:
        return _flips(output, y)
    classes = np.moveaxis(output, 1, -1).reshape(-1, output.shape[1])
    return margins(classes, y.reshape(-1).astype(np.int64)).reshape(len(y), -1)


def _at_least(values: np.ndarray, share: float) -> np.ndarray:
    """The largest number below which no more than a share 1 - `share` of the values of a row lie."""
    count = next(k for k in range(1, values.shape[1] + 1) if k >= share * values.shape[1] - 1e-9)
    return np.sort(values, axis=1)[:, -count]
