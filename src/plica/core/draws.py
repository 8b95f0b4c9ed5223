"""Models that answer at random: the mean over a few draws is attacked, and the judge counts fresh ones.

    mean(z) = log (1 / n) sum_k softmax(f(z, w_k)),   w_1 ... w_n drawn from (seed, image), the same at every point z

With fixed draws (a sample average approximation) the mean is an ordinary differentiable function, which every search
treats as it treats any model. That the points then suit these draws better than others is what fresh draws are for.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import logsigmoid
from torch.utils._python_dispatch import TorchDispatchMode

JUDGED = 100  # fresh draws that the judge takes
MOST = 10_000  # draws that may be asked for
CALL = 64  # rows of a call, at most
ROWS = 7  # of the call that is looked at: seldom the size of anything else
UNITS = 2000  # of rounding of the largest output, within which two runs are the same


@dataclass(frozen=True)
class Randomness:
    """How a model draws.

    Attributes:
        by_row: every random number belongs to one row of a batch, so that copies of a point in one call are draws of
            their own; otherwise each draw is a call of its own, as where one size is drawn for all images of a call.
        repeatable: the same seed gives the same output.
    """

    by_row: bool
    repeatable: bool


def seed_of(seed: int, x: Float[Tensor, "*image"], stream: str) -> int:
    """A seed that depends on the seed and the image alone, another one for each stream."""
    digest = hashlib.sha256(f"{seed} {stream} {x.dtype} {tuple(x.shape)}".encode())
    digest.update(x.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return int.from_bytes(digest.digest()[:7], "big")


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """The global random numbers of torch, numpy and Python start at the seed, and go on afterwards as if they had not
    been used."""
    generators = _generators(device)
    states, numpy_state, python_state = [g.get_state() for g in generators], np.random.get_state(), random.getstate()
    for generator in generators:  # torch.manual_seed takes milliseconds where there is no GPU
        generator.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)
    try:
        yield
    finally:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)
        np.random.set_state(numpy_state)
        random.setstate(python_state)


def _generators(device: torch.device) -> list[torch.Generator]:
    """Torch's own of the CPU, and of the GPU where the model is on one."""
    if device.type != "cuda":
        return [torch.default_generator]
    return [torch.default_generator, torch.cuda.default_generators[device.index or 0]]


