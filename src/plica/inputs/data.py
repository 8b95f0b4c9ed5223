"""Labelled images, all at once; from an .npz file with two arrays, x (b, *image) pixels and y (b,) labels."""

import math
import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from plica.inputs.limits import check_memory, check_npz
from plica.wording import one_line

HOW = "write it with numpy.savez(file, x=pixels, y=labels)"


def load_data(
    file: str | Path, n: int | None = None, free: bool = False
) -> tuple[Float[Tensor, "b *image"], Int64[Tensor, " b"]]:
    """Pixels in [0, 1] as float32 and labels, of the first `n` images or of all.

    `file` is any of the forms of plica.inputs.forms. x may be uint8, which is divided by 255, or any float already in
    [0, 1], or anywhere where `free`; y any integers.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: anything else that makes the file unusable, as one sentence.
    """
    from plica.inputs.forms import open_form

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
    return _pixels(x[:n], file, free), _labels(y[:n], file)


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


def _pixels(x: np.ndarray, file: str | Path, free: bool = False) -> Float[Tensor, "b *image"]:
    if x.dtype == np.uint8:
        return torch.from_numpy(x.astype(np.float32) / np.float32(255))
    if x.dtype.kind != "f":
        raise ValueError(f"Array x in {file} is {x.dtype}; save uint8 pixels (0 to 255) or floats in [0, 1].")
    low, high = float(x.min()), float(x.max())
    if not np.isfinite([low, high]).all():
        raise ValueError(f"Array x in {file} has pixels that are not finite; save floats in [0, 1].")
    if not free and (low < 0 or high > 1):
        raise ValueError(
            f"Array x in {file} has values from {low:.4g} to {high:.4g}; pixels must lie in [0, 1] "
            f"(divide by 255 or save uint8, and let the model normalise), or their bounds be given."
        )
    return torch.from_numpy(x.astype(np.float32))


def _labels(y: np.ndarray, file: str | Path) -> Int64[Tensor, " b"]:
    if y.dtype.kind not in "iu":
        raise ValueError(f"Array y in {file} is {y.dtype}; labels must be integers, one class number per image.")
    if y.min() < 0:
        raise ValueError(f"Array y in {file} has the label {y.min()}; classes are counted from 0.")
    return torch.from_numpy(y.astype(np.int64))
