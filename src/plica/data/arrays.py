"""Labelled images, all at once; from an .npz file with two arrays, x (b, *image) pixels and y (b,) labels."""

import math
import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from plica.data.checks import as_labels, as_pixels
from plica.data.forms import open_form
from plica.utils.limits import check_memory, check_npz
from plica.utils.messages import one_line

HOW = "write it with numpy.savez(file, x=pixels, y=labels)"


def load_data(
    file: str | Path, n: int | None = None, free: bool = False
) -> tuple[Float[Tensor, "b *image"], Int64[Tensor, " b"]]:
    """Pixels in [0, 1] as float32 and labels, of the first `n` images or of all.

    `file` is any of the forms of plica.data.forms. x may be uint8, which is divided by 255, or any float already in
    [0, 1], or anywhere where `free`; y any integers.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: anything else that makes the file unusable, as one sentence.
    """
    source = open_form(file, free)
    if source is not None:
        count = _count(n, len(source), file)
        check_memory(count * math.prod(source.shape), file)
        return source.read(torch.arange(count))
    x, y = _arrays(Path(file))
    for name, value in (("x", x), ("y", y)):
        if value.dtype == object:
            raise ValueError(f"Array {name} in {file} holds Python objects; save plain numbers.")
    if x.ndim < 2 or len(x) == 0:
        raise ValueError(f"Array x in {file} has shape {x.shape}; it must be (images, *image) with at least one image.")
    if y.shape != x.shape[:1]:
        raise ValueError(f"Array y in {file} has shape {y.shape}; {len(x)} images need one label each, ({len(x)},).")
    n = _count(n, len(x), file)
    return as_pixels(x[:n], file, free), as_labels(y[:n], file)


def _count(n: int | None, held: int, file: str | Path) -> int:
    if n is not None and not 1 <= n <= held:
        raise ValueError(f"n={n} images were asked for and {file} holds {held}; choose n between 1 and {held}.")
    return held if n is None else n


def _arrays(file: Path) -> tuple[np.ndarray, np.ndarray]:
    """The two arrays, whatever is in them; pickled objects are refused, since loading one can run code."""
    if not file.exists():
        raise FileNotFoundError(f"There is no file {file}; give the path of an .npz file with arrays x and y.")
    try:
        if zipfile.is_zipfile(file):
            check_npz(file)
        with file.open("rb") as stream:  # opened here, since numpy leaves a broken archive open
            archive = np.load(stream, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ValueError(f"{file} is a single array; {HOW}.")
            missing = [name for name in ("x", "y") if name not in archive.files]
            if missing:
                seen = ", ".join(archive.files) or "none"
                raise ValueError(f"{file} has no array {' and no array '.join(missing)} (its arrays: {seen}); {HOW}.")
            with zipfile.ZipFile(file) as members:
                check_memory(members.getinfo("x.npy").file_size // 4, file)
            return archive["x"], archive["y"]
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{file} cannot be read as an .npz file ({one_line(error)}); {HOW}.") from error
    except ValueError as error:
        if "pickle" not in str(error):
            raise
        raise ValueError(f"{file} is no .npz file of plain numbers (Python objects are refused); {HOW}.") from error
