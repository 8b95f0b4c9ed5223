"""Fingerprints by which models and distances are recognised when a run is resumed or shards are joined.

Weights and code are hashed. A hash does not cover everything, for example an attribute of a module, a variable that a
function uses or a file that it reads; therefore a few sums of the outputs on fixed inputs are stored and compared too.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from plica.core.model.fitting import fitted
from plica.perturbations.base import ParametricPerturbation, transform

SUMS = 4  # of the outputs for an image, with different weights
SLACK = 4  # sums may differ by SLACK sqrt(eps) of the sum of magnitudes, as other processors round differently

Answers = list[list[float]]  # for each image the sums, then how much they may differ; empty where answers are random


def hash_model(model: object, spec: str) -> str:
    """Hash of a module's parameters, buffers, structure and its classes' source; of another callable's source."""
    digest = hashlib.sha256()
    if not isinstance(model, nn.Module):
        digest.update(_source(model, spec).encode())
        return digest.hexdigest()
    digest.update(repr(model).encode())
    for kind in sorted({type(part) for part in model.modules()}, key=lambda kind: kind.__qualname__):
        if not kind.__module__.startswith("torch."):
            digest.update(_source(kind, kind.__qualname__).encode())
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def model_sums(model: Callable[[Tensor], Tensor], x: Float[Tensor, "b *image"]) -> Answers:
    """A few sums of the outputs at x."""
    model = fitted(model)
    return _answers(lambda: model(x))


def distance_sums(metric: Any, through: ParametricPerturbation | None, x: Float[Tensor, "b *image"]) -> Answers:
    """A few sums of the distances of perturbed images, and of these images if a perturbation makes them.

    Each image is moved by a tenth of the way to the next one, or theta by a tenth of its unit.

    Args:
        metric: the distance, or "theta" for that of the perturbation.
        through: the perturbation; None for x + delta.
        x: images.
    """
    if through is None:
        return _answers(lambda: metric(x, torch.lerp(x, x.roll(1, 0), 0.1)))
    perturbation = through

    def theta() -> Tensor:
        start = perturbation.start(x)
        return start + 0.1 * perturbation.unit * torch.arange(start.shape[1], dtype=torch.float64).cos().to(start)

    def image() -> Tensor:
        return transform(perturbation, x, theta())

    def distance() -> Tensor:
        return perturbation.distance(x, theta()) if metric == "theta" else metric(x, image())

    return _answers(image) + _answers(distance)


def same(former: Answers, new: Answers) -> bool:
    """Whether two records may come from the same model or distance. Entries that only one of them has are ignored."""
    if not former or not new:
        return True
    if [len(row) for row in former] != [len(row) for row in new]:
        return False
    a, b = (torch.tensor(answers, dtype=torch.float64) for answers in (former, new))
    return bool(((a - b)[:, :-1].abs() <= b[:, -1:]).all())


@torch.no_grad()
def _answers(function: Callable[[], Tensor]) -> Answers:
    """Sums over the outputs for each image, and how much each may differ; empty if two calls differ by more."""
    try:
        first, again = (_sums(function()) for _ in range(2))
    except Exception:  # the same error is met, and named, when the work is tried
        return []
    return first if same(first, again) else []


def _sums(outputs: Tensor) -> Answers:
    flat = outputs.detach().view(len(outputs), -1).double().cpu().nan_to_num(0, 0, 0)
    index = torch.arange(flat.shape[1], dtype=torch.float64)
    weights = torch.stack([(k * index).cos() for k in range(SUMS)], 1)
    eps = torch.finfo(outputs.dtype).eps if outputs.is_floating_point() else 0.0
    slack = SLACK * eps**0.5 * flat.abs().sum(1, keepdim=True)
    return torch.cat([flat @ weights, slack], 1).tolist()


def _source(code: object, otherwise: str) -> str:
    try:
        return inspect.getsource(code)  # type: ignore[arg-type]
    except (OSError, TypeError):
        return otherwise
