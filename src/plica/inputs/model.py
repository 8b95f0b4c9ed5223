"""A model from what a command line can say, with weights that are read without running any code."""

import importlib
import importlib.util
import pickle
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float, Int64
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from plica.inputs.adapt import Adapted, split_normalisation, unwrap
from plica.inputs.exported import is_file_form, read_network
from plica.inputs.zoos import zoo_of
from plica.wording import few, one_line

Model = Callable[[Tensor], Tensor]


def load_model(spec: str, weights: str | Path | None = None, device: str = "cpu", trust: bool = False) -> Model:
    """The model in eval mode, on the device; it takes pixels in [0, 1] and gives logits.

    `spec` is one of

        file.py:factory, package.module:factory   without argument; gives a torch.nn.Module, or any callable
                                                  (b, *image) -> (b, classes); a module itself may stand in its place
        torchvision:NAME, timm:NAME, hf:DIR-OR-ID, robustbench:ID      normalised as their makers say
        net.onnx; net.pt2 (torch.export), net.ts or net.pt (TorchScript): programs, read only with `trust`

    and may end in a normalisation that comes before the network: @imagenet, @cifar10, @half, @none, or @mean/deviation,
    such as @0.5/0.25. Logits in a tuple, a mapping or a record are taken out of it. `weights` is a state dict,
    .safetensors, or .pt read with weights_only=True.

    Raises:
        FileNotFoundError, ValueError: one sentence that says what was wrong and what to do.
    """
    target = _device(device)
    spec, normalisation, stated = split_normalisation(spec)
    zoo = zoo_of(spec)
    if zoo is None and is_file_form(spec):
        if weights is not None:
            raise ValueError(f"{spec} brings its own weights; leave --weights out.")
        return read_network(spec, normalisation, trust).to(target).eval()
    if zoo is not None:
        family, name = zoo
        net, own = family(name, weights is None, trust)
        if weights is not None:
            _fill(net, read_weights(weights), weights)
        return Adapted(net, normalisation if stated else own).to(target).eval()
    made = _make(spec)
    if not callable(made):
        raise ValueError(
            f"{spec} gave an object of type {type(made).__name__}, which cannot be called; return a torch.nn.Module."
        )
    if not isinstance(made, nn.Module):
        if weights is not None or target.type != "cpu" or normalisation is not None:
            raise ValueError(
                f"{spec} gave an object of type {type(made).__name__}; --weights, --device and a normalisation need a "
                "torch.nn.Module."
            )
        return cast(Model, made)
    if weights is not None:
        _fill(made, read_weights(weights), weights)
    if normalisation is not None:
        return Adapted(made, normalisation).to(target).eval()
    made.register_forward_hook(unwrap)
    return made.to(target).eval()


def place(model: Model, x: Float[Tensor, "b *image"], y: Int64[Tensor, " b"]) -> tuple[Tensor, Tensor]:
    """Images and labels on the model's device, the images in its precision, tried on the first image.

    Raises:
        ValueError: the model cannot take such images; what it raised, in one sentence.
    """
    if isinstance(model, nn.Module):
        own = next((p for p in model.parameters() if p.is_floating_point()), x)
        x, y = x.to(own), y.to(own.device)
    shape = tuple(x.shape[1:])
    several = _refusal(model, x[:1].repeat(2, *[1] * len(shape)))
    if several is not None:
        alone = _refusal(model, x[:1])
        batches = "" if alone else " in batches, only one by one"
        raise ValueError(f"The model cannot take images of shape {shape}{batches}: {alone or several}.")
    return x, y


def _refusal(model: Model, x: Float[Tensor, "b *image"]) -> str | None:
    """What the model raises for such images."""
    try:
        with torch.no_grad():
            model(x)
    except Exception as error:
        return one_line(error, named=True)
    return None


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


def _make(spec: str, what: str = "model") -> Any:
    """Import, look up, call."""
    place, colon, name = spec.rpartition(":")
    if not (place and colon and name):
        raise ValueError(
            f"The {what} {spec!r} is not of the form file.py:factory or package.module:factory, or any other."
        )
    module = _file(Path(place), what) if place.endswith(".py") else _module(place, what)
    if not hasattr(module, name):
        functions = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise ValueError(f"{place} has no {name!r}; it has {few(functions) or 'no functions'}.")
    factory = getattr(module, name)
    if isinstance(factory, nn.Module) or not callable(factory):
        return factory
    try:
        return factory()
    except Exception as error:
        raise ValueError(f"The {what} factory {spec} failed: {one_line(error, named=True)}.") from error


def _file(path: Path, what: str) -> Any:
    """Run a file as a module; what stands beside it can be imported, as when Python runs it."""
    if not path.is_file():
        raise FileNotFoundError(f"There is no {what} file {path}; give file.py:factory.")
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    spec = importlib.util.spec_from_file_location(f"plica_model_{path.stem}", path)
    assert spec is not None  # a path that ends in .py always has a loader
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up by name
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ValueError(f"The {what} file {path} failed: {one_line(error, named=True)}.") from error
    return module


def _module(name: str, what: str) -> Any:
    try:
        return importlib.import_module(name)
    except Exception as error:
        raise ValueError(f"The {what}'s module {name} cannot be imported: {one_line(error, named=True)}.") from error


def _fill(model: nn.Module, state: dict[str, Tensor], file: str | Path) -> None:
    """Load a state dict that fits to the last key and shape; otherwise the first differences are named."""
    own = model.state_dict()
    faults = [f"{what} {few(names)}" for what, names in (
        ("lacks", [key for key in own if key not in state]),
        ("has the unknown", [key for key in state if key not in own]),
        ("has other shapes for", [
            f"{key} {tuple(state[key].shape)} instead of {tuple(own[key].shape)}"
            for key in own if key in state and own[key].shape != state[key].shape
        ]),
    ) if names]  # fmt: skip
    if faults:
        raise ValueError(f"The weights {file} do not fit the model: the file {' and '.join(faults)}.")
    model.load_state_dict(state)


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except Exception as error:
        have = ", ".join(["cpu"] + ["cuda"] * torch.cuda.is_available() + ["mps"] * torch.backends.mps.is_available())
        raise ValueError(f"The device {name!r} cannot be used here; this machine has {have}.") from error
    return device
