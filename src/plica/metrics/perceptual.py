"""Distances between features of a network: d(x, x') = ||phi(x') - phi(x)||_p (p = 2: Eq. 13 of "Optimizers Matter").

phi joins the feature maps of some layers, each channel vector scaled to unit length and each map divided by the square
root of its height times width, as in perceptual adversarial training (Laidlaw, Singla, Feizi, ICLR 2021).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from plica.metrics.combine import Combinable
from plica.metrics.lp import Lp, norm
from plica.utils.messages import did_you_mean

LEAST = 1e-10  # added to the length of a channel vector, so that a zero vector stays zero


@runtime_checkable
class Embedding(Protocol):
    """d(x, x') = ||embed(x') - embed(x)||_p ** exponent: what a solver needs of a metric to use its Jacobian."""

    @property
    def p(self) -> float: ...

    @property
    def exponent(self) -> int: ...

    def embed(self, x: Tensor) -> Tensor: ...

    def __call__(self, x: Tensor, x_adv: Tensor) -> Tensor: ...


@dataclass(frozen=True, eq=False)
class Perceptual(Combinable):
    """d(x, x') = ||phi(x') - phi(x)||_p, p >= 1.

    Args:
        features: (b, *image) -> list of feature maps (b, channels, *positions), or (b, channels); normalised here.
        p: of the norm, 2 if not given.
    """

    features: Callable[[Tensor], Sequence[Tensor]]
    p: float
    exponent = 1

    def __init__(self, features: Any, p: float | str = 2):
        if not callable(features):
            raise TypeError(f"Perceptual(features) takes a function of images that returns feature maps, got "
                            f"{type(features).__name__}; for layers of a network use Perceptual.of.")  # fmt: skip
        object.__setattr__(self, "features", features)
        object.__setattr__(self, "p", Lp(p).p)
        if self.p < 1:
            raise ValueError(f"Perceptual(p=...) must be at least 1, got {self.p:g}.")

    @classmethod
    def of(cls, module: Any, layers: Sequence[str], p: float | str = 2) -> Perceptual:
        """The outputs of the named layers of a network: the attacked one itself (self-bounded) or another (external).

        Names are those of module.named_modules(). The module is run in eval mode and its mode restored.
        """
        if not isinstance(module, nn.Module):
            raise TypeError(
                f"Perceptual.of takes a torch.nn.Module, got {type(module).__name__}; use Perceptual(features)."
            )
        return cls(Taps(module, layers), p)

    def __str__(self) -> str:
        return f"perceptual l{self.p:g}"

    def embed(self, x: Float[Tensor, "b *image"]) -> Float[Tensor, "b features"]:
        """phi(x)."""
        maps = self.features(x)
        if isinstance(maps, Tensor) or not all(isinstance(m, Tensor) and m.ndim > 1 for m in maps):
            raise ValueError("features(x) must return a list of tensors (b, channels, *positions).")
        return torch.cat([normalised(m) for m in maps], 1)

    def __call__(self, x: Float[Tensor, "b *image"], x_adv: Float[Tensor, "b *image"]) -> Float[Tensor, " b"]:
        return norm(self.embed(x_adv) - self.embed(x), self.p)


def unit(maps: Float[Tensor, "b c *positions"]) -> Float[Tensor, "b c *positions"]:
    """Each channel vector divided by its length; 0 stays 0, and has the gradient of a constant length there."""
    square = maps.square().sum(1, keepdim=True)
    # the root of exactly 0 has an infinite slope, and 0 times that is nan
    length = torch.where(square > 0, square, 1).sqrt() * (square > 0)
    return maps / (length + LEAST)


def normalised(maps: Float[Tensor, "b c *positions"]) -> Float[Tensor, "b features"]:
    """Unit channel vectors over the square root of the number of positions, flattened."""
    return unit(maps).flatten(1) / math.sqrt(maps[0, 0].numel())


@dataclass(frozen=True, eq=False)
class Taps:
    """The outputs of named layers of a module, in the order in which they are computed, by forward hooks.

    Float64 images are given to a copy of the module in float64, so that distances are computed in float64.
    """

    module: nn.Module
    layers: Sequence[str]
    _fine: list[nn.Module] = field(default_factory=list, repr=False)

    def __post_init__(self):
        names = [name for name, _ in self.module.named_modules() if name]
        layers = list(self.layers)
        wrong = next((name for name in layers if name not in names), None)
        if wrong is not None or not layers:
            raise ValueError(
                f"Perceptual.of(layers=...) needs names of layers, got {wrong!r}; {did_you_mean(wrong, names)}"
                f"The module has {', '.join(names[:12])}{', ...' if len(names) > 12 else ''}."
            )
        object.__setattr__(self, "layers", tuple(layers))

    def __call__(self, x: Float[Tensor, "b *image"]) -> list[Tensor]:
        module, maps = self._in_precision(x), []
        named = dict(module.named_modules())
        hooks = [named[name].register_forward_hook(lambda _, __, out: maps.append(out)) for name in self.layers]
        modes = [m for m in module.modules() if m.training]
        try:
            for m in modes:
                m.training = False
            module(x)
        finally:
            for m in modes:
                m.training = True
            for hook in hooks:
                hook.remove()
        return maps

    def _in_precision(self, x: Tensor) -> nn.Module:
        dtype = next((p.dtype for p in self.module.parameters() if p.is_floating_point()), x.dtype)
        if x.dtype != torch.float64 or dtype == x.dtype:
            return self.module
        if not self._fine:
            self._fine.append(copy.deepcopy(self.module).double())
        return self._fine[0]
