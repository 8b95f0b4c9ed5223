"""The inner problem of training: Inner uses one question for every image of a batch, Union one of several.

    inner = plica.training.Inner(plica.MinRadius(plica.Lp(2)), cap=0.8)
    loss = inner(model, x, y).loss(model)          # in any training loop, in place of cross_entropy(model(x), y)

MaxLoss is the inner problem of adversarial training, min over theta of E max loss (Eq. 2 and 6 of "Optimizers Matter",
Liang et al. 2023). MinRadius is Eq. (4); the network is then trained at the decision boundary, a bi-level problem (Ding
et al. 2020).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor, distributed

from plica.core import validation
from plica.core.domain.bounds import check_bounds
from plica.core.domain.half import half_dtype
from plica.goals import check_labels
from plica.metrics import Unsupported
from plica.training import union
from plica.training.hard import Hard
from plica.training.inner_question import InnerQuestion
from plica.training.network import Network
from plica.training.problem import Batch
from plica.utils.messages import shown

STREAM = 1_000_003  # apart in seed: noise of another call, and of another rank
RANKS = 10_007


class Asker(ABC):
    """Base class of Inner and Union.

    Attributes:
        scale: factor of every radius and cap, 1 unless it is set, as for a warm-up.
        calls: batches solved so far; noise is drawn from (seed, calls, rank).
    """

    def __init__(self, questions: Sequence[InnerQuestion], gradients: int, seed: int, bounds: Any):
        gradients = validation.whole("gradients", gradients, least=1)
        seed = validation.whole("seed", seed, least=0)
        if any(one.starts > gradients for one in questions):
            raise ValueError(f"starts must be at most gradients = {gradients}, which the starts share.")
        self.questions, self.gradients, self.seed, self.bounds = list(questions), gradients, seed, bounds
        self.scale, self.calls = 1.0, 0
        self._checked: set[tuple[Any, ...]] = set()
        self._classes = 0

    @torch.inference_mode(False)
    def __call__(self, model: Any, x: Any, y: Any) -> Hard:
        """Hard inputs for the images x, floating-point and inside the bounds, with labels y (b,) int64.

        The model runs in eval mode, outside of DDP, and under the autocast that is active here. Its modes, the
        parameters' `.grad` and `requires_grad`, its buffers and the global random state are restored.

        Raises:
            ValueError, TypeError: an argument is wrong; raised before any work.
            Unsupported: the inner problem of the question cannot be solved in this way.
        """
        validation.images(x)
        validation.labels("y", y, x)
        if not isinstance(self.scale, Real) or not 0 <= self.scale < math.inf:
            raise ValueError(f"scale must be a number from 0, as min(1.0, step / 1000), got {shown(self.scale)}.")
        limits = check_bounds(self.bounds, x)
        if limits.per_feature:
            raise Unsupported("Training takes bounds of two numbers, not of tensors; scale the features of x.")
        dtype, x, y = x.dtype, validation.usable(x.detach()), validation.usable(y)
        with Network.opened(model, x) as network:
            if half_dtype(x) is not None:
                x = x.float()  # steps of a search are finer than the pixels of half precision
            if (shape := (x.shape[1:], x.dtype, x.device)) not in self._checked:
                with torch.enable_grad():
                    for one in self.questions:
                        one.check(x, limits.numbers)
                # as the search runs it, so that a compiled model is compiled once
                self._classes = network.gradient(x, lambda logits: logits.sum(1))[1].shape[1]
                self._checked.add(shape)
            check_labels("y", y, x.new_empty(()).expand(len(y), self._classes))
            batches = [self._batch(one, network, x, y, limits.numbers) for one in self.questions]
            answer, picked = self._answer(batches)
        self.calls += 1
        cap = torch.stack([batch.radius for batch in batches])[picked, torch.arange(len(x), device=x.device)]
        return Hard(
            x=x.to(dtype), y=y, x_adv=answer.x_adv.to(dtype), distance=answer.distance, radius=answer.radius,
            multiplier=answer.multiplier, correct=answer.correct, gradients=answer.gradients, picked=picked, cap=cap,
        )  # fmt: skip

    @abstractmethod
    def _answer(self, batches: Sequence[Batch]) -> union.Picked:
        """The solutions for the images, and the index of the question that was chosen for each."""

    def state_dict(self) -> dict[str, Any]:
        """The state that a checkpoint needs in addition to the arguments."""
        return {"calls": self.calls, "scale": self.scale, "seed": self.seed}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a `state_dict`, so that training continues as it would have.

        Raises:
            ValueError: it is not a valid state.
        """
        try:
            self.calls, self.scale, self.seed = int(state["calls"]), float(state["scale"]), int(state["seed"])
        except (KeyError, TypeError, ValueError):
            raise ValueError(
                f"state must be the state_dict() of an Inner or a Union, as {self.state_dict()}, got {shown(state)}."
            ) from None

    def _batch(
        self, inner: InnerQuestion, network: Network, x: Tensor, y: Tensor, bounds: tuple[float, float]
    ) -> Batch:
        return Batch(
            network, x, y, inner.question, inner.radius(x, self.scale), self.gradients, bounds,
            generator=self._generator(rank()), shared=self._generator(-1),
        )  # fmt: skip

    def _generator(self, stream: int) -> torch.Generator:
        return torch.Generator().manual_seed(((self.seed * STREAM + self.calls) * RANKS + 1 + stream) % 2**63)