class _RandomOps(TorchDispatchMode):
    """Observes whether each random operation of torch makes numbers for each of `rows` rows."""

    def __init__(self, rows: int):
        super().__init__()
        self.rows, self.by_row = rows, True

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """As in batching._ArithmeticMode."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if torch.Tag.nondeterministic_seeded in func.tags:
            first = out[0] if isinstance(out, tuple | list) else out
            fits = isinstance(first, Tensor) and first.ndim > 0 and len(first) == self.rows
            self.by_row &= fits and "randperm" not in func.__name__  # which mixes the rows
        return out


@torch.no_grad()
def randomness_of(model: Callable[[Tensor], Tensor], x: Float[Tensor, "b *image"]) -> Randomness | None:
    """How the model draws, from three calls on copies of the first image; None where it does not.

    They are not charged, and leave the global random numbers as they were.
    """
    rows = x[:1].repeat(ROWS, *[1] * (x.ndim - 1))
    with seeded(0, x.device):
        with _RandomOps(ROWS) as ops:
            first = model(rows.clone())
        # not as they were before the first call, which may import modules that draw
        torch_before, numpy_before, python_before = _torch_state(x.device), _numpy_state(), random.getstate()
        other = model(rows.clone())
        by_others = random.getstate() != python_before or _numpy_state() != numpy_before
        by_torch = _torch_state(x.device) != torch_before
    with seeded(0, x.device):
        again = model(rows.clone())
    if not isinstance(first, Tensor) or first.shape[:1] != (ROWS,) or not first.is_floating_point():
        return None  # the error is found, and named, where the model is run
    repeatable = _same(first, again)
    if not by_torch and not by_others and repeatable and _same(first, other):
        return None
    return Randomness(by_row=by_torch and not by_others and repeatable and ops.by_row, repeatable=repeatable)


def _torch_state(device: torch.device) -> bytes:
    return b"".join(bytes(generator.get_state().numpy()) for generator in _generators(device))


def _numpy_state() -> bytes:
    state: Any = np.random.get_state(legacy=False)
    return bytes(state.pop("state")["key"]) + repr(state).encode()


def _same(a: Tensor, b: Tensor) -> bool:
    """But for rounding."""
    if a.numel() == 0 or a.shape != b.shape:
        return True
    unit = UNITS * torch.finfo(a.dtype).eps * a.abs().nan_to_num(0, 0, 0).amax()
    return bool(((a - b).abs().nan_to_num(0, 0, 0) <= unit).all())


class MeanOfDraws(nn.Module):
    """A model that answers at random as one that does not, for one image: the mean of its answers over fixed draws.

    Every point is run by itself, so that its draws do not depend on what else is asked.

    Args:
        model: the model.
        draws: of the mean.
        randomness: how the model draws.
        seed: with the image, of all draws.
        x: the image, (1, *image).
        classes: whether the output is logits of classes, whose probabilities are averaged; else the output itself is.

    Attributes:
        runs: of the model by `fresh` and `others`, beside those of the mean.
    """

    def __init__(
        self,
        model: Callable[[Tensor], Tensor],
        draws: int,
        randomness: Randomness,
        seed: int,
        x: Float[Tensor, "1 *image"],
        classes: bool,
    ):
        super().__init__()
        self.model, self.draws, self.randomness, self.classes = model, draws, randomness, classes
        self.seed, self.x = seed, x
        self.own, self.runs, self.looks = seed_of(seed, x[0], "search"), 0, 0

    def of(self, model: Callable[[Tensor], Tensor]) -> MeanOfDraws:
        """The same of another form of the model. Its first fresh draws are the last of this one, so that a point is not
        lost by being looked at in both forms; runs count from 0."""
        other = MeanOfDraws(model, self.draws, self.randomness, self.seed, self.x, self.classes)
        other.looks = max(0, self.looks - 1)
        return other

    def forward(self, z: Float[Tensor, "r *image"]) -> Float[Tensor, "r *output"]:
        return torch.cat([self._mean(self._outputs(point, self.draws, self.own)) for point in z.split(1)])

    @torch.no_grad()
    def others(self, z: Float[Tensor, "1 *image"]) -> Float[Tensor, "draws *output"]:
        """The outputs for draws that no search has seen, and that are the same at every point."""
        self.runs += JUDGED
        return self._outputs(z, JUDGED, seed_of(self.seed, self.x[0], "others"))

    @torch.no_grad()
    def fresh(self, z: Float[Tensor, "1 *image"]) -> Float[Tensor, "draws *output"]:
        """The outputs for draws that were used nowhere before."""
        self.runs, self.looks = self.runs + JUDGED, self.looks + 1
        return self._outputs(z, JUDGED, seed_of(self.seed, self.x[0], f"judge {self.looks}"))

    def _outputs(self, z: Float[Tensor, "1 *image"], draws: int, seed: int) -> Float[Tensor, "draws *output"]:
        with seeded(seed, z.device):
            rows = CALL if self.randomness.by_row else 1
            sizes = [min(rows, draws - start) for start in range(0, draws, rows)]
            return torch.cat([self.model(z.repeat(size, *[1] * (z.ndim - 1))) for size in sizes]).to(z.dtype)

    def _mean(self, outputs: Float[Tensor, "draws *output"]) -> Float[Tensor, "1 *output"]:
        if not self.classes:
            return outputs.mean(0, keepdim=True)
        if outputs[0].numel() > 1:
            return outputs.log_softmax(1).logsumexp(0, keepdim=True) - np.log(len(outputs))
        one, zero = (logsigmoid(sign * outputs).logsumexp(0, keepdim=True) for sign in (1, -1))
        return one - zero
