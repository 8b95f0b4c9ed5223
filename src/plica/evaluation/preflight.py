"""The quick checks of `plica doctor` before an evaluation, so that a forgotten normalisation or random outputs are
reported before a long evaluation, not after it. They cost a few forward runs and never stop the evaluation."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Int64, Shaped
from torch import Tensor

from plica.core.domain.bounds import Bounds
from plica.data import Source
from plica.evaluation.plan import Model
from plica.evaluation.tasks import Chain
from plica.models import prepare_inputs
from plica.models.adapt import split_normalisation
from plica.trust import Finding, Severity, examine

CHECKS = ("train mode", "pixels", "normalisation", "repeatable", "not finite", "probabilities")
RUNS = 20  # of the model on an image that these take, about
MOST, FEWEST = 32, 8  # images
SECONDS = 10.0  # for one model; if FEWEST images take longer, it is only examined after the evaluation


@dataclass(frozen=True)
class Preflight:
    """The findings on one model that are more severe than a note, with the number of images and the seconds."""

    model: Model
    findings: tuple[Finding, ...]
    images: int
    seconds: float


def preflight(
    chains: list[Chain],
    source: Source,
    ids: Int64[Tensor, " n"],
    bounds: Bounds,
    load: Callable[[Model], Callable[[Tensor], Tensor]],
) -> Iterator[Preflight]:
    """Check the models of questions about classes, each on images spread over all of `ids`."""
    for model in dict.fromkeys(chain.jobs[0].model for chain in chains):
        tasks = [job.task for chain in chains for job in chain.jobs if job.model == model]
        if all(task.goal is not None for task in tasks):  # the checks are for classifiers
            continue
        checks = [name for name in CHECKS if name != "repeatable" or any(task.draws is None for task in tasks)]
        chosen = ids[torch.linspace(0, len(ids) - 1, min(MOST, len(ids))).long()]
        with suppress(Exception):  # a model may raise anything; the evaluation will report it
            start = time.monotonic()
            net, x, y = prepare_inputs(load(model), *source.read(chosen))
            images = min(len(x), int(SECONDS / (RUNS * _seconds(net, x))))
            if images < min(FEWEST, len(x)):
                continue
            spec = split_normalisation(model.model)[0]
            verdict = examine(net, x[:images], y[:images], bounds=bounds.pair, checks=checks, spec=spec)
            found = tuple(finding for finding in verdict.findings if finding.weight > Severity.NOTE)
            yield Preflight(model, found, images, time.monotonic() - start)


@torch.no_grad()
def _seconds(net: Callable[[Tensor], Tensor], x: Shaped[Tensor, "b *image"]) -> float:
    """The time of a forward run for an image."""
    run = partial(net, x[:FEWEST])
    run()
    start = time.monotonic()
    run()
    return (time.monotonic() - start) / len(x[:FEWEST]) + 1e-9
