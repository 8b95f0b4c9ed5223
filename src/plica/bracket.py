"""plica.bracket: a lower and an upper bound of each image's robustness radius, by a certificate and an attack."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from plica.api import attack
from plica.certify import Certificate, certify, check_certifiable
from plica.certify.api import SECONDS, limits_of
from plica.core.domain.groups import Group, groups
from plica.core.formulations import MinRadius, Question
from plica.core.goals import Goal
from plica.core.losses import Targets
from plica.core.model.eval_mode import eval_mode
from plica.core.result import Result

CLOSED = 1e-3  # largest gap that counts as closed
STARTS = 8  # further attacks on an image, at most, each from a point in an open part of the certificate's search
BUDGET = 20  # gradients of each further attack
TRIED = 32  # forward runs that choose the starting point of each


@dataclass(frozen=True)
class Bracket:
    """One entry per image.

    Attributes:
        lower: no input of the box that is nearer than this is misclassified; 0 where nothing is proved.
        upper: the distance of a misclassified input; inf where none was found.
        result: of the attack.
        certificate: of the lower bounds.
        attacked: the distance that the first attack found, before it was started again at points that the search for
            the certificate suggested; at least `upper`.
    """

    lower: Float[Tensor, " b"]
    upper: Float[Tensor, " b"]
    result: Result
    certificate: Certificate
    attacked: Float[Tensor, " b"]

    def __repr__(self) -> str:
        """Counts and medians in a line, not the evidence."""
        bounded, exact = int((self.lower > 0).sum()), int(self.closed.sum())
        return (
            f"Bracket({len(self.lower)} images: {bounded} with a lower bound, {exact} exact to a thousandth; "
            f"medians {float(self.lower.median()):.4g} and {float(self.upper.median()):.4g})"
        )

    @property
    def gap(self) -> Float[Tensor, " b"]:
        """upper / lower - 1: 0 where the two are equal, even if both are 0 or inf; inf where only one is known."""
        return gap(self.lower, self.upper)

    @property
    def closed(self) -> Bool[Tensor, " b"]:
        """Whether the gap is at most a thousandth: the radius is exact to that."""
        return self.gap <= CLOSED


def gap(lower: Float[Tensor, " b"], upper: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
    """upper / lower - 1: 0 where the two are equal, even if both are 0 or inf; inf where only one is known."""
    return (upper / lower - 1).masked_fill(upper == lower, 0)


def bracket(
    model: Callable[[Tensor], Tensor],
    x: Float[Tensor, "b *image"],
    y: Int[Tensor, " b"],
    question: MinRadius,
    *,
    gradients: int = 300,
    seconds: float = SECONDS,
    nodes: int | None = None,
    seed: int = 0,
    bounds: tuple[float | Tensor, float | Tensor] = (0.0, 1.0),
    targets: Targets = None,
    arithmetic: str = "real",
    **attacking: Any,
) -> Bracket:
    """A lower and an upper bound of every image's radius. An attack gives the upper bound, beyond which the search for
    a certificate need not go; where that search makes no progress, the attack is started again from a point there.

    Args:
        model, x, y, bounds, targets: as in `plica.attack`; the model must be one that `plica.certify` can treat.
        question: a MinRadius under a metric that has lower bounds.
        gradients, seed: of the attack. Attacks that are started again spend at most 160 gradients per image in
            addition.
        seconds, nodes, arithmetic: as in `plica.certify`: the time or the number of nodes for each image, and the
            arithmetic that the bounds hold in.
        attacking: further arguments of `plica.attack`, except for draws and goals other than misclassification, for
            which there are no lower bounds. With levels, the lower bound also holds off the grid.

    Raises:
        ValueError, TypeError: as `plica.attack` and `plica.certify`; a question that is no MinRadius.
        Unsupported: the metric or an operation of the model has no lower bounds; raised before the attack.
    """
    if not isinstance(question, MinRadius):
        raise TypeError(
            f"plica.bracket answers plica.MinRadius(...), got {type(question).__name__}; use plica.certify."
        )
    limits_of(seconds, nodes)
    check_certifiable(model, x, question, attacking.get("goal"), attacking.get("draws"), arithmetic)
    settings: dict[str, Any] = dict(seed=seed, bounds=bounds, targets=targets) | attacking
    attacked = attack(model, x, y, question, gradients=gradients, **settings)
    quietly: dict[str, Any] = settings | {"on_progress": None}
    result, certificate = certified(
        model, x, y, question, attacked, seconds=seconds, nodes=nodes, arithmetic=arithmetic, **quietly
    )
    return Bracket(certificate.radius, result.distance, result, certificate, attacked.distance)


def certified(
    model: Callable[[Tensor], Tensor],
    x: Float[Tensor, "b *image"],
    y: Int[Tensor, " b"],
    question: Question,
    result: Result,
    *,
    upper: Float[Tensor, " b"] | None = None,
    seconds: float,
    nodes: int | None,
    bounds: tuple[float | Tensor, float | Tensor],
    targets: Targets = None,
    arithmetic: str = "real",
    **attacking: Any,
) -> tuple[Result, Certificate]:
    """The certificate for the images of a result of `plica.attack`, and that result, with nearer points where attacks
    that were started again found some.

    Args:
        upper: upper bounds of the radii that are known in addition to the distances of the result.
    """
    known = result.distance if upper is None else torch.minimum(result.distance, upper.to(result.distance))
    starts = _Starts(model, x, y, question, bounds, targets, attacking, result)
    certificate = certify(
        model, x, y, question, upper=known, seconds=seconds, nodes=nodes, bounds=bounds, targets=targets,
        arithmetic=arithmetic, probe=starts,
    )  # fmt: skip
    return starts.result, certificate


@dataclass
class _Starts:
    """New starts of the attack, each at a point near an image; `result` keeps the nearest points."""

    model: Callable[[Tensor], Tensor]
    x: Float[Tensor, "b *image"]
    y: Int[Tensor, " b"]
    question: Question
    bounds: tuple[float | Tensor, float | Tensor]
    targets: Targets
    attacking: dict[str, Any]
    result: Result
    made: Counter[int] = field(default_factory=Counter)
    boxes: dict[int, Group] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for group in groups(self.question, self.bounds, self.x) or ():
            self.boxes |= dict.fromkeys(group.rows.tolist(), group)
        self.result = replace(self.result, forwards=self.result.forwards.clone())

    def __call__(self, image: int, point: Float[Tensor, "1 *image"]) -> float:
        """Attack from `point` in place of the image; returns the smallest distance now known for the image."""
        # with levels, not from here: the point lies off the grid, and if it is misclassified it would be the result
        if self.made[image] < STARTS and self.attacking.get("levels") is None:
            self.made[image] += 1
            row = slice(image, image + 1)
            box = self.boxes.get(image)
            question, bounds = (self.question, self.bounds) if box is None else (box.question, box.bounds)
            low, high = (torch.as_tensor(end, device=self.x.device).to(self.x) for end in bounds)
            start = self._best(image, torch.minimum(torch.maximum(point.to(self.x), low), high))
            found = attack(
                self.model, start, self.y[row], question, gradients=BUDGET, bounds=bounds,
                targets=None if self.targets is None else self.targets[row], **self.attacking,
            )  # fmt: skip
            self._keep(image, found)
        return float(self.result.distance[image])

    @torch.no_grad()
    def _best(self, image: int, point: Float[Tensor, "1 *image"]) -> Float[Tensor, "1 *image"]:
        """The point of largest margin on the line from the image to `point`, of TRIED that are tried."""
        row = slice(image, image + 1)
        part = torch.linspace(0, 1, TRIED + 1, device=self.x.device)[1:].to(self.x).view(-1, *[1] * (self.x.ndim - 1))
        on_the_way = torch.lerp(self.x[row], point, part)
        targets = None if self.targets is None else self.targets[row].expand(TRIED)
        with eval_mode(self.model):
            margin = Goal(self.y[row].expand(TRIED), targets).margin(self.model(on_the_way))
        best = int(margin.nan_to_num(-torch.inf).argmax())
        self.result.forwards[image] += TRIED
        return on_the_way[best : best + 1]

    def _keep(self, image: int, found: Result) -> None:
        """Keep the point found if it is nearer to the image. Its distance is measured anew, since `found` measures from
        the start of its attack."""
        spent = {name: getattr(self.result, name).clone() for name in ("gradients", "forwards", "seconds")}
        for name, column in spent.items():
            column[image] += getattr(found, name)[0]
        self.result = replace(self.result, **spent)
        box = self.boxes.get(image)
        metric: Any = (self.question if box is None else box.question).metric
        distance = float(metric(self.x[image : image + 1].double(), found.x_adv.double()).detach()[0])
        if not bool(found.success[0]) or not distance < float(self.result.distance[image]):
            return
        own = ("x_adv", "success", "margin", "prediction", "stationarity")
        new = {name: getattr(self.result, name).clone() for name in own}
        for name, column in new.items():
            column[image] = getattr(found, name)[0]
        new |= {name: getattr(self.result, name).clone() for name in ("distance", "violation")}
        new["distance"][image], new["violation"][image] = distance, 0
        self.result = replace(self.result, **new)
