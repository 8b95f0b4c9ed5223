"""Checks stored proofs of lower bounds: for every class except the image's own, the leaves must cover the whole ball,
and in each leaf a bound, computed again, must show that the logit of the class is below that of the image's class. If
there is a target, only that class is excluded, by its logit being below that of some other class.

A proof may contain leaves that bound neurons inside the network. These must cover the whole ball as well; the smallest
of their bounds, computed again, is a bound of the neuron.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from plica.trust.audit.activations import Activation
from plica.trust.audit.balls import Ball
from plica.trust.audit.bounds import Enclosure
from plica.trust.audit.layers import Affine, Step

LEAVES = 64  # bounded at once
INNER, NEURON = -1, -2  # in place of a class: the slopes of the inner bounds; a leaf for a neuron, by its first split
Split = tuple[int, int, int]  # activation, neuron, sign
Path = tuple[Split, ...]


class RefusedError(ValueError):
    """A stored proof is not valid; the message says why."""


@torch.no_grad()
def check(
    steps: tuple[Step, ...], ball: Ball, y: int, target: int | None, leaves: Sequence[Mapping[str, Any]],
    arithmetic: str = "real",
) -> None:  # fmt: skip
    """Check the proof of one image.

    Args:
        steps: the network.
        ball: around the image, with the radius that is claimed to be proved.
        y: the image's class.
        target: the only class that counts as a misclassification, if there is one.
        leaves: rows of schema.LEAVES.
        arithmetic: "real" or "executed": the arithmetic in which the bound is claimed to hold.

    Raises:
        RefusedError: the proof is not valid.
    """
    if not leaves or not ball.radius > 0:
        raise RefusedError("there are no leaves" if ball.radius > 0 else "the radius is not positive")
    if any(None in leaf[name] for leaf in leaves for name in ("activation", "neuron", "sign")):
        raise RefusedError("a leaf has an empty field")
    shapes = [s.op.parameters(steps[s.parents[0]].shape) for s in steps if hasattr(s.op, "parameters")]  # type: ignore[union-attr]
    if leaves[0]["rival"] != INNER:
        raise RefusedError("the slopes of the inner bounds are missing")
    if arithmetic not in ("real", "executed"):
        raise RefusedError(f"no proof in arithmetic {arithmetic!r} is known")
    if arithmetic == "executed" and steps[0].rounds:
        raise RefusedError(
            "the model computes weights at every call, ends with softmax or is compiled, with roundings that are not "
            "known"
        )
    neurons = _neurons([leaf for leaf in leaves if leaf["rival"] == NEURON])
    leaves = [leaf for leaf in leaves if leaf["rival"] != NEURON]
    net = Enclosure(
        steps,
        ball,
        dict(enumerate(_slopes(leaves[:1], shapes))),
        arithmetic == "executed",
        _least_of(steps, neurons, shapes),
    )
    classes = max(2, torch.Size(steps[-1].shape).numel())
    rivals = {target} if target is not None else set(range(classes)) - {y}
    if {leaf["rival"] for leaf in leaves[1:]} != rivals:
        raise RefusedError("the leaves do not exclude every other class")
    for rival in rivals:
        own = [leaf for leaf in leaves[1:] if leaf["rival"] == rival]
        if not _covers([_path(net, leaf, len(net.numbers)) for leaf in own]):
            raise RefusedError(f"the leaves of class {rival} do not make up the whole ball")
        a = _function(net, ball, y, rival, target)
        for start in range(0, len(own), LEAVES):
            bounds = _bounds(net, a, own[start : start + LEAVES], shapes, len(steps) - 1)
            if not bool((bounds > 0).all()):
                raise RefusedError(
                    f"a leaf of class {rival} has the bound {float(bounds.min()):.3g}, not a positive one"
                )


def _function(net: Enclosure, ball: Ball, y: int, rival: int, target: int | None) -> Tensor:
    """Coefficients (1, classes) of the logit of the image's class minus that of the rival. A single logit f is that of
    class 1."""
    if net.steps[-1].shape == (1,):
        return torch.tensor([[2.0 * y - 1]], dtype=torch.float64)
    a = torch.zeros(1, *net.steps[-1].shape, dtype=torch.float64)
    if target is not None:  # any class will do that stays above the target
        y = int(_logits(net.steps, ball.x).argmax())
    a[0, y] += 1
    a[0, rival] -= 1
    return a


def _logits(steps: tuple[Step, ...], x: Tensor) -> Tensor:
    values = [x.view(1, *steps[0].shape)]
    for step in steps[1:]:
        assert step.op is not None
        values.append(step.op.value(*(values[parent] for parent in step.parents)))
    return values[-1]


def _neurons(leaves: Sequence[Mapping[str, Any]]) -> dict[Split, list[Mapping[str, Any]]]:
    """The leaves for each bound of a neuron, without the split that names the neuron."""
    found: dict[Split, list[Mapping[str, Any]]] = {}
    for leaf in leaves:
        names = ("activation", "neuron", "sign")
        if not all(len(leaf[name]) for name in (*names, "multiplier")):
            raise RefusedError("a leaf for a neuron does not name it")
        first = (leaf["activation"][0], leaf["neuron"][0], leaf["sign"][0])
        found.setdefault(first, []).append({**leaf, **{name: leaf[name][1:] for name in (*names, "multiplier")}})
    return found


def _least_of(
    steps: tuple[Step, ...], neurons: Mapping[Split, Sequence[Mapping[str, Any]]], shapes: list[tuple[int, ...]]
) -> dict[int, Callable[[Enclosure], tuple[Tensor, Tensor, Tensor]]]:
    """For each step with neurons that the proof bounds, a function that gives their entries, signs and bounds."""
    taken = [step.parents[0] for step in steps if isinstance(step.op, Activation)]
    own: dict[int, dict[Split, Sequence[Mapping[str, Any]]]] = {}
    for split, leaves in neurons.items():
        activation, neuron, sign = split
        known = 0 <= activation < len(taken) and isinstance(steps[taken[activation]].op, Affine) and sign in (-1, 1)
        if not known or not 0 <= neuron < torch.Size(steps[taken[activation]].shape).numel():
            raise RefusedError(f"a leaf is for neuron {neuron} of activation {activation} with the sign {sign}")
        own.setdefault(taken[activation], {})[split] = leaves
    return {k: partial(_bounds_of_neurons, k, some, shapes) for k, some in own.items()}


def _bounds_of_neurons(
    k: int, neurons: Mapping[Split, Sequence[Mapping[str, Any]]], shapes: list[tuple[int, ...]], net: Enclosure
) -> tuple[Tensor, Tensor, Tensor]:
    """Entries of step k, signs, and lower bounds of sign * entry: the smallest over leaves that cover the ball."""
    before = sum(j < k for j in net.numbers)
    least, queue = dict[Split, float](), list[tuple[Split, Mapping[str, Any]]]()
    for split, leaves in neurons.items():
        if not _covers([_path(net, leaf, before) for leaf in leaves]):
            raise RefusedError(
                f"the leaves of neuron {split[1]} of activation {split[0]} do not make up the whole ball"
            )
        least[split] = float("inf")
        queue += [(split, leaf) for leaf in leaves]
    for start in range(0, len(queue), LEAVES):
        some = queue[start : start + LEAVES]
        a = torch.zeros(len(some), net.low[k].numel(), dtype=torch.float64)
        for row, ((_, neuron, sign), _) in enumerate(some):
            a[row, neuron] = sign
        values = _bounds(net, a.view(-1, *net.steps[k].shape), [leaf for _, leaf in some], shapes[:before], k)
        for (split, _), value in zip(some, values.tolist(), strict=True):
            least[split] = min(least[split], value) if value == value else -float("inf")
    _, entries, signs = (torch.tensor(column) for column in zip(*least, strict=True))
    return entries, signs, torch.tensor(list(least.values()), dtype=torch.float64)


def _path(net: Enclosure, leaf: Mapping[str, Any], activations: int) -> Path:
    columns = [leaf[name] for name in ("activation", "neuron", "sign")]
    path: Path = tuple(zip(*columns, strict=False))
    if len({len(c) for c in (*columns, leaf["multiplier"])}) > 1:
        raise RefusedError("the splits of a leaf are not whole")
    multipliers = np.asarray(leaf["multiplier"], dtype=np.float64)
    if not (np.isfinite(multipliers).all() and (multipliers >= 0).all()):
        raise RefusedError("a multiplier is not a number >= 0")
    for activation, neuron, sign in path:
        known = 0 <= activation < activations and sign in (-1, 1)
        if not known or not 0 <= neuron < net.low[net.taken[activation]].numel():
            raise RefusedError(f"a split names neuron {neuron} of activation {activation} and the sign {sign}")
    return path


def _covers(paths: list[Path]) -> bool:
    """Whether the parts cover everything: one of them is everything, or the first split is on the same neuron in all,
    and the parts of each sign cover their half."""
    waiting = [paths]
    while waiting:
        paths = waiting.pop()
        if not all(paths):  # one of them has no further split
            continue
        if not paths or len({path[0][:2] for path in paths}) > 1:
            return False
        waiting += [[path[1:] for path in paths if path[0][2] == sign] for sign in (1, -1)]
    return True


def _slopes(leaves: Sequence[Mapping[str, Any]], shapes: list[tuple[int, ...]]) -> list[Tensor]:
    """In [0, 1], for each activation, one row for each leaf."""
    sizes = [torch.Size(shape).numel() for shape in shapes]
    if any(len(leaf["slopes"]) != sum(sizes) for leaf in leaves):
        raise RefusedError("the slopes are not those of this network")
    flat = np.stack([np.frombuffer(leaf["slopes"], dtype=np.uint8) for leaf in leaves])
    parts = torch.from_numpy(flat.astype(np.float64) / 255).split(sizes, 1)
    return [part.reshape(len(leaves), *shape) for part, shape in zip(parts, shapes, strict=True)]


def _bounds(
    net: Enclosure, a: Tensor, leaves: Sequence[Mapping[str, Any]], shapes: list[tuple[int, ...]], at: int
) -> Tensor:
    """A lower bound of <a, value of step `at`> in each leaf: one of <a, value> less the sum of multiplier sign z over
    the splits, none of which is negative there, since sign z >= 0 in the leaf.

    Args:
        a: one row, or one for each leaf.
        shapes: of the slopes of the activations before.
    """
    rows = len(leaves)
    low, high, pulls = dict[int, Tensor](), dict[int, Tensor](), dict[int, Tensor]()
    for row, leaf in enumerate(leaves):
        for activation, neuron, sign, multiplier in zip(
            leaf["activation"], leaf["neuron"], leaf["sign"], leaf["multiplier"], strict=True
        ):
            k = net.taken[activation]
            if k not in pulls:
                low[k], high[k] = (part[k].repeat(rows, *[1] * (part[k].ndim - 1)) for part in (net.low, net.high))
                pulls[k] = torch.zeros_like(low[k])
            side, wall = (low, max) if sign > 0 else (high, min)
            flat = side[k][row].view(-1)
            flat[neuron] = wall(float(flat[neuron]), 0.0)
            pulls[k][row].view(-1)[neuron] -= sign * multiplier
    slopes, lines = _slopes(leaves, shapes), {}
    for k, number in list(net.numbers.items())[: len(shapes)]:
        parent, op = net.steps[k].parents[0], net.steps[k].op
        lines[k] = op.lines(low.get(parent, net.low[parent]), high.get(parent, net.high[parent]), slopes[number])  # type: ignore[union-attr]
    cut = {k: (low[k], high[k]) for k in low}
    return net.least(a.expand(rows, *a.shape[1:]), at, lines, pulls, cut)
