"""The target class of each image, from a .npy file with a class for every row of the data."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from plica.data.npy import load_npy
from plica.utils.messages import one_line


def read_targets(file: str | Path) -> Int64[Tensor, " n"]:
    """The targets of all rows of the data.

    Raises:
        ValueError: the file cannot be read, or does not hold whole numbers of one axis.
    """
    try:
        if Path(file).exists() and not Path(file).is_file():
            raise OSError("not a regular file")
        targets = load_npy(file)
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} cannot be read as a .npy file of targets ({one_line(error)}).") from error
    if targets.ndim != 1 or targets.dtype.kind not in "iu":
        raise ValueError(f"{file} must be a .npy file with one class, a whole number, for every row of the data.")
    return torch.from_numpy(targets.astype(np.int64))


def targets_name(file: str | Path, targets: Int64[Tensor, " n"]) -> str:
    """The file's name and the start of a hash of its classes, as "targets.npy-3f2a91c0": other classes under the same
    name are another question."""
    return f"{Path(file).name}-{hashlib.sha256(targets.numpy().tobytes()).hexdigest()[:8]}"


def check_targets(
    file: str | Path, targets: Int64[Tensor, " n"], labels: Int64[Tensor, " b"], ids: Int64[Tensor, " b"]
) -> None:
    """Raises ValueError unless the file has a target for each of these rows of the data that differs from its label."""
    if len(targets) <= int(ids.max()):
        raise ValueError(
            f"{file} has {len(targets)} targets and the images go up to row {int(ids.max())}; it needs a class for "
            "every row of the data."
        )
    same = ids[targets[ids] == labels]
    if len(same):
        raise ValueError(
            f"Targets must differ from the labels, but in {file} the target of row {int(same[0])} is its label, "
            f"{int(targets[same[0]])} ({len(same)} such rows of {len(ids)}); give another class, or leave these rows "
            "out with indices."
        )
