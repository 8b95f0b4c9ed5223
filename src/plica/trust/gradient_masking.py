"""Do searches along the gradient work, and does no other search work better?

A short gradient ascent on the margin in an l_inf ball, written here, is compared with the margin at its start, with a
random search that uses outputs only, with ascent along the gradient averaged over noise, with ascent on another model,
and with ascent towards single classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from plica.trust.findings import Finding, Severity
from plica.trust.probe import Probe, lead, logits_of, rows, slope

Model = Callable[[Tensor], Tensor]
Slope = Callable[[Tensor, Tensor], "tuple[Tensor, Tensor] | None"]
STEPS = 20
CORNERS = 5  # of the ball, as starts after the image itself
TRIALS = 150  # of the random search, a forward run each
RADII = (1 / 255, 2 / 255, 4 / 255, 8 / 255, 16 / 255, 32 / 255)
TARGETS = 5  # classes that are aimed at, those of the largest logits at the image
LUCKY = 3  # images that may be broken by luck


@dataclass(frozen=True)
class Ascent:
    """The images that the model classifies correctly, and the margins that a gradient ascent reaches.

    Attributes:
        radius: of the l_inf ball: the smallest of RADII at which the ascent from the image breaks half of the images,
            or the largest of them.
        start: (i,) the margin at the image.
        first: (i,) the largest margin of the ascent from the image.
        end: (i,) the largest margin of all ascents, including those from corners of the ball.
    """

    x: Float[Tensor, "i *image"]
    y: Int[Tensor, " i"]
    radius: float
    start: Float[Tensor, " i"]
    first: Float[Tensor, " i"]
    end: Float[Tensor, " i"]

    @property
    def unbroken(self) -> Ascent:
        """The images that were not broken."""
        rows = self.end <= 0
        return Ascent(self.x[rows], self.y[rows], self.radius, self.start[rows], self.first[rows], self.end[rows])


def climb(probe: Probe) -> Ascent | None:
    """The ascent at the smallest radius of RADII that breaks half of the images, or at the largest radius. None if the
    model has no gradient or classifies no image correctly."""
    x, y = probe.x[probe.right], probe.y[probe.right]
    if not len(x):
        return None
    start = lead(probe.logits[probe.right], y)
    ascent = None
    for radius in RADII:
        first = _ascend(partial(slope, probe.model), probe.model, x, y, radius, x)
        if first is None:
            return None
        ascent = Ascent(x, y, radius, start, first, first)
        if float((first > 0).double().mean()) >= 0.5:
            break
    return None if ascent is None else replace(ascent, end=_from_corners(probe, ascent))


def _from_corners(probe: Probe, ascent: Ascent) -> Tensor:
    """The largest margins after images that are not broken are tried again from corners of the ball.  (i,)"""
    x, y, radius, end = ascent.x, ascent.y, ascent.radius, ascent.first.clone()
    for number in range(CORNERS):
        rows = (end <= 0).nonzero()[:, 0]
        if not len(rows):
            break
        z = (x[rows] + radius * probe.noise(x, 40 + number)[rows].sign()).clamp(0, 1)
        again = _ascend(partial(slope, probe.model), probe.model, x[rows], y[rows], radius, z)
        end[rows] = end[rows] if again is None else torch.maximum(end[rows], again)
    return end


def _ascend(
    slope_of: Slope, model: Model, x: Tensor, y: Tensor, radius: float, z: Tensor, leads_from_gradient: bool = True
) -> Tensor | None:
    """The largest margin of `model` along an ascent from z, (i,): signed steps that shrink from radius / 2 to radius /
    40, projected onto the ball and the box. None without a gradient. `slope_of` gives the gradients, and also the
    margins if `leads_from_gradient`; else its gradients are those of another model or loss."""
    top = None
    for step in range(STEPS + 1):
        slopes = slope_of(z, y)
        if slopes is None:
            return None
        value = slopes[0] if leads_from_gradient else lead(logits_of(model, z), y)
        top = value if top is None else torch.maximum(top, value)
        size = radius * 0.5 * 20 ** (-step / STEPS)
        z = (x + (z + size * slopes[1].sign() - x).clamp(-radius, radius)).clamp(0, 1)
    return top


def rises(ascent: Ascent) -> Iterator[Finding]:
    """The loss must increase along the ascent."""
    flat = float((ascent.first <= ascent.start).double().mean())
    if flat > 0.1:
        yield Finding(
            "loss does not rise",
            Severity.FATAL if flat > 0.5 else Severity.RESERVATION,
            f"On {flat:.0%} of {len(ascent.x)} images {STEPS} steps along the gradient never raised the loss: "
            "the gradient is of no use, so that an attack that follows it shows nothing.",
            flat,
        )


def blind(probe: Probe, ascent: Ascent) -> Iterator[Finding]:
    """A random search like the Square attack, on the images that the ascent did not break."""
    if len(ascent.unbroken.x):
        broken = _search(probe, ascent.unbroken) > 0
        yield from _beaten("black box", "a random search that sees outputs alone", ascent, broken)


def _search(probe: Probe, ascent: Ascent) -> Float[Tensor, " i"]:
    """The largest margins over corners of the ball. In each trial a random window (of a vector, a random subset) is
    changed, and the change is kept if it increases the margin."""
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
    best = lead(logits_of(probe.model, x + delta), y)
    for trial_number in range(TRIALS):
        share = 0.3 * 30 ** (-trial_number / TRIALS)
        window = _window(x, share, draw)
        trial = (x + torch.where(window, radius * patch(), delta)).clamp(0, 1) - x
        value = lead(logits_of(probe.model, x + trial), y)
        better = value > best
        best, delta = torch.where(better, value, best), torch.where(rows(better, x), trial, delta)
    return best


def _window(x: Tensor, share: float, draw: torch.Generator) -> Bool[Tensor, "i *image"]:
    """A random square window per image, of that share of its pixels; of a vector, a random subset of its features."""
    if x.ndim < 4:
        return (torch.rand(x.shape, generator=draw, dtype=torch.float32) < share).to(x.device)
    inside = torch.ones(len(x), 1, *x.shape[2:], dtype=torch.bool)
    for axis, size in enumerate(x.shape[2:], start=2):
        side = max(1, round(size * share ** (1 / (x.ndim - 2))))
        start = torch.randint(0, size - side + 1, (len(x),), generator=draw)
        offset = torch.arange(size)[None, :] - start[:, None]
        shape = [len(x), 1, *[size if a == axis else 1 for a in range(2, x.ndim)]]
        inside &= ((offset >= 0) & (offset < side)).view(shape)
    return inside.expand(x.shape).to(x.device)


def smoothed(probe: Probe, ascent: Ascent) -> Iterator[Finding]:
    """Ascent along the mean gradient over normal noise of half the radius."""

    def slope_of(z: Tensor, y: Tensor) -> tuple[Tensor, Tensor] | None:
        noise = [0.5 * ascent.radius * probe.noise(z, 20 + i) for i in range(4)]
        slopes = [slope(probe.model, (z + step).clamp(0, 1), y) for step in noise]
        if any(s is None for s in slopes):
            return None
        return torch.stack([s[0] for s in slopes if s]).mean(0), torch.stack([s[1] for s in slopes if s]).mean(0)

    yield from _transfer(probe, ascent, slope_of, "a point of the model smoothed by noise")


def transferred(probe: Probe, ascent: Ascent, surrogates: Sequence[Callable[[Tensor], Tensor]]) -> Iterator[Finding]:
    """Ascent on other models."""
    for other in surrogates:
        yield from _transfer(probe, ascent, partial(slope, other), "a point found on another model")


def _transfer(probe: Probe, ascent: Ascent, slope_of: Slope, words: str) -> Iterator[Finding]:
    rest = ascent.unbroken
    if len(rest.x):
        leads = _ascend(slope_of, probe.model, rest.x, rest.y, rest.radius, rest.x, leads_from_gradient=False)
        if leads is not None:
            yield from _beaten("transfer", words, ascent, leads > 0)


def _beaten(check: str, words: str, ascent: Ascent, broken: Bool[Tensor, " s"]) -> Iterator[Finding]:
    """A finding if another search breaks images that the ascent did not break. broken: which of them it breaks."""
    count, share = int(broken.sum()), float(broken.sum()) / len(ascent.x)
    if count > LUCKY and share > 0.05:
        yield Finding(
            check,
            Severity.FATAL if share >= 0.1 else Severity.RESERVATION,
            f"On {share:.0%} of {len(ascent.x)} images {words} is misclassified within l_inf {ascent.radius:.3g} where "
            f"{STEPS} steps along the gradient found nothing: the gradient is masked, and attacks that follow it "
            "overstate the robustness.",
            share,
        )


def aimed(probe: Probe, ascent: Ascent) -> Iterator[Finding]:
    """Images that are broken only by an ascent towards a single class."""
    x, y = ascent.unbroken.x, ascent.unbroken.y
    if not len(x) or probe.logits.shape[1] < 3:
        return
    others = logits_of(probe.model, x).scatter(1, y[:, None], -torch.inf)
    classes = others.topk(min(TARGETS, others.shape[1] - 1), dim=1).indices
    hits = torch.zeros(len(x), dtype=torch.long, device=x.device)
    for k in range(classes.shape[1]):
        target = classes[:, k]
        leads = _ascend(
            lambda z, y, target=target: slope(probe.model, z, y, target),
            probe.model,
            x,
            y,
            ascent.radius,
            x,
            leads_from_gradient=False,
        )
        if leads is not None:
            hits += leads > 0
    count = int((hits > 0).sum())
    share = count / len(ascent.x)
    if count > LUCKY and share > 0.1:
        yield Finding(
            "one target class",
            Severity.RESERVATION,
            f"{share:.0%} of {len(ascent.x)} images are broken only by aiming at one class in particular: an attack on "
            "the largest other logit misses them; add a method that aims at every class.",
            share,
        )
