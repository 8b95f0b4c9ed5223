"""The largest radius that can be proved. First one pass of CROWN for each guess, for all images at once; then image by
image, with optimised lines and branching, at radii between what is proved and what an attack has found."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from plica.certify.backward import Pass
from plica.certify.certificate import CertificateStatus, Evidence, Leaf
from plica.certify.intermediate import node_bounds
from plica.certify.lemmas import Lemmas
from plica.certify.parts import Part
from plica.certify.prove import Effort, Networks, Prover, Region
from plica.certify.slopes import Parts, packed

CLOSED = 1e-3  # a lower bound is taken as exact if it misses the upper bound by at most this share of it
GUESSES = 9
FIRST_GUESS = 0.4  # largest first guess, as a share of the attack's radius
PRECISION = 0.01  # relative precision of the first bounds
ATTEMPTS = 24
SHARE = 0.6  # share of the time or nodes left that one attempt may use
AGAIN = 0.02  # relative increase of the proved radius that is tried after all larger ones have failed
MOST = 3.0  # largest radius that is tried next, over the proved radius
LAST = 3.0  # times that the parts take to be bounded at another radius; with less time, an attempt is the last one
NEARLY = 0.9  # of the way to the radius at which an attempt that failed would not have
FIRST_STEP = 0.25  # first radius tried: this share of the way from the proved radius to the attack's


@torch.no_grad()
def crown_margin(
    networks: Networks, region: Region, x: Float[Tensor, "b *image"], a: Float[Tensor, "b m classes"],
    radius: Float[Tensor, " b"], go_on: Callable[[], bool] = lambda: True, rigorous: bool = False, crown: bool = True,
) -> tuple[Float[Tensor, " b"], UInt8[Tensor, "b k"]]:  # fmt: skip
    """A lower bound of the least of m functions <a, logits> within the radius of each image, and the lines' slopes.

    crown: False for intervals alone inside the network.
    """
    graph, inputs = networks.graph(rigorous), region.around(x, radius, torch.float64 if rigorous else torch.float32)
    bounds = node_bounds(graph, inputs, crown=crown, rigorous=rigorous, unit=networks.unit, go_on=go_on)
    rows = torch.arange(len(x), device=x.device).repeat_interleave(a.shape[1])
    value = Pass(graph, inputs, bounds.lines, slack=bounds.slack, balls=bounds.balls).lower(
        a.flatten(0, 1).to(inputs.x), len(graph.nodes) - 1, rows
    )
    return value.view(len(x), -1).amin(1), packed(bounds.start, len(x))


class FirstRadius(NamedTuple):
    """The first radius of an image, proved in float32. `confirm` gives the radius that float64 proves and the proof, or
    0 and None."""

    radius: float
    confirm: Callable[[], tuple[float, Evidence | None]]


def crown_radii(
    networks: Networks, region: Region, x: Float[Tensor, "b *image"], a: Float[Tensor, "b m classes"],
    guess: Float[Tensor, " b"], upper: Float[Tensor, " b"], effort: Effort,
) -> list[FirstRadius]:  # fmt: skip
    """The largest radius of each image that one pass proves. If the time is too short for one pass, a radius is proved
    with interval arithmetic inside the network, which takes very little time.

    Args:
        guess: first radius to try, positive; a good one saves passes.
        upper: larger radii are not tried.
    """
    radius = _searched(networks, region, x, a, torch.minimum(guess, FIRST_GUESS * upper), upper, effort)
    none, crown = (radius == 0).nonzero()[:, 0], radius > 0
    if len(none):
        radius[none] = _of_intervals(networks, region, x[none], a[none], guess[none], upper[none])

    def confirm(row: int) -> tuple[float, Evidence | None]:
        own = slice(row, row + 1)
        images, margins = x[own], a[own]
        found, slopes = _confirmed(networks, region, images, margins, radius[own], bool(crown[row]))
        if not found > 0 and crown[row]:
            less = _of_intervals(networks, region, images, margins, guess[own], upper[own])
            found, slopes = _confirmed(networks, region, images, margins, less, False)
        if not found > 0:
            return 0.0, None
        leaves = (Leaf(rival, (), (), slopes[0].cpu()) for rival in range(margins.shape[1]))
        return float(found), Evidence(slopes[0].cpu(), tuple(leaves))

    return [FirstRadius(own, partial(confirm, row)) for row, own in enumerate(radius.tolist())]


def _of_intervals(
    networks: Networks, region: Region, x: Float[Tensor, "b *image"], a: Float[Tensor, "b m classes"],
    guess: Float[Tensor, " b"], upper: Float[Tensor, " b"],
) -> Float[Tensor, " b"]:  # fmt: skip
    return _searched(networks, region, x, a, guess, upper, Effort(math.inf), crown=False)


def _searched(
    networks: Networks, region: Region, x: Float[Tensor, "b *image"], a: Float[Tensor, "b m classes"],
    guess: Float[Tensor, " b"], upper: Float[Tensor, " b"], effort: Effort, crown: bool = True,
) -> Float[Tensor, " b"]:  # fmt: skip
    """Radii by regula falsi in float32."""
    low, high = torch.zeros_like(guess), upper.clone()
    # the margin itself: a ball of radius 0 is smaller than the roundings of a search in float32
    at_low = (a @ networks.exact.forward(x.double())[-1][:, :, None])[:, :, 0].amin(1)
    at_high = torch.full_like(at_low, torch.nan)
    tried, cost = torch.minimum(guess, upper), 0.0
    for _ in range(GUESSES):
        rows = (high - low > PRECISION * low).nonzero()[:, 0]  # the others are left as they are
        if not len(rows) or not effort.left(cost):
            break
        began = time.perf_counter()
        value = crown_margin(networks, region, x[rows], a[rows], tried[rows], effort.left, crown=crown)[0].double()
        cost = max(cost, time.perf_counter() - began)
        value = torch.where(value.isnan(), -torch.inf, value)  # of numbers too large for floats
        good, bad = rows[value > 0], rows[value <= 0]
        low[good], at_low[good] = tried[good], value[value > 0]
        high[bad], at_high[bad] = tried[bad], value[value <= 0]
        least = 0.1 * (high - low)
        # in a box without end a guess may be wrong by many powers of ten, as where the gradient at the image is 0
        least = torch.where(upper.isinf() & at_high.isfinite(), torch.minimum(least, 3 * low), least)
        between = low + torch.maximum((high - low) * (at_low / (at_low - at_high)).clamp(max=0.9), least)
        if not crown:  # bounds from intervals alone fall steeply, and any radius is better than none
            between = torch.where(low == 0, torch.minimum(between, high / 4), between)
        tried = torch.where(at_high.isnan(), torch.minimum(2 * low, high), between)
    return low


def _confirmed(
    networks: Networks, region: Region, x: Float[Tensor, "b *image"], a: Float[Tensor, "b m classes"],
    radius: Float[Tensor, " b"], crown: bool,
) -> tuple[Float[Tensor, " b"], UInt8[Tensor, "b k"]]:  # fmt: skip
    """The radii that float64 proves, and the slopes. A radius that float64 does not prove is reduced a little, and if
    that fails too, is 0."""
    confirmed, slopes = torch.zeros_like(radius), torch.zeros(len(x), 0, dtype=torch.uint8, device=x.device)
    for factor in (1.0, 0.999, 0.9):
        rows = ((radius > 0) & (confirmed == 0)).nonzero()[:, 0]
        if not len(rows):
            break
        tried = factor * radius[rows]
        value, own = crown_margin(networks, region, x[rows], a[rows], tried, rigorous=True, crown=crown)
        slopes = slopes if slopes.shape[1] == own.shape[1] else own.new_zeros(len(x), own.shape[1])
        confirmed[rows], slopes[rows] = torch.where(value > 0, tried, 0), own
    return confirmed, slopes


Probe = Callable[[Float[Tensor, "1 *image"]], float]  # a radius that an attack finds from there; inf for none


@dataclass(frozen=True)
class Answer:
    """The answer for one image."""

    radius: float
    status: CertificateStatus
    nodes: int
    evidence: Evidence | None = None


def refine(
    networks: Networks, region: Region, x: Float[Tensor, "1 *image"], a: Float[Tensor, "m classes"],
    first: FirstRadius, upper: float, span: float, effort: Effort, probe: Probe,
) -> Answer:  # fmt: skip
    """A larger radius than the one that is proved, by branching, until the effort is spent or the bracket is closed.

    Each attempt may use a SHARE of what is left, so that one at too large a radius does not use up everything. It ends
    early if it is far from being finished, and starts from the parts of the last one: what it lacks tells which radius
    to try next. Radii are found in float32; the largest of them that float64 confirms is the answer.

    Args:
        first: a radius that needs no branching, or 0.
        upper: a radius that an attack found.
        span: radius at which the ball contains the whole box: once it is proved, no input of the box is misclassified.
        probe: asked for a radius at the worst point of what an attempt leaves open.
    """
    prover = Prover(networks, region, x, a)
    reached, unproved, step, found = first.radius, min(upper, span), FIRST_STEP, list[_Found]()
    # the radius of the last attempt that proved nothing, and whether that was for a part that cannot be divided
    failed, stuck = math.inf, False
    for _ in range(ATTEMPTS):
        farthest = min(upper * (1 - CLOSED / 2), span)
        spent = effort.nodes is not None and prover.nodes >= effort.nodes
        if reached >= min(upper * (1 - CLOSED), span) or spent or not effort.left(prover.reserve):
            break
        # where no attack found a point, the box may reach far beyond, or without end
        most = MOST * reached if reached and upper == math.inf else math.inf
        aim = min(reached + step * (unproved - reached), most, farthest)
        if farthest < min(upper, failed) and aim >= farthest * (1 - 3 * CLOSED):  # not tried yet, and near
            aim = farthest
        if aim <= reached * (1 + CLOSED / 4):
            if unproved >= upper or aim >= farthest or stuck:
                break
            # what was too far may be reached from the parts made since
            unproved = min((1 + AGAIN) * reached, upper, span)
            continue
        if prover.attempt(aim, effort, SHARE):
            reached, step = aim, min(0.8, 2 * step)  # what was proved may be exceeded by more
            found.append(_Found(aim, prover.leaves(), prover.slopes, prover.used))
        else:
            unproved, failed, stuck = aim, aim, prover.is_stuck
            # nearly to where the least bound of its parts is 0, if it falls evenly; in the end nothing more is risked
            more = FIRST_STEP if effort.left(prover.reserve + LAST * prover.moving) else 0.0
            step = max(more, NEARLY * prover.gained)
            worst = prover.worst()
            if worst is not None:
                upper = min(upper, probe(worst))
                unproved = min(unproved, upper)
    proved, evidence = _largest(prover, found, first.radius) or first.confirm()
    if proved >= span:
        return Answer(math.inf, CertificateStatus.PROVED, prover.nodes, evidence)
    closed = proved >= upper * (1 - CLOSED)
    return Answer(proved, CertificateStatus.CLOSED if closed else CertificateStatus.EFFORT, prover.nodes, evidence)


class _Found(NamedTuple):
    """A radius that float32 proves, its leaves, the slopes of lines inside the network, and the bounds of neurons."""

    radius: float
    leaves: list[Part]
    slopes: Parts | None
    used: Lemmas


def _largest(prover: Prover, found: list[_Found], least: float) -> tuple[float, Evidence] | None:
    """The largest radius found above `least` that float64 proves, reduced a little if float32 proved too much."""
    for radius, leaves, slopes, used in reversed(found):
        for tried in (radius, (1 - CLOSED / 4) * radius, 0.99 * radius):
            prover.slopes, prover.used = slopes, used
            evidence = prover.confirm(tried, leaves) if tried > least else None
            if evidence is not None:
                return tried, evidence
    return None
