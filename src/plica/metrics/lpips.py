"""LPIPS (Zhang, Isola, Efros, Shechtman, Wang, CVPR 2018): squared distances between unit feature maps of AlexNet or
VGG-16, weighted by learnt linear heads, averaged over positions and summed over five layers.

Weights are read from a file or from installed packages; nothing is downloaded.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from plica.metrics.combine import Combinable
from plica.metrics.perceptual import unit
from plica.utils.optional import package_folder
from plica.utils.weights import read_weights
from plica.utils.whole import as_int

SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of pixels in [-1, 1], as published with the heads
VARIABLE = "PLICA_LPIPS"


@dataclass(frozen=True)
class Trunk:
    """Five stages of convolutions (key, stride, padding) with ReLU; a maximum pool (size, stride) before some."""

    file: str  # as torchvision names its weights on disk
    stages: tuple[tuple[tuple[int, int, int], ...], ...]
    pooled: tuple[int, ...]
    pool: tuple[int, int]


TRUNKS = {
    "alex": Trunk(
        "alexnet-owt-*.pth", (((0, 4, 2),), ((3, 1, 2),), ((6, 1, 1),), ((8, 1, 1),), ((10, 1, 1),)), (1, 2), (3, 2)
    ),
    "vgg": Trunk(
        "vgg16-*.pth",
        tuple(tuple((k, 1, 1) for k in keys) for keys in ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))),
        (1, 2, 3, 4),
        (2, 2),
    ),
}


@dataclass(frozen=True, eq=False)
class LPIPS(Combinable):
    """d(x, x') = sum_l mean over positions of w_l . (unit_l(x') - unit_l(x))^2, RGB images in [0, 1].

    d is the square of a distance between embeddings, so it is smooth at x' = x, and not a norm.

    Args:
        weights: a .safetensors or .pt file of a trunk (features.0.weight, ...) and heads (lin0.weight, ...); None takes
            the file that the environment variable PLICA_LPIPS names, else torchvision's trunk and the heads of the
            package lpips where both are on disk.
        net: alex or vgg.
        resize: the side to which images are first enlarged (bilinear); maps of CIFAR images are too small without, 64
            does.
    """

    weights: str | Path | None = None
    net: str = "alex"
    resize: int | None = None
    _state: dict[tuple[torch.dtype, torch.device], dict[str, Tensor]] = field(default_factory=dict, repr=False)

    p, exponent = 2, 2

    def __post_init__(self):
        if self.net not in TRUNKS:
            raise ValueError(f"LPIPS(net=...) must be one of {', '.join(TRUNKS)}, got {self.net!r}.")
        if self.resize is not None and (as_int(self.resize) or 0) < 32:
            raise ValueError(f"LPIPS(resize=...) must be a whole number of at least 32 pixels, got {self.resize!r}.")
        state = _weights(self.weights, self.net)
        for key in _keys(TRUNKS[self.net]):
            if key not in state:
                raise ValueError(f"The LPIPS weights for net={self.net!r} lack {key}; give the weights of this net.")
        if any(bool((state[f"lin{i}.weight"] < 0).any()) for i in range(5)):
            raise ValueError(
                "The LPIPS heads contain negative weights, with which LPIPS is not a distance; use those of v0.1."
            )
        self._state[torch.float32, torch.device("cpu")] = state

    def __str__(self) -> str:
        return "lpips" if self.net == "alex" else f"lpips {self.net}"

    def maps(self, x: Float[Tensor, "b *image"]) -> list[Tensor]:
        """The five feature maps, not normalised: `Perceptual(lpips.maps)` is the distance without heads."""
        if x.ndim != 4 or x.shape[1] != 3:
            raise ValueError(f"LPIPS takes RGB images (b, 3, height, width), got {tuple(x.shape)}.")
        trunk, state = TRUNKS[self.net], self._in(x)
        if self.resize is not None:
            x = F.interpolate(x, size=(self.resize, self.resize), mode="bilinear", align_corners=False)
        shift, scale = (x.new_tensor(t).view(1, 3, 1, 1) for t in (SHIFT, SCALE))
        out, x = [], (2 * x - 1 - shift) / scale
        for number, stage in enumerate(trunk.stages):
            if number in trunk.pooled:
                x = F.max_pool2d(x, *trunk.pool)
            for key, stride, padding in stage:
                x = F.conv2d(x, state[f"features.{key}.weight"], state[f"features.{key}.bias"], stride, padding).relu()
            out.append(x)
        return out

    def embed(self, x: Float[Tensor, "b *image"]) -> Float[Tensor, "b features"]:
        """phi with d(x, x') = ||phi(x') - phi(x)||_2^2."""
        state = self._in(x)
        heads = [state[f"lin{i}.weight"].sqrt() for i in range(5)]
        return torch.cat([
            (unit(m) * head).flatten(1) / math.sqrt(m[0, 0].numel())
            for m, head in zip(self.maps(x), heads, strict=True)
        ], 1)  # fmt: skip

    def __call__(self, x: Float[Tensor, "b *image"], x_adv: Float[Tensor, "b *image"]) -> Float[Tensor, " b"]:
        return (self.embed(x_adv) - self.embed(x)).square().sum(1)

    def _in(self, x: Tensor) -> dict[str, Tensor]:
        """The weights in the precision and on the device of x."""
        key = (x.dtype, x.device)
        if key not in self._state:
            state = self._state[torch.float32, torch.device("cpu")]
            self._state[key] = {name: weights.to(x) for name, weights in state.items()}
        return self._state[key]


def _keys(trunk: Trunk) -> Iterator[str]:
    for stage in trunk.stages:
        for key, _, _ in stage:
            yield from (f"features.{key}.weight", f"features.{key}.bias")
    yield from (f"lin{i}.weight" for i in range(5))


def _weights(file: str | Path | None, net: str) -> dict[str, Tensor]:
    """A state dict in float32 with the keys of `_keys`, from the file or from installed packages."""
    file = file or os.environ.get(VARIABLE)
    if file is not None:
        return {key: value.float() for key, value in read_weights(file).items()}
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    trunk = next(iter(sorted(folder.glob(TRUNKS[net].file))), None)
    package = package_folder("lpips")
    heads = package and package / "weights/v0.1" / f"{net}.pth"
    if trunk is None or heads is None or not heads.is_file():
        raise FileNotFoundError(
            f"LPIPS needs weights: give LPIPS(weights=file), or set {VARIABLE} to that file, or put torchvision's "
            f"{TRUNKS[net].file} into {folder} and pip install lpips, which brings the heads. Nothing is downloaded."
        )
    state = {key: value.float() for key, value in read_weights(trunk).items() if key.startswith("features.")}
    for key, value in read_weights(heads).items():  # named lin0.model.1.weight there
        state[f"{key.split('.')[0]}.weight"] = value.float()
    return state
