"""The plan of an evaluation: models, data, questions, methods; written as YAML, a dict, or these records."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BeforeValidator, Field, field_validator, model_validator

from plica.api import methods
from plica.core.domain.levels import MOST_LEVELS
from plica.core.domain.read_bounds import read_bounds
from plica.core.formulations import parse_radius
from plica.core.losses import LOSSES
from plica.core.model.draws import MOST
from plica.core.model.precision import PRECISIONS, search_precision
from plica.core.validation import MOST_GRADIENTS, MOST_SEED
from plica.data.indices import parse_indices
from plica.data.targets import read_targets, targets_name
from plica.evaluation.method_sets import SETS
from plica.evaluation.strict import Number, PlanError, Strict, nearest, not_boolean, several
from plica.goals import parse_goal
from plica.metrics import parse_metric, warn_of_slip
from plica.models.adapt import NAMED, split_normalisation
from plica.perturbations import parse_through
from plica.utils.messages import shown

ALL = "all"  # GPUs of this machine, as a device
NAME = re.compile(r"[\w.+@-]+")


class Model(Strict):
    """A network.

    Attributes:
        model, weights: what `--model` and `--weights` take.
        name: in tables; by default that of the factory.
        trust: whether to read a model that is a program (TorchScript, torch.export).
    """

    model: str
    weights: str | None = None
    name: str = ""
    trust: bool = False

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        value = {"model": value} if isinstance(value, str) else value
        if isinstance(value, Mapping) and isinstance(value.get("model"), str) and not value.get("name"):
            value = {**value, "name": default_name(value["model"])}
        return value

    @field_validator("name")
    @classmethod
    def _plain(cls, name: str) -> str:
        if not NAME.fullmatch(name):
            raise ValueError("a name has letters, digits and . _ + @ - only")
        return name


class Data(Strict):
    """Labelled images: what `--data` takes, and which of them: the first n, n at random, n with equal classes, or those
    of `indices`: rows, "0-99,200,5", or a text file of such."""

    path: str
    n: Annotated[Number, Field(ge=1)] | None = None
    sample: Literal["first", "random", "balanced"] = "first"
    seed: Annotated[Number, Field(ge=0)] = 0
    indices: list[int] | None = None

    @field_validator("indices", mode="before")
    @classmethod
    def _named(cls, indices: Any) -> Any:
        try:
            return parse_indices(str(indices)) if isinstance(indices, str | int) else indices
        except OSError as error:
            raise ValueError(str(error)) from None

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        return {"path": str(value)} if isinstance(value, str | Path) else value

    @model_validator(mode="after")
    def _one_choice(self) -> Data:
        if self.indices is not None and (self.n is not None or self.sample != "first"):
            raise ValueError("indices exclude n and sample; leave those out")
        return self


class Method(Strict):
    """A method of plica.attack, or one of the sets; its budget of gradients per image and its seed."""

    name: str
    gradients: Annotated[Number, Field(ge=1, le=MOST_GRADIENTS)] | None = None
    seed: Annotated[Number, Field(ge=0, le=MOST_SEED)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @field_validator("name")
    @classmethod
    def _exists(cls, name: str) -> str:
        known = (*SETS, *methods())
        if name not in known:
            raise ValueError(f"there is no method {shown(name)}{nearest(name, known)}")
        return name


class Certify(Strict):
    """Lower bounds.

    Attributes:
        seconds: for each image.
        nodes: replaces `seconds` by the number of parts of the ball to bound, which makes results repeatable.
        arithmetic: for the network in real arithmetic, or as it is executed in float32.
    """

    seconds: Annotated[float, Field(gt=0, allow_inf_nan=False), BeforeValidator(not_boolean)] = 10.0
    nodes: Annotated[Number, Field(ge=1)] | None = None
    arithmetic: Literal["real", "executed"] = "real"


class Question(Strict):
    """min-radius, or max-loss within each radius, for each metric.

    Attributes:
        through: a perturbation other than x + delta; the metric may then be "theta", the perturbation's own distance.
        goal: what counts as a success; misclassification by default.
        levels: restrict results to a grid of this many levels between the bounds.
        target: the only class that counts as a success; images of that class are left out.
        targets: a .npy file with a target class for every row of the data.
        methods: if they differ from those of the plan.
        certify: lower bounds, if they differ from those of the plan.
    """

    ask: Literal["min-radius", "max-loss"]
    metric: Annotated[list[str], BeforeValidator(several), Field(min_length=1)]
    through: str | None = None
    goal: str | None = None
    levels: Annotated[Number, Field(ge=2, le=MOST_LEVELS)] | None = None
    target: Annotated[Number, Field(ge=0)] | None = None
    targets: str | None = None
    radius: Annotated[list[float], BeforeValidator(several)] = []
    loss: str = "margin"
    methods: Annotated[list[Method], BeforeValidator(several)] = []
    certify: Certify | None = None

    @field_validator("radius", mode="before")
    @classmethod
    def _ratios(cls, radii: Any) -> Any:
        return [
            parse_radius(str(radius) if isinstance(radius, str | int | float) else shown(radius))
            for radius in several(radii)
        ]

    @field_validator("loss")
    @classmethod
    def _losses(cls, loss: str) -> str:
        if loss not in LOSSES:
            raise ValueError(f"there is no loss {shown(loss)}{nearest(loss, LOSSES)}")
        return loss

    @field_validator("metric")
    @classmethod
    def _metrics(cls, metrics: list[str]) -> list[str]:
        for metric in metrics:
            if ":" not in metric and metric != "theta":  # a file or module is run when the run starts
                warn_of_slip(metric)
                parse_metric(metric)
        return metrics

    @field_validator("goal")
    @classmethod
    def _goals(cls, goal: str | None) -> str | None:
        if goal is not None and ":" not in goal:  # a file or module is run when the work begins
            parse_goal(goal)
        return None if goal == "misclassified" else goal

    @field_validator("through")
    @classmethod
    def _perturbation(cls, through: str | None) -> str | None:
        if through is not None and ":" not in through:
            parse_through(through)
        return through

    @model_validator(mode="after")
    def _theta_of_something(self) -> Question:
        if "theta" in self.metric and self.through is None:
            raise ValueError("theta is the distance of a perturbation; name one, such as through: flow")
        if self.levels is not None and self.through is not None:
            raise ValueError("levels go with x + delta; leave out levels, or through")
        if sum(given is not None for given in (self.goal, self.target, self.targets)) > 1:
            raise ValueError("goal, target and targets exclude each other; leave out all but one")
        return self

    @field_validator("targets", mode="before")
    @classmethod
    def _file(cls, targets: Any) -> Any:
        return str(targets) if isinstance(targets, Path) else targets

    @model_validator(mode="after")
    def _radius_where_needed(self) -> Question:
        if self.ask == "max-loss" and not self.radius:
            raise ValueError("max-loss needs a radius, such as radius: 8/255")
        if self.ask == "min-radius" and (self.radius or "loss" in self.model_fields_set):
            raise ValueError("min-radius takes no radius and no loss; write ask: max-loss")
        return self


class Plan(Strict):
    """The whole evaluation.

    gradients: budget per image of methods that have none of their own. individual: for max-loss, every method attacks
    every image, instead of those that the methods before it did not break. chunk: images that are attacked and stored
    together; the answers of public attacks depend on it, since their random numbers depend on the batch. draws: of
    models with random outputs the mean over so many draws is attacked; others are not affected. precision: of the
    models in the searches; bf16 and fp16 by autocast, own (None) as they are. bounds: two numbers, or an .npz file
    with low, high and mask, for features of different ranges. certify: lower bounds beside the attacks'
    distances, for every question. device: cpu, cuda, cuda:1, mps; several with commas between, or all GPUs.
    batch_size: changes the speed, and on a CPU not the answers of plica's methods. threads: of torch; with another
    number answers may differ in the last bits.
    """

    models: Annotated[list[Model], BeforeValidator(several), Field(min_length=1)]
    data: Data
    questions: Annotated[list[Question], BeforeValidator(several), Field(min_length=1)]
    methods: Annotated[list[Method], BeforeValidator(several), Field(min_length=1)] = [Method(name="auto")]
    gradients: Annotated[Number, Field(ge=1, le=MOST_GRADIENTS)] = 100
    draws: Annotated[Number, Field(ge=1, le=MOST)] | None = None
    precision: str | None = None
    individual: bool = False
    seed: Annotated[Number, Field(ge=0, le=MOST_SEED)] = 0
    device: str = "cpu"
    bounds: tuple[float, float] | str = (0.0, 1.0)
    certify: Certify | None = None
    chunk: Annotated[Number, Field(ge=1)] = 128
    batch_size: Annotated[Number, Field(ge=1)] | None = None
    threads: Annotated[Number, Field(ge=1, le=4096)] | None = None

    @field_validator("bounds", mode="before")
    @classmethod
    def _text(cls, bounds: Any) -> Any:
        if not isinstance(bounds, str | Path):
            return bounds
        if not str(bounds).endswith(".npz"):
            return read_bounds(bounds).pair
        if Path(bounds).is_file():
            read_bounds(bounds)  # an invalid file is reported now; a missing one, when the run starts
        return str(bounds)

    @field_validator("precision")
    @classmethod
    def _precisions(cls, precision: str | None) -> str | None:
        if precision is not None and precision not in PRECISIONS:
            raise ValueError(f"there is no precision {shown(precision)}; known are {', '.join(PRECISIONS)}")
        return search_precision(precision)

    @field_validator("models")
    @classmethod
    def _names_differ(cls, models: list[Model]) -> list[Model]:
        names = [model.name for model in models]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two models are called {name!r}; give each a name of its own")
        return models

    def identity(self) -> dict[str, Any]:
        """The parts of the plan that results depend on, except models and data, which are hashed and may be moved."""
        identity = self.model_dump(mode="json", exclude={"batch_size", "threads"})
        for question in identity["questions"]:
            if question["targets"] is not None:
                question["targets"] = targets_name(question["targets"], read_targets(question["targets"]))
        identity["models"] = [{"name": model["name"]} for model in identity["models"]]
        del identity["data"]["path"]
        if isinstance(self.bounds, str):
            identity["bounds"] = read_bounds(self.bounds).digest()
        return identity | {"device": "cuda" if self.device == ALL else re.split("[:,]", self.device)[0]}

    @property
    def devices(self) -> list[str]:
        """The devices that `device` names: one, several with commas between, or all GPUs.

        Raises:
            PlanError: they are of several kinds, or there is no GPU.
        """
        if self.device == ALL:
            count = torch.cuda.device_count()
            if not count:
                raise PlanError("device: all names all GPUs, and this machine has none; write cpu.")
            return [f"cuda:{number}" for number in range(count)]
        names = [name.strip() for name in self.device.split(",")]
        if not all(names):
            raise PlanError(f"{shown(self.device)} is not a valid list of devices; write one, or cuda:0,cuda:1.")
        if len({name.partition(":")[0] for name in names}) > 1:
            raise PlanError(
                f"The devices of a run must be of one kind, as answers differ in the last bits, got {self.device!r}."
            )
        return names


def default_name(spec: str) -> str:
    """The last part of a model's specification, with the name of its normalisation but without the numbers of one."""
    model, _, stated = split_normalisation(spec)
    suffix = spec[len(model) :] if stated else ""
    last = re.split(r"[:/\\]", model)[-1] + (suffix if suffix.removeprefix("@") in NAMED else "")
    return re.sub(r"[^\w.+@-]", "-", last)