class Inner(Asker):
    """Asks one question about every image of a batch, with few gradients: inner(model, x, y) -> Hard.

    MinRadius: the nearest boundary point, by the solvers of `plica.attack`, with one search per image. MaxLoss: an
    ascent. Any distance, and perturbations `through=...`.

    Args:
        question: a MinRadius or a MaxLoss.
        gradients: most gradients of the network per image. Four are enough: docs/design/training.md.
        cap: for MinRadius, in the metric's units: images whose boundary is farther away are trained at the point at
            this distance on the way to it. None for no cap.
        seed: of the noise, where there is any.
        bounds: the smallest and the largest value of a pixel.
        method: for MaxLoss: "pgd", "fast-lpa" or "lpa"; "auto" is pgd for norms and fast-lpa for other distances.
        starts: for MaxLoss, the number of ascents that share the gradients; the best end counts.
        skip_misclassified: for MaxLoss, whether misclassified images are left unperturbed, as for MinRadius.

    Raises:
        TypeError, ValueError: an argument is wrong, or does not go with the question.
        Unsupported: the metric is a count, or the method cannot treat it.
    """

    def __init__(
        self,
        question: Any,
        *,
        gradients: int = 4,
        cap: float | None = None,
        seed: int = 0,
        bounds: Any = (0.0, 1.0),
        method: str = "auto",
        starts: int = 1,
        skip_misclassified: bool = False,
    ):
        super().__init__([InnerQuestion(question, cap, method, starts, skip_misclassified)], gradients, seed, bounds)

    def _answer(self, batches: Sequence[Batch]) -> union.Picked:
        return self.questions[0].solve(batches[0]), torch.zeros_like(batches[0].y)


class Union(Asker):
    """Asks one of several questions about each image of a batch: union(model, x, y) -> Hard.

    Args:
        questions: MinRadius or MaxLoss questions, at least two.
        pick: how the question is chosen. "random": one at random for each batch. "estimate": for each image the
            question whose boundary is nearest by the linear model at the image, in units of caps or radii, and a random
            one for a fifth of the images; norms only. "max": all questions are solved, and the one with the smallest
            radius in units of caps, or with the largest cross-entropy at its point, counts. "msd": an ascent that tries
            every norm at each step and takes the best; MaxLoss in l1, l2, linf.
        gradients: per image and question.
        seed: of random choices and noise.
        caps: one for each question, as `cap` of Inner; None for none.
        bounds: as for Inner.

    Raises:
        TypeError, ValueError: an argument is wrong, or the questions cannot be compared in the way `pick` names.
        Unsupported: a metric is a count, or `pick` cannot treat it.
    """

    def __init__(
        self,
        questions: Any,
        pick: str = "random",
        gradients: int = 4,
        seed: int = 0,
        *,
        caps: Sequence[float | None] | None = None,
        bounds: Any = (0.0, 1.0),
    ):
        if not isinstance(questions, Sequence) or len(questions) < 2:
            raise ValueError(f"questions must be a list of at least two, got {shown(questions)}; for one use Inner.")
        if not isinstance(pick, str) or pick not in union.PICKS:
            raise ValueError(f"pick must be one of {', '.join(union.PICKS)}, got {shown(pick)}.")
        if caps is not None and (not isinstance(caps, Sequence) or len(caps) != len(questions)):
            raise ValueError(f"caps must be a list of {len(questions)}, one for each question, got {shown(caps)}.")
        each = [None] * len(questions) if caps is None else caps
        super().__init__(
            [InnerQuestion(q, cap) for q, cap in zip(questions, each, strict=True)], gradients, seed, bounds
        )
        union.check(self.questions, pick)
        self.pick = pick

    def _answer(self, batches: Sequence[Batch]) -> union.Picked:
        return union.PICKS[self.pick](self.questions, batches)


def rank() -> int:
    """The rank of this process among those that train together; 0 if it trains alone."""
    return distributed.get_rank() if distributed.is_available() and distributed.is_initialized() else 0
