"""State dicts read without running any code."""

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from plica.utils.messages import few, one_line


def read_weights(file: str | Path) -> dict[str, Tensor]:
    """A state dict; Python objects inside a .pt file are refused, since unpickling one can run code.

    Raises:
        FileNotFoundError, ValueError: one sentence.
    """
    file = Path(file)
    if not file.is_file():
        raise FileNotFoundError(f"There is no weights file {file}; give a .safetensors or .pt file.")
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        state = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{file} is broken or holds Python objects, which are refused; "
            f"save tensors alone with torch.save(model.state_dict(), file)."
        ) from error
    except (SafetensorError, RuntimeError, OSError, EOFError, ValueError) as error:
        raise ValueError(f"{file} cannot be read as weights ({one_line(error, named=True)}); save it anew.") from error
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        seen = f"the keys {few(state)}" if isinstance(state, Mapping) else f"an object of type {type(state).__name__}"
        raise ValueError(f"{file} holds {seen}, not a state dict; save it with torch.save(model.state_dict(), file).")
    return dict(state)
