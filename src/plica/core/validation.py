"""Checks of the arguments of plica.attack before any work; each error says what is wrong, what was seen, what to do."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from plica.core.domain.bounds import Bounds, check_bounds
from plica.core.formulations import MaxLoss, MinRadius, Question
from plica.core.goals import Goal, finite
from plica.core.model.draws import MOST
from plica.goals import AnyLabel, Misclassified, check_labels, class_logits, flat
from plica.metrics import Metric, Unsupported, check_shape, distance, fixed_pixels, lp_form
from plica.utils.messages import did_you_mean, one_line, shown
from plica.utils.whole import as_int

LEAST = 3  # least budget without a warning: a method needs one gradient at the image, and some to cross the boundary
MOST_GRADIENTS = 10**9
MOST_SEED = 10**12  # each seed is split into a million streams of random numbers, within 64 bits
LARGEST = 1e37  # finite in float32, with room for sums and multiples


def arguments(
    model: Any,
    x: Any,
    y: Any,
    question: Any,
    method: Any,
    methods: tuple[str, ...],
    gradients: Any,
    seed: Any,
    batch_size: Any,
    targets: Any,
    goal: Any = None,
    draws: Any = None,
) -> tuple[int, int, int | None, int | None]:
    """Check what can be checked without running the model, except for what depends on the bounds (`within`). Returns
    gradients, seed, batch_size and draws as ints."""
    network(model)
    images(x)
    _goal(goal, targets, question)
    if goal is None or isinstance(goal, Misclassified):
        labels("y", y, x)
    else:
        belonging(y, x)
    if targets is not None:
        aimed(targets, y, x)
    if not isinstance(question, MinRadius | MaxLoss):
        raise TypeError(f"question must be plica.MinRadius(...) or plica.MaxLoss(...), got {type(question).__name__}.")
    gradients = whole("gradients", gradients, least=1, most=MOST_GRADIENTS)
    seed = whole("seed", seed, least=0, most=MOST_SEED)
    batch_size = None if batch_size is None else whole("batch_size", batch_size, least=1)
    if draws is not None:
        draws = whole("draws", draws, least=1)
        if draws > MOST:
            raise ValueError(f"draws must be at most {MOST}, got {draws}; 16 to 64 tell a mean from one draw.")
    if method not in methods:
        raise ValueError(
            f"There is no method {shown(method)}; {did_you_mean(method, methods)}known are {', '.join(methods)}."
        )
    if isinstance(question, MaxLoss):
        radii(question, x)
    return gradients, seed, batch_size, draws


def within(question: Question, bounds: Any, x: Float[Tensor, "b *image"]) -> tuple[Float[Tensor, " b"] | None, Bounds]:
    """Check the bounds; returns the radii of the images in float64, None for MinRadius, and the bounds."""
    limits = check_bounds(bounds, x)
    check_shape(question.metric, x)
    radius = radii(question, x) if isinstance(question, MaxLoss) else None
    if radius is not None:
        _warn_of_all(radius, question.metric, x, limits)
    return None if radius is None else torch.minimum(radius, reach(question.metric, x, limits)), limits


def aimed(targets: Any, y: Tensor, x: Tensor) -> None:
    """Raises TypeError or ValueError unless `targets` are classes (b,), each other than the label y."""
    labels("targets", targets, x)
    if bool((targets == y).any()):
        row = int((targets == y).nonzero()[0])
        raise ValueError(
            f"targets must differ from y, but targets[{row}] = y[{row}] = {int(y[row])}; give another class."
        )


def whole(name: str, value: Any, least: int, most: int | None = None) -> int:
    """The argument `name` as an int. Raises TypeError unless it is a whole number, ValueError if it is below `least` or
    above `most`."""
    number = as_int(value)
    if number is None:
        raise TypeError(f"{name} must be a whole number, got {shown(value)}.")
    if number < least:
        raise ValueError(f"{name} must be at least {least}, got {shown(number)}.")
    if most is not None and number > most:
        raise ValueError(f"{name} must be at most {most:,}, got {shown(number)}.")
    return number


def budget(gradients: int) -> None:
    """Warns of a budget that ends most searches before they find a point."""
    if gradients < LEAST:
        spent = "1 gradient" if gradients == 1 else f"{gradients} gradients"
        warnings.warn(
            f"A budget of {spent} is over before most searches come to a point; give 20 or more.", stacklevel=3
        )


def network(model: Any) -> None:
    """Raises TypeError unless the model can be called, and is no class."""
    if not callable(model) or isinstance(model, type):
        what = f"the class {model.__name__}" if isinstance(model, type) else shown(model)
        raise TypeError(f"model must be a torch module or a function (b, *image) -> (b, classes), got {what}.")


def images(x: Any) -> None:
    """Raises TypeError or ValueError unless x is a float tensor (b, *image) of at least one image and pixel."""
    if not isinstance(x, Tensor):
        raise TypeError(
            f"x must be a torch tensor of images, got {type(x).__name__}; convert it with torch.as_tensor(x)."
        )
    stored("x", x)
    if not x.is_floating_point():
        raise TypeError(f"x must hold floating-point pixels, got {x.dtype}; for 8-bit images write x.float() / 255.")
    if x.dtype.itemsize == 1:
        raise TypeError(f"x is {x.dtype}, in which torch computes nothing; write x.float().")
    if x.ndim < 2 or 0 in x.shape:
        raise ValueError(f"x must have shape (b, *image) with at least one image, got {tuple(x.shape)}.")


def stored(name: str, t: Tensor) -> None:
    """Raises TypeError or ValueError unless the tensor is dense and holds numbers."""
    if t.layout != torch.strided:
        raise TypeError(f"{name} must be a dense tensor, got {t.layout}; write {name}.to_dense().")
    if t.is_meta:
        raise ValueError(f"{name} is on the device meta, which holds shapes and no numbers; load it on cpu or cuda.")


def usable(t: Tensor) -> Tensor:
    """t itself, or a copy if it was made under torch.inference_mode, since autograd cannot use such a tensor."""
    return t.clone() if t.is_inference() else t


def labels(name: str, y: Any, x: Tensor) -> None:
    """Raises TypeError or ValueError unless y is an int64 tensor (b,) on the device of x; `name` is the argument's."""
    if not isinstance(y, Tensor) or y.dtype != torch.int64:
        seen = str(y.dtype) if isinstance(y, Tensor) else type(y).__name__
        one = isinstance(y, int) and not isinstance(y, bool)
        advice = (
            f"for all images write torch.full(({len(x)},), {y})" if one else f"write torch.as_tensor({name}).long()"
        )
        raise TypeError(f"{name} must be an int64 tensor of class indices, got {seen}; {advice}.")
    stored(name, y)
    if y.ndim != 1 or len(y) != len(x):
        advice = f"; for a single image write x[None] and {name}[None]" if y.ndim == 0 else ""
        raise ValueError(
            f"{name} must have shape ({len(x)},), one label for each image of x, got {tuple(y.shape)}{advice}."
        )
    if y.device != x.device:
        raise ValueError(f"x and {name} must be on one device, got {x.device} and {y.device}; move one with .to(...).")


