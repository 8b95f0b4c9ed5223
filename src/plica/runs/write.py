"""Writes the directory of an evaluation. A part is finished when its parquet file exists, which is written last."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float, Int64, Shaped
from safetensors.torch import save
from torch import Tensor

from plica.core.domain.bounds import Bounds
from plica.runs.check.tables import read_samples
from plica.runs.check.tensors import read_images
from plica.runs.encode import pack
from plica.runs.points import point_tensors
from plica.runs.schema import BOUNDS, NOTES, inputs_file, leaves_file, part_file
from plica.utils.files import write_whole


class Store:
    """The parts of a run, of one chunk and one task each, and the images of its chunks."""

    def __init__(self, directory: Path):
        self.directory = directory

    def has(self, task: str, chunk: int) -> bool:
        """Whether a part is finished."""
        return part_file(self.directory, task, chunk).is_file()

    def read(self, task: str, chunk: int) -> pa.Table:
        """The samples of a finished part."""
        return read_samples(part_file(self.directory, task, chunk))

    def write(
        self,
        task: str,
        chunk: int,
        samples: pa.Table,
        ids: Int64[Tensor, " m"],
        x_adv: Float[Tensor, "m *image"],
        notes: Sequence[str] = (),
        theta: Float[Tensor, "m k"] | None = None,
        leaves: pa.Table | None = None,
    ) -> None:
        """Write a finished part: the points, the leaves, then the samples, with the notes in their schema.

        Args:
            task: the task's name.
            chunk: number of the chunk.
            samples: a row per image.
            ids: of the images whose points are stored.
            x_adv: these points.
            notes: sentences about what happened.
            theta: of x_adv = T(x, theta).
            leaves: what proves lower bounds, if there are any.
        """
        file = part_file(self.directory, task, chunk)
        write_whole(file.with_suffix(".safetensors"), save(point_tensors(x_adv, theta, ids)))
        if leaves is not None:
            write_whole(leaves_file(file), _parquet(leaves, compression="zstd"))
        write_whole(file, _parquet(samples.replace_schema_metadata({NOTES: json.dumps(list(notes))})))

    def has_inputs(self, chunk: int) -> bool:
        """Whether the images of a chunk are stored."""
        return inputs_file(self.directory, chunk).is_file()

    def read_inputs(self, chunk: int) -> dict[str, Tensor]:
        """x as packed by `pack`, y and id."""
        return read_images(inputs_file(self.directory, chunk))

    def write_inputs(
        self,
        chunk: int,
        ids: Int64[Tensor, " b"],
        x: Float[Tensor, "b *image"],
        y: Shaped[Tensor, "b *label"],
        notes: Mapping[str, str] | None = None,
    ) -> None:
        """Write the images of a chunk; `notes` say, by id, why an image could not be read."""
        tensors = {"x": pack(x.cpu()).contiguous(), "y": y.cpu().contiguous(), "id": ids}
        header = {NOTES.decode(): json.dumps(dict(notes or {}))}
        write_whole(inputs_file(self.directory, chunk), save(tensors, header))


def _parquet(table: pa.Table, **settings: Any) -> bytes:
    stream = io.BytesIO()
    pq.write_table(table, stream, **settings)
    return stream.getvalue()


def write_bounds(directory: Path, bounds: Bounds) -> None:
    """Write the bounds into their file, unless they are [0, 1] for all features."""
    if not bounds.is_default:
        write_whole(directory / BOUNDS, bounds.packed())
