"""The plan of a training: the network, the images, the questions of the inner problem, the optimiser (YAML)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from plica.core import formulations
from plica.core.formulations import MaxLoss, MinRadius, parse_radius
from plica.core.validation import MOST_SEED
from plica.evaluation.parse_plan import read_as
from plica.evaluation.plan import Data, Model, Question
from plica.evaluation.strict import Number, Strict, nearest
from plica.perturbations import parse_distance
from plica.training.inner import Asker, Inner, Union
from plica.training.losses import OUTER
from plica.training.union import PICKS
from plica.utils.messages import shown

MEASURED = 10  # gradients per image for the radii by which epochs are compared
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, lt=1)]


class TrainingQuestion(Strict):
    """The question about every image: min-radius, or max-loss within the radius.

    Attributes:
        cap: for min-radius, in units of the metric: images whose boundary is farther away are trained at this distance.
        loss: for max-loss.
        through: a perturbation other than x + delta.
    """

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
        # the other keys are checked like those of an evaluation
        Question(ask="min-radius", metric=[self.metric], through=self.through)
        if self.radius is not None:
            Question(ask="max-loss", metric=[self.metric], through=self.through, radius=[self.radius], loss=self.loss)
        return self

    def question(self, bounds: tuple[float, float], ask: str | None = None) -> formulations.Question:
        """The question as a MinRadius or MaxLoss. ask: replaces `ask` of the plan."""
        metric, through = parse_distance(self.metric, self.through, bounds)
        if (ask or self.ask) == "min-radius" or self.radius is None:
            return MinRadius(metric, through)
        return MaxLoss(metric, self.radius, self.loss, through)

    @property
    def limit(self) -> float | None:
        """The radius or the cap, in the metric's units."""
        return self.radius if self.radius is not None else self.cap


class Optimizer(Strict):
    """sgd with momentum (Nesterov) or adamw; the name alone will do.

    lr: the learning rate of the first step, 0.05 for sgd and 0.001 for adamw if left out; it falls to 0 along half a
    cosine.
    """

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
    """The whole training: the keys of the YAML file, with their defaults.

    model: the network, trained from `weights` if given, else from random ones. data: the training images; `held_out` of
    them, drawn with the seed, are not trained on, and the best epoch is selected on them. test: images of the
    evaluation at the end; the held-out ones if left out.

    questions: about every image of a batch; an empty list for ordinary training. pick: which of several
    questions an image is trained on: random, estimate, max or msd (plica.training.Union). gradients: of the network,
    per image and question, at most 1,000. epochs: at most 100,000. outer: the loss at the points found: plain, trades
    or mart. weight: of the second term of trades (6 if left out) and mart (5).

    warmup: share of all steps over which radii and caps grow from 0. ema: decay of a moving average of the weights,
    which is then what is selected and kept; 0 for none. augment: random crops after padding by an eighth, and flips, of
    images (c, h, w). bounds: least and greatest value of a pixel.

    batch: images of a step. precision: float32, or bf16 for autocast. seed: of the split, the order of the images,
    crops and flips, dropout and the noise of the inner problem.

    undefended: whether the same network is also trained without questions, to compare with at the end; if `model` has
    weights, the network with these weights is taken for it. report_n,
    report_gradients: images, and gradients per image, of the evaluation at the end. save_every: steps from checkpoint
    to checkpoint; there is one at the end of each epoch besides. device, threads: change the speed; the weights are the
    same, to the bit, only where both are.
    """

    model: Model
    data: Data
    test: Data | None = None
    questions: Annotated[list[TrainingQuestion], BeforeValidator(lambda v: v if isinstance(v, list) else [v])]
    pick: str = "random"
    gradients: Annotated[Number, Field(ge=1, le=1000)] = 4
    outer: str = "plain"
    weight: Positive | None = None
    epochs: Annotated[Number, Field(ge=1, le=100_000)] = 20
    batch: Annotated[Number, Field(ge=1)] = 128
    optimizer: Optimizer = Optimizer()
    warmup: Share = 0.1
    ema: Share = 0.0
    augment: bool = True
    held_out: Annotated[Number, Field(ge=1)] = 500
    undefended: bool = True
    precision: Literal["float32", "bf16"] = "float32"
    bounds: tuple[float, float] = (0.0, 1.0)
    seed: Annotated[Number, Field(ge=0, le=MOST_SEED)] = 0
    device: str = "cpu"
    threads: Annotated[Number, Field(ge=1, le=4096)] | None = None
    save_every: Annotated[Number, Field(ge=1)] = 500
    report_n: Annotated[Number, Field(ge=1)] = 200
    report_gradients: Annotated[Number, Field(ge=1)] = 50

    @field_validator("bounds")
    @classmethod
    def _finite(cls, bounds: tuple[float, float]) -> tuple[float, float]:
        if not -math.inf < bounds[0] < bounds[1] < math.inf:
            raise ValueError(f"two finite numbers are needed, the smaller one first, got {bounds}")
        return bounds

    @field_validator("outer", "pick")
    @classmethod
    def _known_name(cls, name: str, info: Any) -> str:
        known = OUTER if info.field_name == "outer" else PICKS
        if name not in known:
            raise ValueError(f"there is no {info.field_name} {shown(name)}{nearest(name, known)}")
        return name

    @model_validator(mode="after")
    def _asks(self) -> TrainingPlan:
        if self.weight is not None and not OUTER[self.outer].weight:
            raise ValueError(f"weight goes with outer: trades or mart; {self.outer} has one term alone, leave it out")
        self.inner()  # raises an error if settings exclude each other
        return self

    @property
    def takes_any_pixels(self) -> bool:
        """Whether pixels may lie outside [0, 1]: other bounds are given."""
        return self.bounds != (0.0, 1.0)

    def inner(self, gradients: int | None = None) -> Asker | None:
        """The inner problem, with `gradients` in place of the plan's; None without questions."""
        budget = gradients or self.gradients
        questions = [question.question(self.bounds) for question in self.questions]
        caps = [question.cap for question in self.questions]
        if len(questions) > 1:
            return Union(questions, self.pick, budget, self.seed, caps=caps, bounds=self.bounds)
        if not questions:
            return None
        return Inner(questions[0], gradients=budget, cap=caps[0], seed=self.seed, bounds=self.bounds)

    def measures(self) -> list[tuple[str, Inner, float | None]]:
        """MinRadius under each distance of the training, or under l2 if there is none, each with a column of the log
        and the radius or cap that was trained for."""
        questions = self.questions or [TrainingQuestion(ask="min-radius", metric="l2")]
        posed = [q.question(self.bounds, "min-radius") for q in questions]
        metrics = [str(question.metric) for question in posed]
        names = [f"{i}_{metric}" if metrics.count(metric) > 1 else metric for i, metric in enumerate(metrics)]
        return [
            (f"held_out_radius_{name}", Inner(question, gradients=MEASURED, bounds=self.bounds), q.limit)
            for name, question, q in zip(names, posed, questions, strict=True)
        ]

    def identity(self) -> dict[str, Any]:
        """The part of the plan that the weights depend on."""
        return self.model_dump(
            mode="json", exclude={"device", "save_every", "test", "report_n", "report_gradients", "undefended"}
        )


def read_training_plan(plan: str | Path | Mapping[str, Any] | TrainingPlan) -> TrainingPlan:
    """A plan from a YAML file, a dict or a TrainingPlan.

    Raises:
        PlanError: it is not a valid plan.
    """
    return read_as(TrainingPlan, plan, {}, example="plica train --help shows one")
