"""State dicts read without running any code."""

import pickle
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from plica.utils.messages import few, one_line

# keys of checkpoints that may contain the state dict, in order of search
WRAPPINGS = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "weights", "params", "module")


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
    state = _unwrapped(state, file)
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        seen = f"the keys {few(state)}" if isinstance(state, Mapping) else f"an object of type {type(state).__name__}"
        raise ValueError(f"{file} holds {seen}, not a state dict; save it with torch.save(model.state_dict(), file).")
    return dict(state)


def _unwrapped(state: object, file: Path) -> object:
    """The state dict in a checkpoint that also contains other things, with a warning that says so."""
    if not isinstance(state, Mapping):
        return state
    for name in WRAPPINGS:
        inner = state.get(name)
        if isinstance(inner, Mapping) and inner and all(isinstance(value, Tensor) for value in inner.values()):
            warnings.warn(f"{file} is a checkpoint; its {name!r} is taken, the rest is left out.", stacklevel=3)
            return inner
    return state


def without_prefix(state: dict[str, Tensor], names: Iterable[str], file: Path | str) -> dict[str, Tensor]:
    """The tensors without a prefix such as "module.", if all expected names have it; else all tensors, as they are. A
    warning says what is taken off and left out."""
    own = list(names)
    if not own or own[0] in state:
        return state
    for key in state:
        prefix = key.removesuffix(own[0])
        if prefix != key and prefix.endswith(".") and all(prefix + name in state for name in own):
            others = len(state) - len(own)
            left = f", and {others} tensors without it left out" if others else ""
            warnings.warn(f"In {file} the prefix {prefix!r} is taken off{left}.", stacklevel=4)
            return {name: state[prefix + name] for name in own}
    return state
