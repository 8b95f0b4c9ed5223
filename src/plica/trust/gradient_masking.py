"""Does following the gradient work, and does nothing else work better?

A short ascent on the lead of the wrong class in an l_inf ball, written here, against: the loss it started from, a
random search that sees outputs alone, the gradient averaged over noise, another model's points, and aiming at single
classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from plica.trust.findings import Finding, Severity
from plica.trust.probe import Probe, ask, lead, rows, slope

Model = Callable[[Tensor], Tensor]
Slope = Callable[[Tensor, Tensor], "tuple[Tensor, Tensor] | None"]
STEPS = 20
CORNERS = 5  # of the ball, as starts after the image itself
LOOKS = 150  # of the random search, forward runs
RADII = (1 / 255, 2 / 255, 4 / 255, 8 / 255, 16 / 255, 32 / 255)
AIMS = 5  # classes aimed at, those that are ahead at the image
FEW = 3  # images that may go another way by luck


@dataclass(frozen=True)
class Ascent:
    """The images the model gets right, the l_inf `radius` at which the ascent breaks about half of them, what it did.

    Lead of the wrong class (i,): start, at the image; first, the best on the way from it; end, from corners too.
    """

    x: Float[Tensor, "i *image"]
    y: Int[Tensor, " i"]
    radius: float
    start: Float[Tensor, " i"]
    first: Float[Tensor, " i"]
    end: Float[Tensor, " i"]

    @property
    def standing(self) -> Ascent:
        """Those of the images that were not broken."""
        left = self.end <= 0
        return Ascent(self.x[left], self.y[left], self.radius, self.start[left], self.first[left], self.end[left])


def climb(probe: Probe) -> Ascent | None:
    """The ascent at the smallest radius of RADII that breaks half of the images, or at the largest; None without
    gradient or image."""
    x, y = probe.x[probe.right], probe.y[probe.right]
    if not len(x):
        return None
    start = lead(probe.logits[probe.right], y)
    found = None
    for radius in RADII:
        first = _ascend(partial(slope, probe.model), probe.model, x, y, radius, x)
        if first is None:
            return None
        found = Ascent(x, y, radius, start, first, first)
        if float((first > 0).double().mean()) >= 0.5:
            break
    return None if found is None else replace(found, end=_from_corners(probe, found))


def _from_corners(probe: Probe, ascent: Ascent) -> Tensor:
    """The best lead when images left standing are tried again from corners of the ball.  (i,)"""
    x, y, radius, end = ascent.x, ascent.y, ascent.radius, ascent.first.clone()
    for number in range(CORNERS):
        left = (end <= 0).nonzero()[:, 0]
        if not len(left):
            break
        z = (x[left] + radius * probe.noise(x, 40 + number)[left].sign()).clamp(0, 1)
        again = _ascend(partial(slope, probe.model), probe.model, x[left], y[left], radius, z)
        end[left] = end[left] if again is None else torch.maximum(end[left], again)
    return end


def _ascend(
    slope_of: Slope, model: Model, x: Tensor, y: Tensor, radius: float, z: Tensor, leads_from_gradient: bool = True
) -> Tensor | None:
    """The best lead on the way from z: signed steps that shrink from radius / 2 to radius / 40, kept in the ball and
    the box. Leads are those of `model`; `slope_of` gives them too if `leads_from_gradient`, else its gradients are of
    another model or loss."""
    top = None
    for step in range(STEPS + 1):
        found = slope_of(z, y)
        if found is None:
            return None
        value = found[0] if leads_from_gradient else lead(ask(model, z), y)
        top = value if top is None else torch.maximum(top, value)
        size = radius * 0.5 * 20 ** (-step / STEPS)
        z = (x + (z + size * found[1].sign() - x).clamp(-radius, radius)).clamp(0, 1)
    return top


def rises(ascent: Ascent) -> Iterator[Finding]:
    """The loss along the attack."""
    still = float((ascent.first <= ascent.start).double().mean())
    if still > 0.1:
        yield Finding(
            "loss does not rise",
            Severity.FATAL if still > 0.5 else Severity.RESERVATION,
            f"On {still:.0%} of {len(ascent.x)} images {STEPS} steps along the gradient never raised the loss: "
            "the gradient leads nowhere, and what a gradient attack misses says nothing.",
            still,
        )


def blind(probe: Probe, ascent: Ascent) -> Iterator[Finding]:
    """A random search, in the manner of the Square attack, on the images that the ascent left standing."""
    if len(ascent.standing.x):
        broken = _search(probe, ascent.standing) > 0
        yield from _beaten("black box", "a random search that sees outputs alone", ascent, broken)


def _search(probe: Probe, ascent: Ascent) -> Float[Tensor, " i"]:
    """The best leads. Corners of the ball, changed in a random window (a vector: subset) while that helps."""
    x, y, draw = ascent.x, ascent.y, probe.generator(7)
    radius = ascent.radius

    def corner() -> Tensor:
        return torch.randint(0, 2, x.shape, generator=draw).to(x) * 2 - 1

    def patch() -> Tensor:
        if x.ndim < 4:
            return corner()
        signs = torch.randint(0, 2, (*x.shape[:2], *[1] * (x.ndim - 2)), generator=draw).to(x) * 2 - 1
        return signs.expand_as(x)

    stripes = corner() if x.ndim < 4 else corner()[..., :1, :].expand_as(x)
    delta = (x + radius * stripes).clamp(0, 1) - x
    best = lead(ask(probe.model, x + delta), y)
    for look in range(LOOKS):
        share = 0.3 * 30 ** (-look / LOOKS)
        window = _window(x, share, draw)
        trial = (x + torch.where(window, radius * patch(), delta)).clamp(0, 1) - x
        value = lead(ask(probe.model, x + trial), y)
        better = value > best
        best, delta = torch.where(better, value, best), torch.where(rows(better, x), trial, delta)
    return best


def _window(x: Tensor, share: float, draw: torch.Generator) -> Bool[Tensor, "i *image"]:
    """A square window of that share of the pixels, another for each image; a random subset of a vector's features."""
    if x.ndim < 4:
        return (torch.rand(x.shape, generator=draw) < share).to(x.device)
    inside = torch.ones(len(x), 1, *x.shape[2:], dtype=torch.bool)
    for axis, size in enumerate(x.shape[2:], start=2):
        side = max(1, round(size * share ** (1 / (x.ndim - 2))))
        start = torch.randint(0, size - side + 1, (len(x),), generator=draw)
        place = torch.arange(size)[None, :] - start[:, None]
        shape = [len(x), 1, *[size if a == axis else 1 for a in range(2, x.ndim)]]
        inside &= ((place >= 0) & (place < side)).view(shape)
    return inside.expand(x.shape).to(x.device)


