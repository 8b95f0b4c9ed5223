"""The writing side of a run directory: every file is whole or not there, whatever happens to the process or the disk.

A part is complete when its parquet is there, which is written after its points.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float, Int64
from safetensors.torch import save
from torch import Tensor

from plica.data.bounds import FILE, Bounds
from plica.runs.encode import pack, points
from plica.runs.read import NOTES, read_tensors
from plica.utils.files import write_whole


class Store:
    """The parts of a run: `has`, `read` and `write` one chunk of one task."""

    def __init__(self, directory: Path):
        self.directory = directory

    def has(self, task: str, chunk: int) -> bool:
        return self._part(task, chunk).is_file()

    def read(self, task: str, chunk: int) -> pa.Table:
        """The samples of a finished part."""
        return pq.read_table(self._part(task, chunk))

    def write(
        self,
        task: str,
        chunk: int,
        samples: pa.Table,
        ids: Int64[Tensor, " b"],
        x_adv: Float[Tensor, "b *image"],
        notes: Sequence[str] = (),
        theta: Float[Tensor, "b k"] | None = None,
    ) -> None:
        """Keep a finished part: the points, then the samples, which carry the notes in their schema."""
        held = points(x_adv, theta) | {"id": ids.cpu()}
        write_whole(self._part(task, chunk).with_suffix(".safetensors"), save(held))
        memory = io.BytesIO()
        pq.write_table(samples.replace_schema_metadata({NOTES: json.dumps(list(notes))}), memory)
        write_whole(self._part(task, chunk), memory.getvalue())

    def has_inputs(self, chunk: int) -> bool:
        return self._inputs(chunk).is_file()

    def read_inputs(self, chunk: int) -> dict[str, Tensor]:
        """x as `pack` left it, y and id."""
        return read_tensors(self._inputs(chunk))

    def write_inputs(
        self,
        chunk: int,
        ids: Int64[Tensor, " b"],
        x: Float[Tensor, "b *image"],
        y: Int64[Tensor, " b"],
        notes: Mapping[str, str] | None = None,
    ) -> None:
        """Keep the images of a chunk; `notes` tell, by id, what could not be read."""
        held = {"x": pack(x.cpu()).contiguous(), "y": y.cpu(), "id": ids}
        write_whole(self._inputs(chunk), save(held, {"notes": json.dumps(dict(notes or {}))}))

    def _part(self, task: str, chunk: int) -> Path:
        return self.directory / "parts" / task / f"{chunk:05d}.parquet"

    def _inputs(self, chunk: int) -> Path:
        return self.directory / "inputs" / f"{chunk:05d}.safetensors"


def keep_bounds(directory: Path, bounds: Bounds) -> None:
    """Beside the manifest, where they are not those of pixels."""
    if not bounds.usual:
        write_whole(directory / FILE, bounds.packed())
