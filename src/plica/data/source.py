"""Labelled images that are read when they are needed, so that a data set need not fit into memory.

An .npz file is read image by image, straight from the archive where its arrays are stored, from a temporary copy where
they are compressed. Every other form is what `load_data` makes of it.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import weakref
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from plica.data.arrays import load_data
from plica.data.checks import as_labels, as_pixels
from plica.data.forms import open_form
from plica.utils.files import BLOCK, hash_file
from plica.utils.limits import check_npz
from plica.utils.messages import one_line

Stream = Any  # a file opened for bytes; those inside an archive are no instances of typing.IO


@runtime_checkable
class Source(Protocol):
    """len() images of one shape; `labels` (n,) of all of them; `hash()` tells one data set from another."""

    shape: tuple[int, ...]
    labels: Int64[Tensor, " n"]
    classes: list[str] | None

    def __len__(self) -> int: ...

    def hash(self) -> str:
        """A hexadecimal digest of all there is."""
        ...

    def read(self, ids: Int64[Tensor, " b"]) -> tuple[Float[Tensor, "b *image"], Int64[Tensor, " b"]]:
        """Pixels in [0, 1] and labels of these images.

        Raises:
            ValueError, OSError: one of them cannot be read; in one sentence.
        """
        ...


def open_data(spec: str | Path, free: bool = False) -> Source:
    """A source from what `load_data` takes. `free`: floats need not lie in [0, 1].

    Raises:
        FileNotFoundError, ValueError: one sentence that says what was wrong and what to do.
    """
    source = open_form(spec, free)
    if source is not None:
        return source
    file = Path(spec)
    if file.suffix == ".npz" and zipfile.is_zipfile(file):
        streamed = _open_npz(file)
        if streamed is not None:
            streamed.free = free
            return streamed
    return HeldSource(*load_data(spec, free=free))


class HeldSource:
    """Images in memory."""

    classes: list[str] | None = None

    def __init__(self, x: Float[Tensor, "n *image"], y: Int64[Tensor, " n"]):
        self.x, self.labels = x, y
        self.shape = tuple(x.shape[1:])

    def __len__(self) -> int:
        return len(self.x)

    def hash(self) -> str:
        digest = hashlib.sha256(repr((self.shape, str(self.x.dtype))).encode())
        for tensor in (self.labels, *self.x.split(256)):
            digest.update(tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()

    def read(self, ids: Int64[Tensor, " b"]) -> tuple[Tensor, Tensor]:
        return self.x[ids], self.labels[ids]


class NpzSource:
    """Images inside an .npz file, read one by one: neither the file's size nor its state can hurt the other images."""

    classes: list[str] | None = None
    free = False

    def __init__(self, file: Path, stream: Stream, start: int, shape: tuple[int, ...], dtype: np.dtype, y: Tensor):
        self.file, self.stream, self.start, self.dtype = file, stream, start, dtype
        self.shape, self.labels = shape[1:], y
        weakref.finalize(self, stream.close)
        self.bytes = dtype.itemsize * int(np.prod(self.shape))

    def __len__(self) -> int:
        return len(self.labels)

    def hash(self) -> str:
        return hash_file(self.file)

    def read(self, ids: Int64[Tensor, " b"]) -> tuple[Tensor, Tensor]:
        x = np.empty((len(ids), *self.shape), self.dtype)
        for row, number in enumerate(ids.tolist()):
            self.stream.seek(self.start + number * self.bytes)
            content = self.stream.read(self.bytes)
            if len(content) < self.bytes:
                raise ValueError(f"{self.file} ends before image {number}; save it anew.")
            x[row] = np.frombuffer(content, self.dtype).reshape(self.shape)
        return as_pixels(x, self.file, self.free), self.labels[ids]


def select(
    labels: Int64[Tensor, " n"], n: int | None, indices: list[int] | None, sample: str, seed: int
) -> Int64[Tensor, " m"]:
    """The ids to take, ascending: the `indices`, or the first n, n at random, or n at random with equal classes.

    Raises:
        ValueError: more images are asked for than there are, or one twice.
    """
    total = len(labels)
    if indices is not None:
        wrong = next((i for i in indices if not 0 <= i < total), None)
        if wrong is not None or len(set(indices)) < len(indices):
            twice = next((i for i, times in Counter(indices).items() if times > 1), None)
            said = f"{twice} twice" if wrong is None else f"{wrong}, but there are {total} images"
            raise ValueError(f"The indices name image {said}; give each of them once, counted from 0.")
        return torch.tensor(sorted(indices), dtype=torch.long)
    count = total if n is None else n
    if not 1 <= count <= total:
        raise ValueError(f"n={n} images were asked for and the data hold {total}; choose n between 1 and {total}.")
    if sample == "first":
        return torch.arange(count)
    order = np.random.default_rng(seed).permutation(total)
    if sample == "balanced":
        # the first image of every class, then the second of every class, ...
        y = labels.numpy()[order]
        place = np.zeros(total, dtype=np.int64)
        for label in np.unique(y):
            place[y == label] = np.arange((y == label).sum())
        order = order[np.argsort(place, kind="stable")]
    return torch.from_numpy(np.sort(order[:count]))


def _open_npz(file: Path) -> NpzSource | None:
    """None where the arrays are laid out so that load_data must read them, or has to say what is wrong with them."""
    try:
        check_npz(file)
        with np.load(file, allow_pickle=False) as arrays:
            y = arrays["y"]
        with zipfile.ZipFile(file) as archive:
            info = archive.getinfo("x.npy")
            with archive.open(info) as member:
                shape, fortran, dtype = _header(member)
                if fortran or dtype.kind not in "uf" or len(shape) < 2 or 0 in shape or y.shape != shape[:1]:
                    return None
                labels = as_labels(y, file)
                if info.compress_type == zipfile.ZIP_STORED:
                    start = _data(file, info) + member.tell()
                    return NpzSource(file, file.open("rb"), start, shape, dtype, labels)
                return NpzSource(file, _spooled(member, info.file_size, file), 0, shape, dtype, labels)
    except (KeyError, EOFError, zipfile.BadZipFile):
        return None


def _header(member: Stream) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(member)
    read: Callable = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return read(member)


def _data(file: Path, info: zipfile.ZipInfo) -> int:
    """Where the bytes of a stored member begin: after its local header of 30 bytes, its name and its extra field."""
    with file.open("rb") as stream:
        stream.seek(info.header_offset)
        local = stream.read(30)
    return info.header_offset + 30 + int.from_bytes(local[26:28], "little") + int.from_bytes(local[28:30], "little")


def _spooled(member: Stream, size: int, file: Path) -> Stream:
    """The rest of a compressed member in a temporary file, which goes when it is closed."""
    free = shutil.disk_usage(tempfile.gettempdir()).free
    if size > free:
        raise ValueError(
            f"{file} is compressed and needs {size / 1e9:.1f} GB of temporary space, {free / 1e9:.1f} GB are free; "
            "save it with numpy.savez, or set TMPDIR to a larger disk."
        )
    stream = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the source
    try:
        shutil.copyfileobj(member, stream, BLOCK)
    except Exception as error:
        stream.close()
        raise ValueError(f"{file} cannot be read ({one_line(error)}); save it anew.") from error
    return stream
