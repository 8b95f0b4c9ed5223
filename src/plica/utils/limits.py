"""Limits on sizes stated in files: a header may claim terabytes, and an archive may decompress to as many."""

from __future__ import annotations

import gc
import math
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from plica.utils.messages import one_line, shown

DEFLATE = 1032  # the most that deflate can unfold a byte to
PIXELS = 100_000_000  # of one image


def memory() -> int:
    """Bytes of this machine's memory; a generous guess where it does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows
        return 2**36


def out_of_memory(error: BaseException) -> bool:
    """Whether an error, or its cause, is an out-of-memory error of CUDA, Python or torch's CPU allocator (which has no
    type of its own)."""
    if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError) or "allocate memory" in str(error):
        return True
    return error.__cause__ is not None and out_of_memory(error.__cause__)


def free_memory() -> None:
    """Give back what nothing refers to any more; to be called outside of the handler of the error, whose traceback
    refers to the tensors that filled the memory."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def check_memory(numbers: int, file: object) -> None:
    """Check that this many float32 numbers fit into memory.

    Raises:
        ValueError: they could not.
    """
    if 4 * numbers > 0.8 * memory():
        raise ValueError(
            f"{file} claims {4 * numbers / 1e9:.3g} GB of pixels, and this machine has {memory() / 1e9:.3g} GB; give a "
            "part of it, or x.npy,y.npy or .safetensors to plica evaluate, which reads those chunk by chunk."
        )


def check_npz(file: Path) -> None:
    """Check that the arrays of an archive can be as large as they claim, and that no name leads out of the archive.

    Raises:
        ValueError: an array cannot, or lies outside the archive's own folder.
    """
    with zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            if info.filename.startswith(("/", "\\")) or ".." in Path(info.filename.replace("\\", "/")).parts:
                raise ValueError(f"{file} has a member {shown(info.filename)} that points outside it; save it anew.")
            if info.file_size > DEFLATE * info.compress_size + 1024:
                raise ValueError(
                    f"{file} claims {info.file_size / 1e9:.3g} GB for {shown(info.filename)}, more than it can hold."
                )
            if info.filename.endswith(".npy"):
                with archive.open(info) as member:
                    _check_array(member, info, file)


def read_array_header(member: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    """The shape of an .npy file, whether it is in Fortran order, and its dtype; `member` is then positioned at the
    data.

    Raises:
        ValueError: it is no .npy file.
    """
    version = np.lib.format.read_magic(member)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    try:
        return read(member)
    except Exception as error:  # numpy reads the header as Python, whose errors are many
        raise ValueError(f"the header of an array is broken ({one_line(error)})") from error


def _check_array(member: Any, info: zipfile.ZipInfo, file: Path) -> None:
    shape, _, dtype = read_array_header(member)
    claimed, stored = math.prod(shape) * dtype.itemsize, info.file_size - member.tell()
    if claimed != stored and dtype.kind != "O":
        raise ValueError(
            f"{file} claims {shown(info.filename)} of shape {shape}, {claimed / 1e9:.3g} GB, "
            f"and contains {stored} bytes."
        )
