"""What an attack takes, an `AttackInput`, and what it returns, an `AttackOutput`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from plica.core.formulations import Question
from plica.core.goals import Goal
from plica.core.judging.best import BestPoints
from plica.core.losses import Targets
from plica.core.model.counted import CountedModel
from plica.core.status import Status
from plica.metrics import Unsupported, counts

RESERVED = 4  # forward runs that the logits at the image and the judge need (core/judging/confirm.py)


@dataclass(frozen=True)
class AttackInput:
    """The images to attack, all of them classified correctly by the model, and the budget.

    Attributes:
        model: runs the network and counts the runs for each image; an attack calls the network only through it.
        best: the best verified point of each image so far; an attack offers every point that it evaluates.
        x: images inside `bounds`.
        goal: what counts as a success, for each image.
        logits: the model's output at x: logits, or for other goals any tensor.
        question: MinRadius or MaxLoss.
        radius: of each image, in the metric's units; None for MinRadius.
        gradients: budget of gradient evaluations per image.
        seed: of all random numbers.
        bounds: the smallest and the largest value of a pixel.
        batch_size: number of searches that run at once.
        progress: to be called with the number of images that are finished.
        fixed: pixels that must not change, or None. Gradients and all noise drawn here are 0 there.
        enough: for MaxLoss, a distance smaller than the radius: a search for the nearest point continues until it has a
            point at most this far away; None for the radius itself.
        reserved: of the forward runs, a fifth as many as gradients, how many an attack must leave.
    """

    model: CountedModel
    best: BestPoints
    x: Float[Tensor, "b *image"]
    goal: Goal
    logits: Float[Tensor, "b *output"]
    question: Question
    radius: Float[Tensor, " b"] | None
    gradients: int
    seed: int
    bounds: tuple[float, float]
    batch_size: int
    progress: Callable[[int], None]
    fixed: Bool[Tensor, "*image"] | None = None
    enough: Float[Tensor, " b"] | None = None
    reserved: int = RESERVED

    def affordable(self, gradients: int) -> int:
        """Forward runs that go with a number of gradients, less those reserved; negative if there are not as many."""
        return gradients // 5 - self.reserved

    @property
    def y(self) -> Shaped[Tensor, "b *label"]:
        """The labels of the images, or the values that the goal compares with."""
        return self.goal.y

    @property
    def targets(self) -> Targets:
        """The one class that counts for each image, or None for any other class than y."""
        return self.goal.targets

    def noise(self, n: int | None = None) -> Float[Tensor, " n"]:
        """Uniform noise in [-1, 1], the same for every image, so that results do not depend on batch composition.

        n: length, that of an image by default.
        """
        return self._zero_where_fixed(self.drawn(torch.rand, 0, n) * 2 - 1, n)

    def direction(self, number: int, n: int | None = None) -> Float[Tensor, " n"]:
        """A random unit vector that depends on `number` and the seed, the same for every image. n: length, that of an
        image by default."""
        u = self._zero_where_fixed(self.drawn(torch.randn, 1 + number, n), n)
        return u / torch.linalg.vector_norm(u)

    def box_point(self, number: int, images: Int[Tensor, " i"]) -> Float[Tensor, "i *image"]:
        """A random point of the box that depends on `number` and the seed, the same for every image except for fixed
        pixels."""
        low, high = self.bounds
        point = low + (high - low) * self.drawn(torch.rand, -1 - number)
        x = self.x[images]
        point = point.view(x.shape[1:]).expand_as(x)
        return point.clone() if self.fixed is None else torch.where(self.fixed, x, point)

    def drawn(self, draw: Callable[..., Tensor], stream: int, n: int | None = None) -> Float[Tensor, " n"]:
        """Random numbers that depend on the seed and on `stream`, the same for every image, on every device, and
        whatever torch's default dtype is.

        Args:
            draw: torch.rand or torch.randn.
            stream: a whole number, also below 0.
            n: how many; those of an image by default.
        """
        generator = torch.Generator().manual_seed((1_000_003 * self.seed + stream) % 2**63)
        return draw(n or self._n, generator=generator, dtype=torch.float32, device="cpu").to(self.x)

    def _zero_where_fixed(self, u: Tensor, n: int | None) -> Tensor:
        return u if self.fixed is None or n is not None else u.masked_fill(self.fixed.flatten(), 0)

    @property
    def _n(self) -> int:
        return self.x[0].numel()


@dataclass(frozen=True)
class AttackOutput:
    """What an attack reports in addition to the points that it offered to `AttackInput.best`; one entry per image.

    Attributes:
        stationarity: how far the end point is from meeting the optimality conditions; nan where unknown.
        status: why the search ended.
        metric_gradients: gradients of the metric alone that were spent; None where they are not counted.
        end: the last point of the search, which need not be misclassified; None where it is not recorded.
    """

    stationarity: Float[Tensor, " b"]
    status: list[Status]
    metric_gradients: Int[Tensor, " b"] | None = None
    end: Float[Tensor, "b *image"] | None = None


Attack = Callable[[AttackInput], AttackOutput]


def unmeasured(task: AttackInput, end: Float[Tensor, "b *image"] | None = None) -> AttackOutput:
    """The output of an attack that has no measure of stationarity and stops when its budget is spent or, for MaxLoss,
    at a point within the radius."""
    done = [task.radius is not None and found for found in task.best.distance.isfinite().tolist()]
    status = [Status.SUCCEEDED if d else Status.BUDGET for d in done]
    return AttackOutput(task.x.new_full((len(task.x),), torch.nan), status, end=end)


def refuse_counts(name: str, question: Question) -> None:
    """Raises Unsupported for a metric that counts changed entries or pixels, since it has no gradient."""
    metric = question.metric
    if counts(metric) is None:
        return
    if question.through is not None:
        raise Unsupported(f"{metric} is a count, which is searched for x + delta only: leave out through=.")
    raise Unsupported(f"{name} follows the gradient of the distance, and {metric} is a count: use method='auto'.")


def treats_perturbations(attack: Attack) -> Attack:
    """Mark an attack that also searches perturbations x' = T(x, theta), `through=...`. For other attacks such a
    question raises Unsupported before any work.
    """
    attack.perturbations = True  # type: ignore[attr-defined]
    return attack
