"""What a training does: the network, the images, the questions of the inner problem, the optimiser; written as YAML."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from plica.core.formulations import MaxLoss, MinRadius, parse_radius
from plica.core.formulations import Question as Asked
from plica.evaluation.plan import Data, Model, Number, Question, Strict, nearest, read_as
from plica.perturbations import parse_distance
from plica.training.inner import Asker, Inner, Union
from plica.training.losses import OUTER
from plica.training.union import PICKS
from plica.utils.messages import shown

MEASURED = 10  # gradients of a radius by which epochs are compared
FARTHEST = 4  # such a radius counts at most so many times the radius or cap of the question
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, lt=1)]


class TrainingQuestion(Strict):
    """One question of the inner problem; `cap` goes with min-radius, `radius` and `loss` with max-loss."""

    ask: Literal["min-radius", "max-loss"]
    metric: str
    through: str | None = None
    radius: Positive | None = None
    cap: Positive | None = None
    loss: str = "ce"

    @field_validator("radius", "cap", mode="before")
    @classmethod
    def _ratios(cls, value: Any) -> Any:
        return parse_radius(str(value)) if isinstance(value, str | int | float) else value

    @model_validator(mode="after")
    def _as_evaluated(self) -> TrainingQuestion:
        if (self.ask == "max-loss") != (self.radius is not None) or (self.ask == "max-loss" and self.cap is not None):
            raise ValueError("max-loss takes a radius, such as radius: 8/255, and min-radius at most a cap")
        # the rest is checked as that of an evaluation
        Question(ask="min-radius", metric=[self.metric], through=self.through)
        if self.radius is not None:
            Question(ask="max-loss", metric=[self.metric], through=self.through, radius=[self.radius], loss=self.loss)
        return self

    def question(self, bounds: tuple[float, float], ask: str | None = None) -> Asked:
        """The question itself; `ask` in place of its own."""
        metric, through = parse_distance(self.metric, self.through, bounds)
        if (ask or self.ask) == "min-radius" or self.radius is None:
            return MinRadius(metric, through)
        return MaxLoss(metric, self.radius, self.loss, through)

    @property
    def limit(self) -> float | None:
        """The radius or the cap, in the metric's units."""
        return self.radius if self.radius is not None else self.cap


class Optimizer(Strict):
    """sgd with momentum (Nesterov) or adamw. The rate falls from `lr` to 0 along half a cosine."""

    name: Literal["sgd", "adamw"] = "sgd"
    lr: Positive | None = None
    momentum: Share = 0.9
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 5e-4

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @property
    def rate(self) -> float:
        return self.lr or {"sgd": 0.05, "adamw": 1e-3}[self.name]


class TrainingPlan(Strict):
    """The whole training.

    Attributes:
        model: the network, from its weights or from random ones.
        data: of which held_out images, drawn with the seed, are not trained on: the checkpoint is selected on them.
        test: images of the last evaluation; the held-out ones if not given.
        questions: of the inner problem; none for ordinary training. pick: of several (plica.training.Union).
        gradients: per image of the inner problem. outer, weight: as of Hard.loss.
        warmup: share of the steps over which radii and caps grow from 0.
        ema: decay of an average of the weights, which is then what is selected and kept; 0 for none.
        augment: crops after padding by an eighth, and flips; of images (c, h, w).
        undefended: whether the same network is also trained without questions, for the last evaluation.
        save_every: steps from checkpoint to checkpoint; one at the end of each epoch besides.
        report_n, report_gradients: images and gradients of the last evaluation.
        device, threads: change the speed; bits are the same for the same of both.
    """

    model: Model
    data: Data
    test: Data | None = None
    questions: Annotated[list[TrainingQuestion], BeforeValidator(lambda v: v if isinstance(v, list) else [v])]
    pick: str = "random"
    gradients: Annotated[Number, Field(ge=1)] = 4
    outer: str = "plain"
    weight: Positive | None = None
    epochs: Annotated[Number, Field(ge=1)] = 20
    batch: Annotated[Number, Field(ge=1)] = 128
    optimizer: Optimizer = Optimizer()
    warmup: Share = 0.1
    ema: Share = 0.0
    augment: bool = True
    held_out: Annotated[Number, Field(ge=1)] = 500
    undefended: bool = True
    precision: Literal["float32", "bf16"] = "float32"
    bounds: tuple[float, float] = (0.0, 1.0)
    seed: Annotated[Number, Field(ge=0)] = 0
    device: str = "cpu"
    threads: Annotated[Number, Field(ge=1, le=4096)] | None = None
    save_every: Annotated[Number, Field(ge=1)] = 500
    report_n: Annotated[Number, Field(ge=1)] = 200
    report_gradients: Annotated[Number, Field(ge=1)] = 50

    @field_validator("outer", "pick")
    @classmethod
    def _known_name(cls, name: str, info: Any) -> str:
        known = OUTER if info.field_name == "outer" else PICKS
        if name not in known:
            raise ValueError(f"there is no {info.field_name} {shown(name)}{nearest(name, known)}")
        return name

    @model_validator(mode="after")
    def _asks(self) -> TrainingPlan:
        self.inner()  # says what does not go together
        return self

    def inner(self, gradients: int | None = None) -> Asker | None:
        """The inner problem, at so many gradients in place of its own; None without questions."""
        budget = gradients or self.gradients
        asked = [question.question(self.bounds) for question in self.questions]
        caps = [question.cap for question in self.questions]
        if len(asked) > 1:
            return Union(asked, self.pick, budget, self.seed, caps=caps, bounds=self.bounds)
        if not asked:
            return None
        return Inner(asked[0], gradients=budget, cap=caps[0], seed=self.seed, bounds=self.bounds)

    def measures(self) -> list[tuple[Inner, float]]:
        """MinRadius under each distance that is trained, or l2, and the radius from which on all count alike."""
        questions = self.questions or [TrainingQuestion(ask="min-radius", metric="l2")]
        measures = []
        for question in questions:
            inner = Inner(question.question(self.bounds, "min-radius"), gradients=MEASURED, bounds=self.bounds)
            measures.append((inner, FARTHEST * (question.limit or math.inf)))
        return measures

    def identity(self) -> dict[str, Any]:
        """What the weights depend on."""
        return self.model_dump(
            mode="json", exclude={"device", "save_every", "test", "report_n", "report_gradients", "undefended"}
        )


def read_training_plan(plan: str | Path | Mapping[str, Any] | TrainingPlan) -> TrainingPlan:
    """A plan from a YAML file, a dict or a TrainingPlan.

    Raises:
        PlanError: it is not a valid plan.
    """
    return read_as(TrainingPlan, plan, {})
