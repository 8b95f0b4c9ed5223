"""A model from its specification on the command line, with weights that are read without running any code."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from plica.models.adapt import NAMED, Adapted, Normalisation, forward_hook, split_normalisation
from plica.models.registry import form_of, help_text
from plica.utils.factories import make
from plica.utils.messages import did_you_mean, few
from plica.utils.weights import read_weights, without_prefix

Model = Callable[[Tensor], Tensor]


def load_model(spec: str, weights: str | Path | None = None, device: str = "cpu", trust: bool = False) -> Model:
    """The model in eval mode, on the device; it takes pixels in [0, 1] and gives logits.

    Args:
        spec: "file.py:factory" or "package.module:factory", a function without arguments that gives a torch.nn.Module,
            or any callable (b, *image) -> (b, classes); a module itself may stand in its place. Or one of the forms
            of plica.models.registry. A normalisation that comes before the network may follow: @imagenet, @cifar10,
            @half, @none, or @mean/deviation, such as @0.5/0.25. Logits are taken out of a tuple, mapping or record.
        weights: a state dict, .safetensors, or .pt read with weights_only=True.
        device: cpu, cuda, cuda:1, mps.
        trust: whether models that are programs, or bring code of their own, are read.

    Raises:
        FileNotFoundError, ValueError: one sentence that says what was wrong and what to do.
    """
    target = parse_device(device)
    name, normalisation, stated = split_normalisation(spec)
    form = form_of(name)
    if form is None:
        return _from_factory(name, normalisation, weights, target)
    loader, path = form
    if weights is not None and loader.holds_weights:
        raise ValueError(f"{name} brings its own weights; leave --weights out.")
    loaded = loader.load(path, weights is None, trust)
    if weights is not None:
        _load_state(loaded.net, weights)
    if not stated and not loaded.says_normalisation:
        warnings.warn(f"{name} does not say how it normalises; state it, as in {name}@half.", stacklevel=2)
    normalisation = normalisation if stated else loaded.normalisation
    return Adapted(loaded.net, normalisation, loaded.one_by_one).to(target).eval()


def _from_factory(
    name: str, normalisation: Normalisation | None, weights: str | Path | None, device: torch.device
) -> Model:
    if ":" not in name:
        if name.endswith(".safetensors"):
            raise ValueError(f"{name} holds weights; give it as the weights of a model such as net.py:make.")
        if name.endswith(".py"):
            raise ValueError(f"{name} is a file; name the function in it that makes the model, as in {name}:make.")
        raise ValueError(f"The model {name!r} is not of a known form; write one of: {help_text()}.")
    _, at, text = name.rpartition("@")
    if at and ":" not in text:  # no name of a function has an @
        raise ValueError(
            f"There is no normalisation {text!r}; {did_you_mean(text, NAMED)}write mean/deviation, as 0.5/0.25, or one "
            f"of {', '.join(NAMED)}."
        )
    made = make(name)
    kind = f"{name} gave an object of type {type(made).__name__}"
    if not callable(made):
        raise ValueError(f"{kind}, which cannot be called; return a torch.nn.Module.")
    if not isinstance(made, nn.Module):
        if weights is not None or device.type != "cpu" or normalisation is not None:
            raise ValueError(f"{kind}; --weights, --device and a normalisation need a torch.nn.Module.")
        return cast(Model, made)
    if weights is not None:
        _load_state(made, weights)
    empty = [key for key, value in made.state_dict().items() if value.is_meta]
    if empty:
        raise ValueError(f"{name} has weights without numbers, on the device meta ({few(empty)}); make it on cpu.")
    if normalisation is not None or isinstance(made, torch.jit.ScriptModule):  # which takes no hooks
        return Adapted(made, normalisation).to(device).eval()
    made.register_forward_hook(forward_hook)
    return made.to(device).eval()


def _load_state(model: nn.Module, file: str | Path) -> None:
    """Load a state dict that fits to the last key and shape; otherwise the first differences are named."""
    own = model.state_dict()
    state = without_prefix(read_weights(file), own, file)
    shapes = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(own[key].shape)}"
        for key in own
        if key in state and own[key].shape != state[key].shape
    ]
    differences = {
        "lacks": [key for key in own if key not in state],
        "has the unknown": [key for key in state if key not in own],
        "has other shapes for": shapes,
    }
    faults = [f"{what} {few(names)}" for what, names in differences.items() if names]
    if faults:
        raise ValueError(f"The weights {file} do not fit the model: the file {' and '.join(faults)}.")
    model.load_state_dict(state)


def parse_device(name: str | torch.device) -> torch.device:
    """The device of that name; raises ValueError where this machine has none that can be used."""
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # "meta" has tensors without numbers
    except Exception as error:
        known = ["cpu"] + ["cuda"] * torch.cuda.is_available() + ["mps"] * torch.backends.mps.is_available()
        raise ValueError(
            f"The device {str(name)!r} cannot be used here; this machine has {', '.join(known)}."
        ) from error
    return device
