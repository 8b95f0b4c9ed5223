"""The checkpoint from which a training resumes: one file that is complete or does not exist."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from plica.utils.files import write_whole
from plica.utils.messages import one_line

CHECKPOINT, WEIGHTS, LOG, RUN, UNDEFENDED = "checkpoint.pt", "model.safetensors", "log.parquet", "run", "undefended"


def write_checkpoint(directory: Path, state: dict[str, Any]) -> None:
    stream = io.BytesIO()
    torch.save(state, stream)
    write_whole(directory / CHECKPOINT, stream.getvalue())


def read_checkpoint(directory: Path) -> dict[str, Any] | None:
    """The checkpoint, or None if there is none.

    Raises:
        ValueError: it cannot be read, or is not a checkpoint.
    """
    file = directory / CHECKPOINT
    if not file.is_file():
        return None
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
        if not isinstance(state, dict) or not isinstance(state.get("plan"), dict):
            raise ValueError("it is not a checkpoint of a training")
    except Exception as error:  # an unpickler raises anything
        raise ValueError(f"{file} cannot be read ({one_line(error)}); delete {directory} and train again.") from error
    return state


def write_weights(directory: Path, state: dict[str, Tensor]) -> None:
    """The state dict as model.safetensors."""
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}
    write_whole(directory / WEIGHTS, save(tensors))
