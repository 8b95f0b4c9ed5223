"""The writing side of a run directory: every file is whole or not there, whatever happens to the process or the disk.

A file is written under a temporary name, flushed to the disk and renamed. A part is complete when its parquet is there,
which comes after the points it speaks of.
"""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float, Int64
from safetensors.torch import save
from torch import Tensor

from plica.data.bounds import FILE, Bounds
from plica.runs.encode import pack, points
from plica.runs.read import NOTES, read_tensors

TEMPORARY = ".tmp-"


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


def write_json(file: Path, value: Mapping[str, Any]) -> None:
    """Infinite and undefined numbers are refused: null says "none" in JSON."""
    write_whole(file, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def write_whole(file: Path, content: bytes) -> None:
    """Under a temporary name, to the disk, then renamed; a failure leaves nothing behind.

    Raises:
        OSError: a full disk, or a directory that is not ours to write.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    half = file.with_name(f"{TEMPORARY}{os.getpid()}-{file.name}")
    try:
        with half.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(half, file)
    except BaseException:
        with suppress(OSError):
            half.unlink()
        raise
    _flush_folder(file.parent)


def copy_whole(source: Path, file: Path) -> None:
    """A second name for the same content where the file system has such, else a copy."""
    file.parent.mkdir(parents=True, exist_ok=True)
    half = file.with_name(f"{TEMPORARY}{os.getpid()}-{file.name}")
    half.unlink(missing_ok=True)
    try:
        os.link(source, half)
    except OSError:
        shutil.copyfile(source, half)
    os.replace(half, file)


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """One writer at a time; a writer that was killed holds nothing, and what it left half written is cleared away.

    Raises:
        BlockingIOError: another process writes there.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / ".lock").open("w") as stream:
        _lock(stream, directory)
        for half in directory.rglob(f"{TEMPORARY}*"):
            half.unlink()
        yield


def _lock(stream: io.TextIOBase, directory: Path) -> None:
    try:
        import fcntl
    except ImportError:  # Windows
        return
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise BlockingIOError(f"Another process writes to {directory}; wait for it or give another --out.") from None
    except OSError:
        return  # some network file systems have no locks


def _flush_folder(folder: Path) -> None:
    """A rename is on the disk when its folder is."""
    with suppress(OSError):  # Windows opens no folders
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)
