"""The data of a report: the results of the runs and, from one pass over the points of each task, measures of their
patterns and the tensors of the images that the report shows."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from plica import trust
from plica.analysis import compare, patterns
from plica.analysis.contenders import Contender, Group, groups
from plica.report.choice import Pick, examples, picks
from plica.runs import Run, Task

EDGES = np.logspace(-5, 0, 41)  # of |delta|, in units of pixels: eight bins per power of ten
SAMPLE = 2**24  # entries of a task's perturbations kept in memory, to compare them with those of other tasks
CARDS = 1200  # images in the gallery, if they fit


@dataclass
class ReportData:
    """The data of all sections of a report.

    Attributes:
        runs: on the same images.
        models: per question the models, each with the nearest points of all its methods.
        by_method: per question the methods.
        picks: all images that the gallery may show, in order.
        examples: numbers of the few images whose perturbations are shown method by method.
        stats: of each task, by the run's directory and the task's name.
        room: characters that may still be added; changes while the page is made.
    """

    runs: Sequence[Run]
    models: list[Group]
    by_method: list[Group]
    picks: list[Pick]
    examples: list[int]
    stats: dict[tuple[str, str], TaskStats]
    room: int = 0

    @property
    def classes(self) -> list[str] | None:
        """Names of the classes, of the first run that has them."""
        return next((run.classes for run in self.runs if run.classes), None)

    @cached_property
    def pairs(self) -> list[tuple[Group, list[compare.Pair]]]:
        """Per question with several models, the comparison of every two."""
        return [
            (group, [compare.pair(a, b) for a, b in itertools.combinations(group.contenders, 2)])
            for group in self.models
            if len(group.contenders) > 1
        ]

    @cached_property
    def verdicts(self) -> list[tuple[Run, dict[str, Any]]]:
        """The verdict on each run, from its summary, or made now."""
        return [(run, _verdict(run)) for run in self.runs]


def collect(runs: Sequence[Run]) -> ReportData:
    """Read the runs.

    Raises:
        ValueError: the runs contain no answers, or different images.
    """
    models, by_method = groups(runs, "model"), groups(runs, "method")
    if not models:
        raise ValueError("There is nothing to report: the runs contain no answers yet; finish one.")
    chosen, shown = picks(models), examples(by_method)
    images = {pick.image for pick in chosen[:CARDS]} | set(shown)
    return ReportData(runs, models, by_method, chosen, shown, stats_of(runs, images))


def _verdict(run: Run) -> dict[str, Any]:
    verdict = run.summary.get("verdict") or trust.believed(run).record()
    return verdict if isinstance(verdict, dict) else {"verdict": verdict}


@dataclass(frozen=True)
class TaskStats:
    """The perturbations of one task.

    Attributes:
        run: that of the task.
        task: that of the points.
        measures: by name, an entry per image with a perturbation.
        magnitudes: share of all entries per bin of EDGES.
        sample: ids and perturbations of the first images.
        shown: id -> (x, x_adv) of the images to be shown.
    """

    run: Run
    task: Task
    measures: dict[str, np.ndarray]
    magnitudes: np.ndarray
    sample: tuple[Tensor, Tensor]
    shown: dict[int, tuple[Tensor, Tensor]]


def stats_of(runs: Sequence[Run], shown: Iterable[int]) -> dict[tuple[str, str], TaskStats]:
    """One pass over every task of every run; keeps the tensors of the images to be `shown`."""
    keep = torch.tensor(sorted(set(shown)), dtype=torch.int64)
    return {(str(run.directory), task.name): _task_stats(run, task, keep) for run in runs for task in run.tasks}


def contender_stats(contender: Contender, stats: dict[tuple[str, str], TaskStats]) -> TaskStats:
    """The statistics of the first task of a contender; a method has one task only."""
    run, task = contender.sources[0]
    return stats[str(run.directory), task.name]


def _task_stats(run: Run, task: Task, keep: Tensor) -> TaskStats:
    """Read a task chunk by chunk; empty where the run contains no images."""
    measures: dict[str, list[Tensor]] = {name: [] for name in patterns.MEASURES}
    counts, entries = torch.zeros(len(EDGES) - 1, dtype=torch.int64), 0
    sample: list[tuple[Tensor, Tensor]] = []
    room = SAMPLE
    shown: dict[int, tuple[Tensor, Tensor]] = {}
    for ids, x, x_adv in patterns.pairs(run, task):
        for row in torch.isin(ids, keep).nonzero()[:, 0].tolist():
            shown[int(ids[row])] = (x[row], x_adv[row])
        delta = x_adv - x
        changed = delta.flatten(1).any(1)
        ids, delta = ids[changed], delta[changed]
        if not len(ids):
            continue
        for name, values in patterns.measures(delta).items():
            measures[name].append(values)
        counts += patterns.magnitudes(delta, EDGES.tolist()).sum(0)
        entries += delta.numel()
        count = max(0, min(len(ids), room // delta[0].numel()))
        sample.append((ids[:count], delta[:count].clone()))
        room -= count * delta[0].numel()
    return TaskStats(
        run=run,
        task=task,
        measures={name: torch.cat(values).numpy() if values else np.empty(0) for name, values in measures.items()},
        magnitudes=counts.numpy() / max(entries, 1),
        sample=_concatenated(sample),
        shown=shown,
    )


def _concatenated(sample: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
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