def _goal(goal: Any, targets: Any, question: Any) -> None:
    """Raises TypeError, ValueError or Unsupported unless the goal is a function, and one with classes if there are
    targets or a loss that needs them."""
    if goal is None or isinstance(goal, Misclassified):
        return
    if not callable(goal) or isinstance(goal, type):
        raise TypeError(
            "goal must be a function goal(output, y) -> (b,), such as plica.goals.Deviates(0.1), or None for "
            f"misclassification; got {shown(goal)}."
        )
    if targets is not None:
        raise ValueError(f"targets are classes, and {shown(goal)} knows none; leave targets out, or the goal.")
    if isinstance(question, MaxLoss) and question.loss != "margin":
        raise Unsupported(
            f"The loss {question.loss} knows classes only; with a goal of another kind use loss='margin'."
        )


def belonging(y: Any, x: Tensor) -> None:
    """Raises TypeError or ValueError unless y is a tensor with an entry for each image, on the device of x, without
    nan."""
    if not isinstance(y, Tensor):
        raise TypeError(f"y must be a torch tensor with an entry for each image, got {type(y).__name__}.")
    if y.ndim < 1 or len(y) != len(x):
        raise ValueError(f"y must have {len(x)} entries, one for each image of x, got shape {tuple(y.shape)}.")
    if y.device != x.device:
        raise ValueError(f"x and y must be on one device, got {x.device} and {y.device}; move one with .to(...).")
    if bool(y.isnan().any()):
        raise ValueError("y must not be nan; leave out images whose y is not known.")


def radii(question: MaxLoss, x: Tensor) -> Float[Tensor, " b"]:
    """The radius of each image (b,), in float64; raises ValueError for another shape, nan or a negative radius."""
    try:
        kind = torch.as_tensor(question.radius).dtype
    except (TypeError, ValueError, RuntimeError, OverflowError):
        kind = torch.bool
    if kind.is_complex or kind == torch.bool:
        raise TypeError(
            f"MaxLoss(radius=...) must be a real number, or one for each image, got {shown(question.radius)}."
        )
    radius = torch.as_tensor(question.radius, dtype=torch.float64, device=x.device)  # not by way of float32
    if radius.ndim > 1 or (radius.ndim == 1 and len(radius) != len(x)):
        raise ValueError(
            f"MaxLoss(radius=...) must be a number or have shape ({len(x)},), one for each image, "
            f"got {tuple(radius.shape)}."
        )
    if bool(radius.isnan().any()) or bool((radius < 0).any()):
        raise ValueError(f"MaxLoss(radius=...) must not be negative or nan, got {float(radius.min()):g}.")
    return radius.expand(len(x)).clone()


