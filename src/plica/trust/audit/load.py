"""Loads the models and distances that a run names, for an audit.

A run directory may come from anybody and may name Python code, which is run only if the caller trusts it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from plica.core.model.fitting import fitted
from plica.goals import parse_goal
from plica.metrics import parse_metric
from plica.models import load_model
from plica.perturbations import parse_through
from plica.perturbations.base import ParametricPerturbation, ThetaDistance
from plica.perturbations.parse import Bounds
from plica.runs import Run, Task
from plica.runs.own import is_own
from plica.trust.audit.reference import Goal, Model, goal_of, margins, norm_of

ALTERNATIVES = {
    "model": ", or name it with --model (plica audit, plica doctor)",
    "distance": ", or name it with --metric (plica audit)",
}


def models_of(
    run: Run, specs: Mapping[str, str], weights: str | None = None, trust: bool = False, device: str = "cpu"
) -> dict[str, Model]:
    """The models of the tasks: from `specs`, by name ("" for all), else as the run's plan specifies them, with weights
    likewise. They take any number of images, and do not change their input.

    Raises:
        ValueError, FileNotFoundError: a model is missing, or is Python code and `trust` is false.
    """
    plan = _planned(run)
    models: dict[str, Model] = {}
    for name in dict.fromkeys(task.model for task in run.tasks):
        planned, planned_weights = plan.get(name, (None, None))
        given = specs.get(name, specs.get(""))
        if (spec := given or planned) is None:
            raise ValueError(f"{run.directory} does not specify the model {name!r}; give it with --model.")
        if given is None:
            _check_trusted("model", spec, trust)
        load = load_model if given and (weights or not planned_weights) else _load_named
        models[name] = fitted(load(spec, weights or planned_weights, device, trust))
    return models


def metrics_of(
    run: Run, metric: str | None = None, trust: bool = False
) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    """The distances of the tasks that are not l_p norms, by their text; `metric` replaces all of them.

    Raises:
        ValueError: there is no such distance, or it is Python code and `trust` is false.
    """
    for goal in {task.goal for task in run.tasks if task.goal is not None}:
        _check_trusted("goal", goal, trust)
    metrics = {}
    for task in {task.distance: task for task in run.tasks}.values():
        if task.through is not None:
            _check_trusted("perturbation", task.through, trust)
        if norm_of(task.metric) is not None:
            continue
        if task.metric == "theta" and task.through is not None:
            metrics[task.distance] = ThetaDistance(parse_through(task.through, run.bounds.pair))
            continue
        if metric is None:
            _check_trusted("distance", task.metric, trust)
        metrics[task.distance] = parse_metric(metric or task.metric)
    return metrics


def measured_goal(text: str | None) -> Goal:
    """The margin of a task's goal, computed by numpy, except for a function of the user."""
    goal = goal_of(text)
    if goal is not None or text is None:
        return goal or margins
    function = parse_goal(text)
    return lambda output, y: function(torch.from_numpy(output), torch.from_numpy(y)).numpy()


def through_of(task: Task, bounds: Bounds) -> ParametricPerturbation | None:
    """The perturbation T of a task, x_adv = T(x, theta); None for x + delta."""
    return None if task.through is None else parse_through(task.through, bounds)


def _planned(run: Run) -> dict[str, tuple[str, str | None]]:
    """Specification and weights of each model in the plan, by its name in the tasks."""
    plan = run.manifest.get("plan") or {}
    if isinstance(plan.get("model"), str):  # plica radius, plica attack
        return {plan["model"]: (plan["model"], _text(plan.get("weights")))}
    entries = plan.get("models") or []
    return {
        str(entry.get("name") or entry["model"]): (str(entry["model"]), _text(entry.get("weights")))
        for entry in entries
        if isinstance(entry, Mapping) and "model" in entry
    }


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _load_named(spec: str, weights: str | None, device: str, trust: bool) -> Model:
    """A model that the run names. The paths of its files are relative to the folder where the run was made."""
    try:
        return load_model(spec, weights, device, trust)
    except FileNotFoundError as error:
        missing = str(error).partition("; give ")[0].removesuffix(".")
        others = "it with --model" if weights is None else "the model with --model and its weights with --weights"
        raise FileNotFoundError(
            f"{missing}; run the command in the folder where the run was made, or name {others} "
            "(plica audit, plica doctor)."
        ) from error


def _check_trusted(what: str, spec: str, trust: bool) -> None:
    is_code = ":" in spec and not spec.startswith(("plica.", "torchvision:", "timm:", "hf:"))
    if is_code and not trust and not is_own(spec):
        raise ValueError(
            f"The run names the {what} {spec}, which is Python code: give --trust if the run is your own"
            f"{ALTERNATIVES.get(what, '')}."
        )
