"""A .parquet file with a column of encoded images and one of class numbers, as data sets of the Hugging Face."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from plica.data.images import LABEL_COLUMNS, ImageSource, open_embedded
from plica.utils.messages import few, one_line


def open_parquet(spec: str, allow_out_of_range: bool = False) -> ImageSource:
    """One row group is in memory at a time.

    Raises:
        ValueError: the file has no such columns or no rows, or is broken; one sentence.
    """
    file = Path(spec)
    try:
        table = pq.ParquetFile(file)
        schema = table.schema_arrow
        if not table.metadata.num_rows:  # the types of its columns say nothing
            raise ValueError(f"{spec} has no rows; it must have at least one image.")
        image_column, label_column = _columns(schema, spec)
        labels = table.read([label_column])[label_column].to_numpy()
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{spec} cannot be read as Parquet ({one_line(error)}).") from error
    if labels.dtype.kind not in "iu" or (len(labels) and labels.min() < 0):
        raise ValueError(f"Column {label_column} of {spec} must hold class numbers from 0, and none may be missing.")
    ends = np.cumsum([table.metadata.row_group(g).num_rows for g in range(table.num_row_groups)])
    cached: dict[int, pa.ChunkedArray] = {}  # the row group that was read last

    def open_image(i: int) -> Image.Image:
        group = int(np.searchsorted(ends, i, side="right"))
        if group not in cached:
            cached.clear()
            cached[group] = table.read_row_group(group, [image_column])[image_column]
        return open_embedded(cached[group][i - (ends[group - 1] if group else 0)].as_py(), f"Image {i} of {spec}")

    return ImageSource(
        str(file), open_image, torch.from_numpy(labels.astype(np.int64)), _class_names(schema, label_column)
    )


def _columns(schema: pa.Schema, spec: str) -> tuple[str, str]:
    """The names of the columns of images and of labels."""

    def has_bytes(kind: pa.DataType) -> bool:
        if pa.types.is_struct(kind):
            return any(kind.field(k).name == "bytes" for k in range(kind.num_fields))
        return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)

    images = [field.name for field in schema if has_bytes(field.type)]
    named = [name for name in LABEL_COLUMNS if name in schema.names]
    integers = [field.name for field in schema if pa.types.is_integer(field.type)]
    integers = [name for name in integers if not name.startswith("__index_level_")]  # which pandas adds
    if images and named and not set(named) & set(integers):
        raise ValueError(
            f"Column {named[0]} of {spec} is {schema.field(named[0]).type}; labels must be integers, one class number "
            "per image, and none may be missing."
        )
    labels = [name for name in LABEL_COLUMNS if name in integers] or (integers if len(integers) == 1 else [])
    if not images or not labels:
        raise ValueError(
            f"{spec} needs a column of images (bytes) and one of class numbers called label; "
            f"it has {few(schema.names)}."
        )
    return images[0], labels[0]


def _class_names(schema: pa.Schema, label_column: str) -> list[str] | None:
    """As the Hugging Face's `datasets` writes them into the schema."""
    try:
        names = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"][label_column]["names"]
        return [str(name) for name in names]
    except (KeyError, TypeError, ValueError):
        return None
