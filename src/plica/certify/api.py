"""plica.certify: a lower bound of each image's robustness radius, or a proof for a given radius."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from plica.certify.capture import capture, runs_as_written
from plica.certify.certificate import Certificate, CertificateStatus, Evidence
from plica.certify.graph import Graph
from plica.certify.prove import Effort, Networks, Prover, Region
from plica.certify.radius import Answer, FirstRadius, crown_radii, refine
from plica.certify.sets import check_metric
from plica.core import validation
from plica.core.domain.bounds import check_bounds
from plica.core.domain.groups import Group, groups
from plica.core.formulations import MaxLoss, MinRadius, Question
from plica.core.goals import Goal
from plica.core.losses import Targets
from plica.core.model.eval_mode import eval_mode
from plica.goals import Misclassified
from plica.metrics import Unsupported, check_shape, lp_form
from plica.utils.messages import shown

SECONDS = 10.0  # for each image
CHUNK = 64  # images whose first bounds are computed together


@torch.inference_mode(False)
def certify(
    model: Callable[[Tensor], Tensor],
    x: Float[Tensor, "b *image"],
    y: Int[Tensor, " b"],
    question: Question,
    *,
    upper: Float[Tensor, " b"] | float | None = None,
    seconds: float = SECONDS,
    nodes: int | None = None,
    bounds: tuple[float | Tensor, float | Tensor] = (0.0, 1.0),
    targets: Targets = None,
    arithmetic: str = "real",
    probe: Callable[[int, Tensor], float] | None = None,
) -> Certificate:
    """Prove that no misclassified input lies near: the largest radius that can be proved (MinRadius), or whether a
    given one can (MaxLoss).

    What is proved holds for the network in real arithmetic, or for the network as it runs in float32: bounds are
    computed in float64, every rounding allowed for.

    Args:
        model: any callable (b, *image) -> (b, classes) that gives logits, or one logit for two classes, (b, 1) or (b,),
            made of operations that have bounds.
        x: images, inside the bounds.
        y: labels, class numbers from 0.
        question: a MinRadius or a MaxLoss under l_inf, l_2 or l_1, with weights or held pixels or without.
        upper: radii that an attack found, inf where it found none, or one number for all images; the search never goes
            beyond them.
        seconds: for each image, about; the best bound until then is the answer.
        nodes: parts of the input set to bound for each image, instead of seconds; the answer is then repeatable. A part
            counts once for each other class, and again where it is bounded at another radius. No step begins once so
            many are bounded, but a step that has begun bounds all its parts: the first one, the whole ball for each
            other class, once or twice. So nodes=1 spends up to twice the number of other classes.
        bounds: as in `plica.attack`.
        targets: (b,) the only class that counts as a misclassification, or None for any.
        arithmetic: "real"; or "executed", for the network as it runs on a CPU in float32 (or float64), operation by
            operation in any order of summation: IEEE rounding to nearest, with or without fused multiplication and
            addition, subnormal results flushed to 0 or not, convolutions as sums of products (neither by Winograd's nor
            by Fourier's transform), sigmoid, tanh and GELU of z wrong by at most 2^-20 (1 + |z|), others alike; no
            TF32, no bfloat16, no autocast. Its radii are a little smaller.
        probe: for MinRadius, called with the number of an image and an input (1, *image), the worst of what an attempt
            left open; gives a radius that an attack found from there, inf for none, which is then the image's `upper`
            if it is less.

    Raises:
        ValueError, TypeError: an argument is wrong, or the model does not return logits; said before any work.
        RuntimeError: the model raises an error.
        Unsupported: the metric or an operation of the model has no bounds (the message names the module), or the model
            has none for the network as it runs; raised before any work.
    """
    whole, regions = _checked(model, x, y, question, upper, seconds, nodes, bounds, targets, probe)
    with eval_mode(model):
        graph = capture(model, whole.x)
    _check_arithmetic(arithmetic, model, graph, x)
    logits = torch.cat([graph.forward(part)[-1] for part in whole.x.double().split(CHUNK)])
    validation.output(logits, whole.goal, question)
    networks = Networks.of(graph, whole.p, arithmetic == "executed")
    found: dict[int, tuple[Answer, float]] = {}
    for rows, region in regions:
        call = whole.part(rows, region)
        own = (answer for start in range(0, len(rows), CHUNK) for answer in call.answers(networks, start))
        found |= dict(zip(rows.tolist(), own, strict=True))
    answers = [found[row] for row in range(len(x))]
    radius = torch.tensor([answer.radius for answer, _ in answers], dtype=torch.float64, device="cpu")
    proved = radius > 0
    if whole.radius is not None:
        proved = torch.tensor([answer.status == CertificateStatus.PROVED for answer, _ in answers], device="cpu")
    return Certificate(
        radius=radius.to(x.device),
        proved=proved.to(x.device),
        status=[answer.status for answer, _ in answers],
        nodes=torch.tensor([answer.nodes for answer, _ in answers], device=x.device),
        seconds=torch.tensor([spent for _, spent in answers], dtype=torch.float64, device=x.device),
        arithmetic=[arithmetic] * len(answers),
        evidence=[answer.evidence for answer, _ in answers],
    )


@torch.inference_mode(False)
def check_certifiable(
    model: Callable[[Tensor], Tensor], x: Float[Tensor, "b *image"], question: Question, goal: object = None,
    draws: object = None, arithmetic: str = "real",
) -> None:  # fmt: skip
    """Raises Unsupported if the question, the goal, random draws, or an operation of the model has no lower bounds, or
    none in this arithmetic."""
    if goal is not None and not isinstance(goal, Misclassified):
        raise Unsupported("Lower bounds are of misclassification; leave goal=... out, or ask the attack alone.")
    if draws is not None:
        raise Unsupported("Lower bounds need a model that answers the same at every call; leave draws=... out.")
    validation.network(model)
    validation.images(x)
    _check_question(question)
    with eval_mode(model):
        graph = capture(model, x.detach())
    _check_arithmetic(arithmetic, model, graph, x)


def _check_arithmetic(arithmetic: str, model: object, graph: Graph, x: Tensor) -> None:
    if arithmetic not in ("real", "executed"):
        raise ValueError(f"arithmetic must be 'real' or 'executed', got {shown(arithmetic)}.")
    if arithmetic == "real":
        return
    if graph.compiled or not runs_as_written(model):
        raise Unsupported(
            "Roundings are known for operations that run one by one, and a compiled model fuses them; give the model "
            "as it was before torch.compile or torch.jit, or ask with arithmetic='real'."
        )
    if graph.rounds_constants:
        raise Unsupported(
            "The model computes weights anew at every call, and what their roundings do is not known; store them as "
            "they are used, or ask with arithmetic='real'."
        )
    if graph.softmax is not None:
        raise Unsupported(
            "The model ends with softmax, whose roundings can make two classes equal; return the logits, which changes "
            "no other answer, or ask with arithmetic='real'."
        )
    if x.device.type != "cpu" or x.dtype not in (torch.float32, torch.float64):
        raise Unsupported(
            f"Roundings are known for float32 and float64 on a CPU, got {x.dtype} on {x.device.type}; move the model "
            "and x there, or ask with arithmetic='real'."
        )


def _check_question(question: Question) -> None:
    if question.through is not None:
        raise Unsupported("Lower bounds are known for x' = x + delta only; leave through=... out.")
    check_metric(question.metric)


def _checked(
    model: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, question: Question, upper: Tensor | float | None,
    seconds: float, nodes: int | None, bounds: tuple[float | Tensor, float | Tensor], targets: Targets,
    probe: Callable[[int, Tensor], float] | None,
) -> tuple[_Call, list[tuple[Tensor, Region]]]:  # fmt: skip
    """The call, and the numbers of the images of each region; one region unless boxes differ from image to image."""
    validation.network(model)
    validation.images(x)
    if not isinstance(question, MinRadius | MaxLoss):
        raise TypeError(f"question must be plica.MinRadius(...) or plica.MaxLoss(...), got {type(question).__name__}.")
    _check_question(question)
    everything = Group(torch.arange(len(x), device=x.device), question, bounds)
    regions = [(group.rows, _region(group, x)) for group in groups(question, bounds, x) or [everything]]
    validation.labels("y", y, x)
    if targets is not None:
        validation.aimed(targets, y, x)
    seconds, nodes = limits_of(seconds, nodes)
    upper = torch.full((len(x),), torch.inf, device="cpu") if upper is None else _upper(upper, x)
    radius = validation.radii(question, x) if isinstance(question, MaxLoss) else None
    goal = Goal(validation.usable(y), None if targets is None else validation.usable(targets))
    call = _Call(
        model, validation.usable(x.detach()), goal, regions[0][1], radius, upper.double().cpu(), seconds, nodes, probe
    )
    return call, regions


def limits_of(seconds: float, nodes: int | None) -> tuple[float, int | None]:
    """Check both limits; if `nodes` is given, it replaces `seconds`."""
    if not isinstance(seconds, Real) or isinstance(seconds, bool):
        raise TypeError(f"seconds must be a number, got {shown(seconds)}.")
    if not seconds > 0:
        raise ValueError(f"seconds must be positive, got {seconds}.")
    if nodes is not None and seconds != SECONDS:
        raise ValueError("nodes takes the place of seconds; give one of them.")
    return seconds, None if nodes is None else validation.whole("nodes", nodes, least=1)


def _region(group: Group, x: Float[Tensor, "b *image"]) -> Region:
    limits = check_bounds(group.bounds, x[group.rows])
    check_shape(group.question.metric, x)
    return Region(group.question.metric, limits.low.to(x.device), limits.high.to(x.device))


def _upper(upper: Any, x: Tensor) -> Tensor:
    try:
        # by way of numpy, which keeps the numbers of Python in double precision
        radii = torch.as_tensor(upper if isinstance(upper, Tensor) else np.asarray(upper), device="cpu").detach()
    except (TypeError, ValueError, RuntimeError):
        radii = None
    if radii is None or radii.is_complex():
        raise TypeError(f"upper must hold radii, one for each image, got {shown(upper)}.")
    radii = radii.expand(len(x)) if radii.ndim == 0 else radii
    if radii.shape != (len(x),):
        raise ValueError(f"upper must have shape ({len(x)},), one radius for each image, got {tuple(radii.shape)}.")
    if not bool((radii >= 0).all()):
        raise ValueError(f"upper must hold radii >= 0, inf where none is known, got {shown(radii.tolist())}.")
    return radii


@dataclass(frozen=True)
class _Call:
    """One call of `certify`: its checked arguments."""

    model: Callable[[Tensor], Tensor]
    x: Float[Tensor, "b *image"]
    goal: Goal
    region: Region
    radius: Float[Tensor, " b"] | None
    upper: Float[Tensor, " b"]
    seconds: float
    nodes: int | None
    probe: Callable[[int, Tensor], float] | None

    def part(self, rows: Int[Tensor, " r"], region: Region) -> _Call:
        """The call for some of the images, by their numbers."""
        probe = self.probe
        return replace(
            self, x=self.x[rows], goal=self.goal[rows], region=region, upper=self.upper[rows.cpu()],
            radius=None if self.radius is None else self.radius[rows],
            probe=probe and (lambda image, point: probe(int(rows[image]), point)),
        )  # fmt: skip

    @property
    def p(self) -> float:
        """The p of the norm."""
        form = lp_form(self.region.metric)
        assert form is not None
        return form.p

    def answers(self, networks: Networks, start: int) -> Iterator[tuple[Answer, float]]:
        """The answer for each of the CHUNK images from number `start` on, and the seconds it took."""
        part = slice(start, start + CHUNK)
        x, goal = self.x[part], self.goal[part]
        logits, guess = self._first_order(networks, x, goal)
        a = margins(goal, logits)
        margin = goal.margin(logits)
        searched = (logits.isfinite().all(1) & (margin < 0)).nonzero()[:, 0]
        began = time.perf_counter()
        first: dict[int, FirstRadius] = {}
        if self.radius is None and len(searched):
            deadline = began + 0.15 * self.seconds * len(searched)
            upper = torch.minimum(self.upper[part].to(x.device), self.region.span(x))
            radii = crown_radii(
                networks, self.region, x[searched], a[searched], guess[searched], upper[searched],
                Effort(deadline, self.nodes),
            )  # fmt: skip
            first = dict(zip(searched.tolist(), radii, strict=True))
        shared = (time.perf_counter() - began) / max(1, len(searched))
        for row in range(len(x)):
            began = time.perf_counter()
            if not bool(logits[row].isfinite().all()):
                yield Answer(0.0, CertificateStatus.NOT_FINITE, 0), 0.0
            elif not bool(margin[row] < 0):
                yield Answer(0.0, CertificateStatus.MISCLASSIFIED, 0), 0.0
            else:
                effort = Effort(began + self.seconds - shared, self.nodes)
                answer = self._one(networks, x[row : row + 1], a[row], start + row, first.get(row), effort)
                named = answer.evidence and _named(answer.evidence, rivals(goal[row : row + 1], logits.shape[1]))
                yield replace(answer, evidence=named), time.perf_counter() - began + shared

    def _one(
        self, networks: Networks, x: Tensor, a: Tensor, image: int, first: FirstRadius | None, effort: Effort
    ) -> Answer:
        upper, span = float(self.upper[image]), float(self.region.span(x))
        if first is not None:
            probe = lambda point: math.inf if self.probe is None else self.probe(image, point)  # noqa: E731
            return refine(networks, self.region, x, a, first, upper, span, effort, probe)
        assert self.radius is not None
        radius = float(self.radius[image])
        if upper < math.inf and upper <= radius:
            return Answer(0.0, CertificateStatus.ATTACKED, 0)
        prover = Prover(networks, self.region, x, a)
        found = prover.attempt(min(radius, span), effort)
        evidence = prover.confirm(min(radius, span), prover.leaves(), effort) if found else None
        if evidence is not None:
            return Answer(radius, CertificateStatus.PROVED, prover.nodes, evidence)
        status = CertificateStatus.STUCK if prover.is_stuck else CertificateStatus.EFFORT
        return Answer(0.0, status, prover.nodes)

    def _first_order(self, networks: Networks, x: Tensor, goal: Goal) -> tuple[Tensor, Tensor]:
        """Logits in float64, and the radius to first order: where the margin would be 0 if it were linear, ignoring the
        box."""
        with torch.enable_grad():
            z = x.double().detach().requires_grad_(True)
            logits = networks.exact.forward(z)[-1]
            margin = goal.margin(logits)
            (grad,) = torch.autograd.grad(margin.sum(), z)
        inputs = self.region.around(x, torch.ones(len(x), dtype=torch.float64, device=x.device), torch.float64)
        dual = {float("inf"): 1.0, 2: 2.0, 1: float("inf")}[inputs.p]
        size = torch.linalg.vector_norm((grad / inputs.weights).flatten(1), dual, dim=1)
        return logits.detach(), (-margin.detach() / size.clamp(min=1e-12)).clamp(min=1e-9)


def _named(evidence: Evidence, classes: list[int]) -> Evidence:
    """The evidence with the numbers of functions replaced by the classes that they exclude."""
    return replace(evidence, leaves=tuple(replace(leaf, rival=classes[leaf.rival]) for leaf in evidence.leaves))


def rivals(goal: Goal, classes: int) -> list[int]:
    """The class that each function of `margins` excludes, for one image."""
    if goal.targets is not None:
        return goal.targets.tolist()
    return [k for k in range(max(2, classes)) if k != int(goal.y)]


def margins(goal: Goal, logits: Float[Tensor, "b classes"]) -> Float[Tensor, "b m classes"]:
    """Coefficients of linear functions of the logits. If all of them are positive the goal is not reached: f_y - f_j
    for every other class j; with a target t, f_i - f_t for the class i of the image."""
    classes = logits.shape[1]
    if classes == 1:  # one logit for two classes, positive for class 1
        return (2 * goal.y - 1).double()[:, None, None]
    if goal.targets is not None:
        own = torch.nn.functional.one_hot(logits.argmax(1), classes).double()
        return (own - torch.nn.functional.one_hot(goal.targets, classes))[:, None]
    own = torch.nn.functional.one_hot(goal.y, classes).double()
    others = torch.arange(classes - 1, device=goal.y.device)
    others = others + (others >= goal.y[:, None])
    return own[:, None] - torch.nn.functional.one_hot(others, classes)
