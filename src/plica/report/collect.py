"""One pass over the points of each task: measures of their patterns, and the tensors of the few images to be shown."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from plica.analysis import patterns
from plica.runs import Run, Task

EDGES = np.logspace(-5, 0, 41)  # of |delta|, in units of pixels: eight bins per power of ten
SAMPLE = 2**24  # numbers of a task that are kept to compare its perturbations with those of other tasks


@dataclass(frozen=True)
class TaskStats:
    """What was seen of a task.

    measures: per image with a perturbation, by name. magnitudes: share of all entries per bin of EDGES. sample: ids and
    perturbations of the first images. shown: id -> (x, x_adv) of those asked for.
    """

    run: Run
    task: Task
    measures: dict[str, np.ndarray]
    magnitudes: np.ndarray
    sample: tuple[Tensor, Tensor]
    shown: dict[int, tuple[Tensor, Tensor]]


def look(run: Run, task: Task, wanted: Iterable[int]) -> TaskStats:
    """Read a task chunk by chunk; empty where the run kept no images."""
    measured: dict[str, list[Tensor]] = {name: [] for name in patterns.MEASURES}
    counts, entries = torch.zeros(len(EDGES) - 1, dtype=torch.int64), 0
    sample: list[tuple[Tensor, Tensor]] = []
    room, keep = SAMPLE, torch.tensor(sorted(set(wanted)), dtype=torch.int64)
    shown: dict[int, tuple[Tensor, Tensor]] = {}
    for ids, x, x_adv in patterns.pairs(run, task):
        for row in torch.isin(ids, keep).nonzero()[:, 0].tolist():
            shown[int(ids[row])] = (x[row], x_adv[row])
        delta = x_adv - x
        moved = delta.flatten(1).any(1)
        ids, delta = ids[moved], delta[moved]
        if not len(ids):
            continue
        for name, values in patterns.measures(delta).items():
            measured[name].append(values)
        counts += patterns.magnitudes(delta, EDGES.tolist()).sum(0)
        entries += delta.numel()
        few = max(0, min(len(ids), room // delta[0].numel()))
        sample.append((ids[:few], delta[:few].clone()))
        room -= few * delta[0].numel()
    return TaskStats(
        run=run,
        task=task,
        measures={name: torch.cat(values).numpy() if values else np.empty(0) for name, values in measured.items()},
        magnitudes=counts.numpy() / max(entries, 1),
        sample=_joined(sample),
        shown=shown,
    )


def _joined(sample: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    if not sample:
        return torch.empty(0, dtype=torch.int64), torch.empty(0)
    return torch.cat([ids for ids, _ in sample]), torch.cat([delta for _, delta in sample])


def cosine(a: TaskStats, b: TaskStats) -> float:
    """The median cosine of the perturbations that two tasks found for the same image; nan where there is none."""
    (ids_a, delta_a), (ids_b, delta_b) = a.sample, b.sample
    shared = ids_a[torch.isin(ids_a, ids_b)]
    if not len(shared):
        return float("nan")
    rows_a, rows_b = _rows(ids_a, shared), _rows(ids_b, shared)
    return float(patterns.cosine(delta_a[rows_a], delta_b[rows_b]).median())


def _rows(ids: Tensor, shared: Tensor) -> Tensor:
    order = ids.argsort()
    return order[torch.searchsorted(ids[order], shared)]
