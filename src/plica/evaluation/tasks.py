"""The tasks of a plan: each is one model, one question with one radius, one method."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Int64
from torch import Tensor

from plica.core.domain.bounds import Bounds
from plica.core.formulations import MaxLoss, MinRadius, Question
from plica.data.targets import read_targets, targets_name
from plica.evaluation.method_sets import RAND, RAND_DRAWS, members
from plica.evaluation.plan import Certify, Model, Plan
from plica.evaluation.plan import Question as PlanQuestion
from plica.evaluation.strict import PlanError
from plica.goals import GoalFunction, parse_goal
from plica.perturbations import join_distance, parse_distance
from plica.runs import Task
from plica.runs.task import question_text
from plica.utils.messages import one_line

LONGEST = 200  # bytes of the name of a folder


@dataclass(frozen=True)
class Job:
    """A task with its model, the method of plica.attack, its budget of gradients per image, and its seed.

    Attributes:
        precision: of the model in the search; None for its own.
        certify: lower bounds to be computed after the attack; only for the last method of a question.
        targets_of_rows: the target class of every row of the data, if images have different ones.
        targets_file: the file that these are from.
    """

    task: Task
    model: Model
    method: str
    gradients: int
    seed: int
    precision: str | None = None
    certify: Certify | None = None
    targets_of_rows: Int64[Tensor, " n"] | None = field(default=None, compare=False, repr=False)
    targets_file: str | None = None

    def targets(self, y: Tensor, ids: Int64[Tensor, " b"]) -> Tensor | None:
        """The target of each image with these labels, rows `ids` of the data; None for any other class."""
        if self.targets_of_rows is not None:
            return self.targets_of_rows[ids.cpu()].to(y.device)
        return None if self.task.target is None else torch.full_like(y, int(self.task.target))

    def goal(self) -> GoalFunction | None:
        """The argument `goal` of plica.attack; None for misclassification."""
        return None if self.task.goal is None else parse_goal(self.task.goal)

    def question(self, bounds: Bounds, shape: Sequence[int]) -> Question:
        """The question for plica.attack, for inputs of this shape."""
        metric, through = bounds.distance(self.task.metric, self.task.through)
        metric = bounds.metric(metric, shape) if through is None else metric
        if self.task.radius is None:
            return MinRadius(metric, through)
        return MaxLoss(metric, self.task.radius, self.task.loss or "margin", through)


@dataclass(frozen=True)
class Chain:
    """The methods for one question about one model; `ordered`: each attacks only what those before did not break."""

    jobs: tuple[Job, ...]
    ordered: bool


def chains(plan: Plan) -> list[Chain]:
    """The chains of a plan, by model, then by question.

    Raises:
        PlanError: two tasks are the same, or a metric or targets cannot be loaded.
    """
    plan_chains = [
        Chain(_jobs(plan, model, question, metric, radius), question.ask == "max-loss" and not plan.individual)
        for model in plan.models
        for question in plan.questions
        for metric in question.metric
        for radius in (question.radius or [None])
    ]
    names = [job.task.name for chain in plan_chains for job in chain.jobs]
    for name in names:
        if names.count(name) > 1:
            raise PlanError(f"The plan contains {name} twice; leave one out, or rename one of its files.")
    return plan_chains


def _jobs(plan: Plan, model: Model, plan_question: PlanQuestion, metric: str, radius: float | None) -> tuple[Job, ...]:
    """A job for each method that attacks the model under one distance and radius (None for min-radius); the last one
    computes lower bounds too, where the plan asks for them."""
    distance = join_distance(metric, plan_question.through)
    _check_distance(metric, plan_question.through)
    loss = plan_question.loss if plan_question.ask == "max-loss" else None
    radius_text = None if radius is None else _short(radius, plan_question.radius)
    words = (plan_question.ask, distance, radius_text, None if loss == "margin" else loss, plan_question.goal)
    target, targets = None if plan_question.target is None else str(plan_question.target), None
    if plan_question.targets is not None:
        targets = read_targets(plan_question.targets)
        target = targets_name(plan_question.targets, targets)
    question = question_text(*words, levels=plan_question.levels, target=target)
    methods = plan_question.methods or plan.methods
    draws = plan.draws or (RAND_DRAWS if any(method.name == RAND for method in methods) else None)
    settings = [
        (name, method.gradients or budget or plan.gradients, plan.seed if method.seed is None else method.seed)
        for method in methods
        for name, budget in members(method.name, plan_question.ask, distance).items()
    ]
    jobs = []
    for label, (name, gradients, seed) in _labels(list(dict.fromkeys(settings))).items():
        folder = folder_name(f"{model.name}--{question}--{label}")
        task = Task(
            folder, model.name, question, plan_question.ask, metric, radius, loss, label, plan_question.through,
            plan_question.goal, draws, plan_question.levels, target,
        )  # fmt: skip
        file = plan_question.targets
        jobs.append(Job(task, model, name, gradients, seed, plan.precision, targets_of_rows=targets, targets_file=file))
    return (*jobs[:-1], replace(jobs[-1], certify=plan_question.certify or plan.certify))


def _labels(settings: list[tuple[str, int, int]]) -> dict[str, tuple[str, int, int]]:
    """A label for each method: its name, with the budget, or budget and seed, where a question has it several times."""
    labels = {}
    for name, gradients, seed in settings:
        same = [other for other in settings if other[0] == name]
        alike = [other for other in same if other[1] == gradients]
        label = name if len(same) == 1 else f"{name}-{gradients}" if len(alike) == 1 else f"{name}-{gradients}-{seed}"
        labels[label] = (name, gradients, seed)
    return labels


def folder_name(text: str) -> str:
    """The name of a task's folder: cut to the bytes that file systems take, then with a hash to keep it unique."""
    name = re.sub(r"[^\w.+@-]", "-", text)
    if len(name.encode()) <= LONGEST:
        return name
    return f"{name.encode()[: LONGEST - 9].decode(errors='ignore')}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _short(radius: float, among: list[float]) -> str:
    """Three significant digits, or as many as distinguish it from the other radii."""
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
