"""What an attack is given and what it gives back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from plica.core.best import BestPoints
from plica.core.formulations import Question
from plica.core.losses import Targets
from plica.core.model import CountedModel
from plica.core.status import Status


@dataclass(frozen=True)
class Task:
    """The images to attack (all of x, y are those that the model gets right), and what may be spent.

    Everything that runs the model goes through `queries`, which counts it; every point so evaluated is offered to
    `archive`.
    notify: to be told now and then how many images are done. held: pixels that must not move; `queries` tells a
        gradient of 0 for them, and what is drawn here at random has 0 there. gradients: budget per image.
        radius: per image, None for MinRadius.
    """

    queries: CountedModel
    archive: BestPoints
    x: Float[Tensor, "b *image"]
    y: Int[Tensor, " b"]
    logits: Float[Tensor, "b classes"]
    targets: Targets
    question: Question
    radius: Float[Tensor, " b"] | None
    gradients: int
    seed: int
    bounds: tuple[float, float]
    batch_size: int
    notify: Callable[[int], None]
    held: Bool[Tensor, "*image"] | None = None

    def noise(self, n: int | None = None) -> Float[Tensor, " n"]:
        """Uniform in [-1, 1], the same for every image: an answer must not depend on an image's place. n: as pixels."""
        return self._free(torch.rand(n or self._n, generator=self._generator(0)).to(self.x) * 2 - 1, n)

    def direction(self, number: int, n: int | None = None) -> Float[Tensor, " n"]:
        """A random unit vector, another for each number, the same for every image. n: as pixels."""
        u = self._free(torch.randn(n or self._n, generator=self._generator(1 + number)).to(self.x), n)
        return u / torch.linalg.vector_norm(u)

    def _free(self, u: Tensor, n: int | None) -> Tensor:
        return u if self.held is None or n is not None else u.masked_fill(self.held.flatten(), 0)

    @property
    def _n(self) -> int:
        return self.x[0].numel()

    def _generator(self, stream: int) -> torch.Generator:
        return torch.Generator().manual_seed(1000003 * self.seed + stream)


@dataclass(frozen=True)
class AttackOutput:
    """What the attack knows of its end points beside the points themselves, one entry per image of the task.

    end: where it left off, unjudged; None where it does not say.
    """

    stationarity: Float[Tensor, " b"]
    status: list[Status]
    metric_gradients: Int[Tensor, " b"] | None = None
    end: Float[Tensor, "b *image"] | None = None
