"""An .npz file with the arrays x (n, *image) and y (n,). It is decompressed from the start, so only the first images
of a large file are read quickly; .npy and .safetensors are read in parts at any position."""

import zipfile
import zlib
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from plica.data.arrays import ArraySource
from plica.data.checks import check_shapes
from plica.utils.files import hash_file
from plica.utils.limits import check_memory, check_npz, read_array_header
from plica.utils.messages import one_line, shown

SMALL = 2**26  # bytes of an array that is unfolded when the file is opened, and found to be broken then
HOW = "write it with numpy.savez(file, x=pixels, y=labels)"


def open_npz(spec: str, allow_out_of_range: bool = False) -> ArraySource:
    """The arrays of the file. Pickled objects are refused, since loading one can run code.

    Raises:
        ValueError: the file is broken, has no such arrays, or claims more than fits into memory; one sentence.
    """
    file = Path(spec)
    try:
        if not zipfile.is_zipfile(file):
            with file.open("rb") as stream:
                single = stream.read(6) == b"\x93NUMPY"
            raise ValueError(f"{file} is {'a single array' if single else 'not an .npz file of plain numbers'}; {HOW}.")
        check_npz(file)
        with zipfile.ZipFile(file) as archive:
            sizes = {info.filename.removesuffix(".npy"): info.file_size for info in archive.infolist()}
        missing = [name for name in ("x", "y") if name not in sizes]
        if missing:
            names = ", ".join(map(shown, sizes)) or "none"
            raise ValueError(f"{file} has no array {' and no array '.join(missing)} (its arrays: {names}); {HOW}.")
        x, y = Unfolding(file, "x"), Unfolding(file, "y")
        check_shapes(x.shape, y.shape, file)
        check_memory((sizes["x"] + sizes["y"]) // 4, file)
        labels = y[np.arange(len(y))]
        if sizes["x"] <= SMALL:
            x.grow(len(x))
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"{file} cannot be read as an .npz file ({one_line(error)}); {HOW}.") from error
    return ArraySource(str(file), x, labels, allow_out_of_range, partial(hash_file, file))


class Unfolding:
    """An array of an archive, from its start to where it was asked for. What was unfolded stays; it grows to twice the
    size at least, since each time it begins at the start.

    Raises:
        ValueError: the array holds Python objects, or is broken.
    """

    def __init__(self, file: Path, name: str):
        self.file, self.name = file, name
        with zipfile.ZipFile(file) as archive, archive.open(f"{name}.npy") as member:
            self.shape, self.dtype, self.by_columns = self._header(member)
        self.rows = np.empty((0, *self.shape[1:]), self.dtype)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, ids: np.ndarray) -> np.ndarray:
        if len(ids):
            self.grow(int(ids.max()) + 1)
        return self.rows[ids]

    def grow(self, needed: int) -> None:
        """Decompress at least `needed` rows."""
        if needed <= len(self.rows):
            return
        count = len(self) if self.by_columns else min(len(self), max(needed, 2 * len(self.rows)))
        try:
            self.rows = self._unfold(count)
        except (OSError, EOFError, zipfile.BadZipFile, zlib.error, ValueError) as error:
            raise ValueError(f"{self.file} cannot be read as an .npz file ({one_line(error)}); {HOW}.") from error

    def _unfold(self, count: int) -> np.ndarray:
        shape = (count, *self.shape[1:])
        with zipfile.ZipFile(self.file) as archive, archive.open(f"{self.name}.npy") as member:
            self._header(member)
            data = member.read(int(np.prod(shape, dtype=object)) * self.dtype.itemsize)
        return np.frombuffer(data, self.dtype).reshape(shape, order="F" if self.by_columns else "C")

    def _header(self, member: Any) -> tuple[tuple[int, ...], np.dtype, bool]:
        """Shape and type, and whether the array lies column by column; `member` then stands where its numbers begin."""
        shape, by_columns, dtype = read_array_header(member)
        if dtype.hasobject:
            raise ValueError(f"{self.file} is not an .npz file of plain numbers (Python objects are refused); {HOW}.")
        return shape, dtype, by_columns
