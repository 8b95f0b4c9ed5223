"""Labelled pictures, decoded one by one when they are asked for: a folder per class, Parquet, data sets of packages.

Only the bytes of a picture are used, never a path that a data set names, and only plain raster formats are decoded.
"""

from __future__ import annotations

import hashlib
import io
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Float, Int64
from PIL import Image
from torch import Tensor

from plica.utils.limits import PIXELS
from plica.utils.messages import few, one_line

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")  # EPS, for one, would be run by a program
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
LABELS = ("label", "labels", "fine_label", "class", "target", "y")
GREY = ("1", "L", "LA", "I", "I;16")


class PictureSource:
    """Pictures of one size, grey if the first is, else RGB. `one(i)` gives the i-th, opened and not yet decoded."""

    def __init__(
        self,
        name: str,
        one: Callable[[int], Image.Image],
        labels: Int64[Tensor, " n"],
        classes: list[str] | None = None,
    ):
        if not len(labels):
            raise ValueError(f"{name} holds no pictures.")
        self.name, self.one, self.labels, self.classes = name, one, labels, classes
        first = one(0)
        self.size, self.mode = first.size, "L" if first.mode in GREY else "RGB"
        if first.size[0] * first.size[1] > PIXELS:
            raise ValueError(f"The first picture of {name} has {first.size[0]} x {first.size[1]} pixels, too many.")
        self.shape = (1 if self.mode == "L" else 3, self.size[1], self.size[0])

    def __len__(self) -> int:
        return len(self.labels)

    def hash(self) -> str:
        digest = hashlib.sha256(repr((self.name, self.shape)).encode())
        digest.update(self.labels.numpy().tobytes())
        for i in range(len(self)):
            try:
                digest.update(self._pixels(i).tobytes())
            except ValueError as error:  # one that cannot be read is told when it is asked for
                digest.update(str(error).encode())
        return digest.hexdigest()

    def read(self, ids: Int64[Tensor, " b"]) -> tuple[Float[Tensor, "b *image"], Int64[Tensor, " b"]]:
        """Pixels in [0, 1] and labels.

        Raises:
            ValueError: a picture is broken, or has another size than the first.
        """
        x = torch.from_numpy(np.stack([self._pixels(i) for i in ids.tolist()]))
        return x.float() / 255, self.labels[ids]

    def _pixels(self, i: int) -> np.ndarray:
        image = self.one(i)
        if image.size != self.size:  # before decoding: a picture may unfold to anything
            seen, first = (f"{size[0]} x {size[1]}" for size in (image.size, self.size))
            raise ValueError(f"Picture {i} of {self.name} has {seen} pixels and the first {first}; make them one size.")
        try:
            pixels = np.array(image.convert(self.mode), dtype=np.uint8)
        except Exception as error:  # decoders raise all sorts of things
            raise ValueError(f"Picture {i} of {self.name} cannot be read ({one_line(error)}).") from error
        return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def opened(content: bytes | Path, name: str) -> Image.Image:
    """A picture whose header was read.

    Raises:
        ValueError: it is none, or an absurdly large one.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            return Image.open(io.BytesIO(content) if isinstance(content, bytes) else content, formats=FORMATS)
    except Exception as error:
        raise ValueError(f"{name} is no picture that can be read ({one_line(error, named=True)}).") from error


def open_folder(folder: Path) -> PictureSource:
    """A folder with a folder of pictures for each class; classes are numbered by name.

    Raises:
        ValueError: there are no such folders, or no pictures.
    """
    classes = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    files = [
        (file, number)
        for number, name in enumerate(classes)
        for file in sorted((folder / name).iterdir())
        if file.suffix.lower() in SUFFIXES and not file.name.startswith(".")
    ]
    if not files:
        raise ValueError(f"{folder} has no folder of pictures for each class (folders: {few(classes) or 'none'}).")
    labels = torch.tensor([number for _, number in files])

    def one(i: int) -> Image.Image:
        file = files[i][0]
        return opened(file.read_bytes(), str(file.relative_to(folder)))

    return PictureSource(str(folder), one, labels, classes)


def open_parquet(file: Path) -> PictureSource:
    """A column of pictures (bytes, or a record with "bytes") and one of class numbers; a row group is held at a time.

    Raises:
        ValueError: the file has no such columns, or is broken.
    """
    try:
        held = pq.ParquetFile(file)
        schema = held.schema_arrow
        picture, label = _columns(schema, file)
        labels = held.read([label])[label].to_numpy()
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{file} cannot be read as Parquet ({one_line(error)}).") from error
    if labels.dtype.kind not in "iu" or (len(labels) and labels.min() < 0):
        raise ValueError(f"Column {label} of {file} must hold class numbers from 0, and none may be missing.")
    ends = np.cumsum([held.metadata.row_group(g).num_rows for g in range(held.num_row_groups)])
    cached: dict[int, pa.ChunkedArray] = {}

    def one(i: int) -> Image.Image:
        group = int(np.searchsorted(ends, i, side="right"))
        if group not in cached:
            cached.clear()
            cached[group] = held.read_row_group(group, [picture])[picture]
        return _embedded(cached[group][i - (ends[group - 1] if group else 0)].as_py(), f"Picture {i} of {file}")

    return PictureSource(str(file), one, torch.from_numpy(labels.astype(np.int64)), _names(schema, label))


def _embedded(value: Any, name: str) -> Image.Image:
    """A picture from its bytes; a path beside them is never followed."""
    content = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(content, bytes):
        raise ValueError(f"{name} is not in the file itself; save the data set with its pictures embedded.")
    return opened(content, name)


def _columns(schema: pa.Schema, file: Path) -> tuple[str, str]:
    def is_picture(kind: pa.DataType) -> bool:
        if pa.types.is_struct(kind):
            return any(kind.field(k).name == "bytes" for k in range(kind.num_fields))
        return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)

    pictures = [field.name for field in schema if is_picture(field.type)]
    whole = [field.name for field in schema if pa.types.is_integer(field.type)]
    labels = [name for name in LABELS if name in whole] or (whole if len(whole) == 1 else [])
    if not pictures or not labels:
        raise ValueError(
            f"{file} needs a column of pictures (bytes) and one of class numbers called label; "
            f"it has {few(schema.names)}."
        )
    return pictures[0], labels[0]


def _names(schema: pa.Schema, label: str) -> list[str] | None:
    """Names of the classes as Hugging Face writes them into the schema."""
    try:
        told = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"][label]["names"]
        return [str(name) for name in told]
    except (KeyError, TypeError, ValueError):
        return None