def smoothed(probe: Probe, ascent: Ascent) -> Iterator[Finding]:
    """Points found on a smoother surrogate: the mean gradient over noise of half the radius."""

    def slope_of(z: Tensor, y: Tensor) -> tuple[Tensor, Tensor] | None:
        noise = [0.5 * ascent.radius * probe.noise(z, 20 + i) for i in range(4)]
        found = [slope(probe.model, (z + step).clamp(0, 1), y) for step in noise]
        if any(f is None for f in found):
            return None
        return torch.stack([f[0] for f in found if f]).mean(0), torch.stack([f[1] for f in found if f]).mean(0)

    yield from _transfer(probe, ascent, slope_of, "a point of the model smoothed by noise")


def transferred(probe: Probe, ascent: Ascent, surrogates: Sequence[Callable[[Tensor], Tensor]]) -> Iterator[Finding]:
    """Points found on other models."""
    for other in surrogates:
        yield from _transfer(probe, ascent, partial(slope, other), "a point found on another model")


def _transfer(probe: Probe, ascent: Ascent, slope_of: Slope, words: str) -> Iterator[Finding]:
    left = ascent.standing
    if len(left.x):
        done = _ascend(slope_of, probe.model, left.x, left.y, left.radius, left.x, leads_from_gradient=False)
        if done is not None:
            yield from _beaten("transfer", words, ascent, done > 0)


def _beaten(check: str, words: str, ascent: Ascent, broken: Bool[Tensor, " s"]) -> Iterator[Finding]:
    """`broken`: of the images that the ascent left standing, those that something else misclassifies."""
    count, share = int(broken.sum()), float(broken.sum()) / len(ascent.x)
    if count > FEW and share > 0.05:
        yield Finding(
            check,
            Severity.FATAL if share >= 0.1 else Severity.RESERVATION,
            f"On {share:.0%} of {len(ascent.x)} images {words} is misclassified within l_inf {ascent.radius:.3g} where "
            f"{STEPS} steps along the gradient found nothing: the gradient is masked, and what follows it "
            "overstates the model.",
            share,
        )


def aimed(probe: Probe, ascent: Ascent) -> Iterator[Finding]:
    """Images that fall only when one class is aimed at."""
    x, y = ascent.standing.x, ascent.standing.y
    if not len(x) or probe.logits.shape[1] < 3:
        return
    others = ask(probe.model, x).scatter(1, y[:, None], -torch.inf)
    classes = others.topk(min(AIMS, others.shape[1] - 1), dim=1).indices
    hits = torch.zeros(len(x), dtype=torch.long, device=x.device)
    for k in range(classes.shape[1]):
        aim = classes[:, k]
        done = _ascend(
            lambda z, y, aim=aim: slope(probe.model, z, y, aim),
            probe.model,
            x,
            y,
            ascent.radius,
            x,
            leads_from_gradient=False,
        )
        if done is not None:
            hits += done > 0
    count = int((hits > 0).sum())
    share = count / len(ascent.x)
    if count > FEW and share > 0.1:
        yield Finding(
            "one target class",
            Severity.RESERVATION,
            f"{share:.0%} of {len(ascent.x)} images fall only when one particular class is aimed at: an attack on the "
            "class that is ahead misses them; add a method that aims at every class.",
            share,
        )
