"""The images of a run by id, a chunk in memory at a time."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from plica.runs import Run


class Images:
    """x and y by id, from what the run kept or from `data`.

    Raises:
        ValueError: there are none.
    """

    def __init__(self, run: Run, data: tuple[Tensor, Tensor] | None = None):
        self.run, self.data, self.held = run, data, (-1, {}, torch.empty(0), torch.empty(0))
        self.where: dict[int, int] = {}
        if data is None:
            for number, (ids, _, _) in enumerate(run.inputs()):
                self.where |= dict.fromkeys(ids.tolist(), number)
            if not self.where:
                raise ValueError(f"{run.directory} has not kept its images; give them with --data.")

    def __len__(self) -> int:
        return len(self.where) if self.data is None else len(self.data[0])

    def __call__(self, ids: Int64[Tensor, " b"]) -> tuple[Float[Tensor, "b *image"], Int64[Tensor, " b"]]:
        """Images and labels; raises ValueError for an id that is not there."""
        pictures, labels = zip(*(self._one(i) for i in ids.tolist()), strict=True)
        return torch.stack(pictures), torch.stack(labels)

    def _one(self, i: int) -> tuple[Tensor, Tensor]:
        if self.data is not None:
            if not 0 <= i < len(self.data[0]):
                raise ValueError(f"The run speaks of image {i}, and the data have {len(self.data[0])}; give its data.")
            return self.data[0][i], self.data[1][i]
        if i not in self.where:
            raise ValueError(f"{self.run.directory} has no image {i}, of which it has an answer.")
        if self.held[0] != self.where[i]:
            number = self.where[i]
            ((ids, x, y),) = replace(self.run, images=[self.run.images[number]]).inputs()
            self.held = (number, {one: row for row, one in enumerate(ids.tolist())}, x, y)
        row = self.held[1][i]
        return self.held[2][row], self.held[3][row]
