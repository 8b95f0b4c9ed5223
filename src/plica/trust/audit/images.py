"""The images of a run by id, a chunk in memory at a time."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

from plica.runs import Run, Task
from plica.runs.check.tensors import read_images
from plica.runs.schema import TARGET_CLASS


class Images:
    """x and y by id, from the images in the run or from `data`.

    Raises:
        ValueError: there are neither.
    """

    def __init__(self, run: Run, data: tuple[Tensor, Tensor] | None = None):
        self.run, self.data = run, data
        self.chunk = (-1, {}, torch.empty(0), torch.empty(0))  # the chunk in memory: number, rows by id, x, y
        self.target_of: dict[str, dict[int, int] | None] = {}  # of tasks that were asked for, by id
        self.chunk_of: dict[int, int] = {}  # number of the chunk that contains an id
        if data is None:
            for number, (ids, _, _) in enumerate(run.inputs()):
                self.chunk_of |= dict.fromkeys(ids.tolist(), number)
            if not self.chunk_of:
                raise ValueError(f"{run.directory} contains no images; give them with --data.")

    def __len__(self) -> int:
        return len(self.chunk_of) if self.data is None else len(self.data[0])

    def targets(self, task: Task, ids: Int64[Tensor, " b"]) -> Int64[Tensor, " b"] | None:
        """The only class that counts as a success for each of these images; None if any class other than y counts.

        Raises:
            ValueError: the task has targets, but the run does not contain them.
        """
        if task.name not in self.target_of:
            self.target_of[task.name] = self._targets_by_id(task)
        target_of = self.target_of[task.name]
        if target_of is not None:
            return torch.tensor([target_of[i] for i in ids.tolist()])
        if task.target is not None and not task.target.isdecimal():
            raise ValueError(f"The targets of {task.name} are not in {self.run.directory}; make the run again.")
        return None if task.target is None else torch.full_like(ids, int(task.target))

    def _targets_by_id(self, task: Task) -> dict[int, int] | None:
        """The target of each image that has its own; None for a task in which images have none."""
        tensors = read_images(self.run.images[0]) if self.run.images else {}
        if "targets" in tensors:  # of `plica radius` and `plica attack`
            return dict(zip(tensors["id"].tolist(), tensors["targets"].tolist(), strict=True))
        rows = self.run.rows(task)
        if TARGET_CLASS.name not in rows.column_names:
            return None
        return dict(zip(rows["id"].to_pylist(), rows[TARGET_CLASS.name].to_pylist(), strict=True))

    def __call__(self, ids: Int64[Tensor, " b"]) -> tuple[Float[Tensor, "b *image"], Shaped[Tensor, "b *label"]]:
        """Images and y; raises ValueError for an unknown id."""
        images, labels = zip(*(self._one(i) for i in ids.tolist()), strict=True)
        return torch.stack(images), torch.stack(labels)

    def _one(self, i: int) -> tuple[Tensor, Tensor]:
        if self.data is not None:
            if not 0 <= i < len(self.data[0]):
                raise ValueError(
                    f"The run has an answer for image {i}, the data have {len(self.data[0])} images; give its data."
                )
            return self.data[0][i], self.data[1][i]
        if i not in self.chunk_of:
            raise ValueError(f"{self.run.directory} has an answer for image {i} and no such image; make the run again.")
        if self.chunk[0] != self.chunk_of[i]:
            number = self.chunk_of[i]
            ((ids, x, y),) = replace(self.run, images=[self.run.images[number]]).inputs()
            self.chunk = (number, {one: row for row, one in enumerate(ids.tolist())}, x, y)
        row = self.chunk[1][i]
        return self.chunk[2][row], self.chunk[3][row]
