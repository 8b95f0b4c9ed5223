"""Two .npy files, images and labels: "x.npy,y.npy", or a folder that holds x.npy and y.npy."""

from pathlib import Path

import numpy as np

from plica.data.arrays import ArraySource
from plica.data.checks import no_file
from plica.utils.messages import one_line

MAGIC = b"\x93NUMPY"  # how a .npy file starts


def is_npy(spec: str) -> bool:
    return (Path(spec) / "x.npy").is_file() or (spec.endswith(".npy") and "," in spec)


def open_npy(spec: str, allow_out_of_range: bool = False) -> ArraySource:
    """The images are mapped into memory, and read when they are needed.

    Raises:
        FileNotFoundError, ValueError: a file is missing, broken, or holds Python objects; one sentence.
    """
    files = [Path(part) for part in spec.split(",", 1)] if "," in spec else [Path(spec) / "x.npy", Path(spec) / "y.npy"]
    x, y = map(_open_array, files)
    return ArraySource(spec, x, y, allow_out_of_range)


def _open_array(file: Path) -> np.ndarray:
    if not file.is_file():
        raise FileNotFoundError(f"{no_file(file)}; give x.npy,y.npy or a folder that holds both.")
    try:
        return load_npy(file, mapped=True)
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} cannot be read as an array ({one_line(error)}).") from error


def load_npy(file: str | Path, mapped: bool = False) -> np.ndarray:
    """The array of a .npy file, in memory or mapped into it.

    Raises:
        OSError, ValueError: it cannot be read; why, in words.
    """
    with open(file, "rb") as stream:
        if stream.read(len(MAGIC)) != MAGIC:
            raise ValueError("it is no .npy file; write one with numpy.save")
    try:
        return np.load(file, mmap_mode="r" if mapped else None, allow_pickle=False)
    except Exception as error:  # numpy reads the header as Python, whose errors are many
        pickled = "pickle" in str(error) or "objects" in str(error)
        raise ValueError("it holds Python objects, which are refused" if pickled else one_line(error)) from error