def _warn_of_all(radius: Float[Tensor, " b"], metric: Metric, x: Float[Tensor, "b *image"], bounds: Bounds) -> None:
    """Warns of a finite radius of an l_p norm beyond the distance of the two farthest inputs: a slip of units."""
    if lp_form(metric) is None:
        return
    low, high = (bound.to(x).expand_as(x[:1]) for bound in (bounds.low, bounds.high))
    fixed = fixed_pixels(metric, x)
    diameter = float(distance(metric, low, high if fixed is None else torch.where(fixed, low, high)))
    largest = float(torch.where(radius.isfinite(), radius, 0).max())
    if 0 < diameter * (1 + 1e-6) < largest:
        warnings.warn(
            f"The radius {largest:g} is larger than any {metric} distance within the bounds, at most {diameter:.4g}, "
            "and excludes no input. It is in the units of the bounds: 8 of 256 levels between 0 and 1 are 8/255.",
            stacklevel=4,
        )


@torch.no_grad()
def reach(metric: Metric, x: Float[Tensor, "b *image"], bounds: Bounds) -> Float[Tensor, " b"]:
    """A finite radius (b,), in float64, that no point inside the bounds exceeds. Larger radii, such as inf, are
    replaced by it, since searches take steps in proportion to the radius.

    For an l_p norm it is the distance of the farthest corner of the box; for any other distance LARGEST.
    """
    far = torch.full((len(x),), LARGEST, dtype=torch.float64, device=x.device)
    if lp_form(metric) is None:
        return far
    low, high = (bound.to(x) for bound in (bounds.low, bounds.high))
    corner = torch.where(x - low > high - x, low, high)
    fixed = fixed_pixels(metric, x)
    corner = corner if fixed is None else torch.where(fixed, x, corner)
    corner_distance = distance(metric, x, corner) * (1 + 1e-6)  # rounding leaves no point of the box out
    return torch.where(corner_distance > 0, torch.minimum(corner_distance, far), far)


def output(output: Float[Tensor, "b *output"], goal: Goal, question: Question, everything: bool = True) -> None:
    """Raises ValueError unless the model's output at the images fits the goal and has a class for every label.
    everything: whether it must also be finite for at least one image."""
    check = getattr(goal.function, "check", None)
    if check is not None:
        check(output, goal.y)
    _goal_values(output, goal)
    if goal.has_classes:
        _classes(class_logits(output), goal, question)
    signs = isinstance(goal.function, AnyLabel) or (goal.has_classes and flat(output).shape[1] == 1)
    if signs and bool(((output >= 0) & (output <= 1)).all()):
        _in_01(flat(output), flat(goal.y))
    if everything and not bool(finite(output).any()):
        advice = "return a large negative number, such as -1e4, in place of the -inf of a class that is left out"
        advice = advice if leaves_out(output) else "check its weights and the normalisation of x"
        raise ValueError(f"The model's output is nan or inf for every image; {advice}.")


def _in_01(output: Float[Tensor, "b numbers"], y: Shaped[Tensor, "b numbers"]) -> None:
    """Warns if numbers from 0 to 1 fit the labels better as probabilities than as logits."""
    as_logits, as_probabilities = ((output > least).eq(y).sum() for least in (0, 0.5))
    if bool(as_probabilities > as_logits):
        warnings.warn(
            "The model gives numbers from 0 to 1, which are taken for logits: class 1, or a tag, above 0. If they are "
            "probabilities, return the numbers before the sigmoid.",
            stacklevel=2,
        )


def leaves_out(output: Float[Tensor, "b *output"]) -> bool:
    """Whether some image has logits of -inf beside finite ones, as if the model leaves out a class."""
    numbers = flat(output)
    return bool(((numbers.isneginf() | numbers.isfinite()).all(1) & numbers.isneginf().any(1)).any())


def _classes(logits: Float[Tensor, "b classes"], goal: Goal, question: Question) -> None:
    classes = logits.shape[1]
    if goal.targets is not None:
        check_labels("targets", goal.targets, logits)
    needed = 3 if goal.targets is None else 4
    if isinstance(question, MaxLoss) and question.loss == "dlr" and classes < needed:
        raise ValueError(
            f"The loss dlr needs at least {needed} classes, but the model has {classes}; use loss='margin'."
        )


def _goal_values(output: Float[Tensor, "b *output"], goal: Goal) -> None:
    """Raises ValueError unless the goal gives one differentiable number for each of the first two images."""
    part = slice(0, 2)
    with torch.enable_grad():
        try:
            values: Any = goal.function(output[part].detach().requires_grad_(True), goal.y[part])
        except Exception as error:
            raise ValueError(
                f"The goal raised {type(error).__name__} for an output of shape {tuple(output[part].shape)} and y of "
                f"shape {tuple(goal.y[part].shape)}: {one_line(error)}"
            ) from error
    if not isinstance(values, Tensor) or values.shape != output[part].shape[:1] or not values.is_floating_point():
        seen = f"{values.dtype} of shape {tuple(values.shape)}" if isinstance(values, Tensor) else type(values).__name__
        raise ValueError(
            f"The goal must return one number for each image, floats of shape {tuple(output[part].shape[:1])}, got "
            f"{seen}; reduce over all axes but the first."
        )
    if not values.requires_grad:
        raise ValueError(
            "The goal has no gradient with respect to the output; write it in torch, without detach, argmax or "
            "comparisons."
        )
