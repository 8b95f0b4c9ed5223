"""A task: one model, one question, one method. Its fields are the constant columns of its samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from plica.perturbations import join_distance, split_distance
from plica.runs.schema import CONSTANT, TASK, arrow_schema, names

LATER = ("through", "goal", "draws", "levels", "target")  # constant columns that runs of older versions lack


def question_text(*words: str | None, levels: int | None, target: str | None) -> str:
    """The question of a task in one text: "min-radius l2 256 levels"."""
    return " ".join(word for word in (*words, *_conditions(levels, target)) if word)


def with_conditions(
    distance: str, goal: str | None, levels: int | None, target: str | None = None, draws: int | None = None
) -> str:
    """A distance as tables name it: "l2 (any-label, 256 levels)" where there is a goal and the points lie on a grid."""
    words = (goal, *_conditions(levels, target), f"{draws} draws" if draws else None)
    conditions = ", ".join(word for word in words if word)
    return f"{distance} ({conditions})" if conditions else distance


def _conditions(levels: int | None, target: str | None) -> tuple[str | None, str | None]:
    return f"{levels} levels" if levels else None, f"target {target}" if target else None


@dataclass(frozen=True)
class Task:
    """One model, one question, one method.

    Attributes:
        name: of the task and of its folder.
        model: the model's name.
        question: the question in one text, such as "max-loss linf 0.0314".
        kind: "min-radius" or "max-loss".
        metric: the distance, such as "l2"; "theta": the perturbation's own.
        radius: of max-loss, in the metric's unit; None for min-radius.
        loss: of max-loss; None for min-radius.
        method: its name, with its budget or seed where the question has it several times.
        through: the perturbation x_adv = T(x, theta); None for x + delta.
        goal: what counts as a success (plica.goals); None for misclassification.
        draws: of the mean that is attacked, for a model with random outputs; None without.
        levels: of the grid that the points lie on; None for any numbers.
        target: the only class that counts as a success, or the name of the file that has one for each image with the
            start of a hash of its classes; None for any other class than the label.
    """

    name: str
    model: str
    question: str
    kind: str
    metric: str
    radius: float | None
    loss: str | None
    method: str
    through: str | None = None
    goal: str | None = None
    draws: int | None = None
    levels: int | None = None
    target: str | None = None

    @property
    def distance(self) -> str:
        """Metric and perturbation in one text: "l2", "theta through flow"."""
        return join_distance(self.metric, self.through)

    @property
    def asked_distance(self) -> str:
        """The same with the goal, the grid, the target and the draws, whose distances are other ones: "l2 (any-label,
        256 levels)"."""
        return with_conditions(self.distance, self.goal, self.levels, self.target, self.draws)

    @staticmethod
    def of_record(record: Mapping[str, Any]) -> Task:
        """The task of an entry in a manifest or of a row of samples, of this or an older version.

        Raises:
            KeyError: a field is missing.
        """
        fields: dict[str, Any] = {name: record[name] for name in ("name", *names(CONSTANT)) if name not in LATER}
        metric, through = split_distance(fields["metric"])  # plica 0.1 wrote the perturbation there
        fields |= {name: record.get(name) for name in LATER}
        return Task(**fields | {"metric": metric, "through": fields["through"] or through})

    def constant_columns(self, rows: int) -> dict[str, pa.Array]:
        """The constant columns of the task, by name."""
        return {field.name: pa.array([getattr(self, field.name)] * rows, type=field.type) for field in SCHEMA}

    def complete(self, samples: pa.Table) -> pa.Table:
        """Samples with the constant columns and the task's name, in place of those that the file has."""
        samples = samples.drop_columns([name for name in SCHEMA.names if name in samples.column_names])
        columns = self.constant_columns(len(samples)) | {TASK.name: pa.array([self.name] * len(samples), pa.string())}
        for name, column in columns.items():
            samples = samples.append_column(name, column)
        return samples


SCHEMA = arrow_schema(CONSTANT)
