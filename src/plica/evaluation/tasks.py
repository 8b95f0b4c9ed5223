"""From a plan to its tasks: a task is one model, one question with one radius, one method."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from plica.core.bounds import Bounds
from plica.core.formulations import MaxLoss, MinRadius, Question
from plica.evaluation.method_sets import members
from plica.evaluation.plan import Model, Plan, PlanError
from plica.evaluation.plan import Question as PlanQuestion
from plica.perturbations import join_distance, parse_distance
from plica.runs import Task
from plica.utils.messages import one_line

LONGEST = 200  # bytes of the name of a folder


@dataclass(frozen=True)
class Job:
    """A task, the method of plica.attack behind it, and what that may spend: gradients per image."""

    task: Task
    model: Model
    method: str
    gradients: int
    seed: int

    def question(self, bounds: Bounds, shape: Sequence[int]) -> Question:
        """What plica.attack is asked about inputs of this shape."""
        metric, through = bounds.distance(self.task.metric, self.task.through)
        metric = bounds.metric(metric, shape) if through is None else metric
        if self.task.radius is None:
            return MinRadius(metric, through)
        return MaxLoss(metric, self.task.radius, self.task.loss or "margin", through)


@dataclass(frozen=True)
class Chain:
    """The methods for one question about one model; `ordered` if each sees what those before it left standing."""

    jobs: tuple[Job, ...]
    ordered: bool


def chains(plan: Plan) -> list[Chain]:
    """All that is to be done, by model, then by question.

    Raises:
        PlanError: the same is asked twice, or a metric cannot be had.
    """
    found = [
        Chain(
            _jobs(plan, model, asked, metric, radius),
            asked.ask == "max-loss" and not plan.individual,
        )
        for model in plan.models
        for asked in plan.questions
        for metric in asked.metric
        for radius in (asked.radius or [None])
    ]
    names = [job.task.name for chain in found for job in chain.jobs]
    for name in names:
        if names.count(name) > 1:
            raise PlanError(f"The plan asks twice for {name}; leave one out.")
    return found


def _jobs(plan: Plan, model: Model, asked: PlanQuestion, metric: str, radius: float | None) -> tuple[Job, ...]:
    distance = join_distance(metric, asked.through)
    _check_distance(metric, asked.through)
    loss = asked.loss if asked.ask == "max-loss" else None
    within = None if radius is None else _short(radius, asked.radius)
    question = " ".join(word for word in (asked.ask, distance, within, None if loss == "margin" else loss) if word)
    told = [
        (name, method.gradients or budget or plan.gradients, plan.seed if method.seed is None else method.seed)
        for method in asked.methods or plan.methods
        for name, budget in members(method.name, asked.ask, distance).items()
    ]
    jobs = []
    for label, (name, gradients, seed) in _labels(list(dict.fromkeys(told))).items():
        file = _folder(f"{model.name}--{question}--{label}")
        task = Task(file, model.name, question, asked.ask, metric, radius, loss, label, asked.through)
        jobs.append(Job(task, model, name, gradients, seed))
    return tuple(jobs)


def _labels(told: list[tuple[str, int, int]]) -> dict[str, tuple[str, int, int]]:
    """A name for each method: its own; with the budget, or the seed too, where a question has it several times."""
    labels = {}
    for name, gradients, seed in told:
        same = [other for other in told if other[0] == name]
        alike = [other for other in same if other[1] == gradients]
        label = name if len(same) == 1 else f"{name}-{gradients}" if len(alike) == 1 else f"{name}-{gradients}-{seed}"
        labels[label] = (name, gradients, seed)
    return labels


def _folder(text: str) -> str:
    """A name for the task's folder; file systems take so many bytes, so that of a long one is cut and told apart."""
    name = re.sub(r"[^\w.+@-]", "-", text)
    if len(name.encode()) <= LONGEST:
        return name
    return f"{name.encode()[: LONGEST - 9].decode(errors='ignore')}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _short(radius: float, among: list[float]) -> str:
    """Three digits, or as many as tell it from the others."""
    digits = next((d for d in (3, 6) if sum(f"{r:.{d}g}" == f"{radius:.{d}g}" for r in among) == 1), 17)
    return f"{radius:.{digits}g}"


def _check_distance(metric: str, through: str | None) -> None:
    try:
        parse_distance(metric, through)
    except ValueError as error:
        raise PlanError(str(error)) from None
    except Exception as error:  # a module of the user's
        raise PlanError(
            f"The distance {join_distance(metric, through)} failed: {one_line(error, named=True)}."
        ) from error
