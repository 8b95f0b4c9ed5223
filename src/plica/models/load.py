"""A model from what a command line can say, with weights that are read without running any code."""

from collections.abc import Callable
from pathlib import Path
from typing import cast

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from plica.models.adapt import Adapted, split_normalisation, unwrap
from plica.models.exported import is_file_form, read_network
from plica.models.zoos import zoo_of
from plica.utils.factories import make
from plica.utils.messages import few, one_line
from plica.utils.weights import read_weights

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
    made = make(spec)
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
