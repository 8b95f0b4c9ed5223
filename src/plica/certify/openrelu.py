"""ReLUs for which the entries with open sign are known: only these have lines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from plica.certify.relax import ReLU


class OpenLines(NamedTuple):
    """Lines of the open entries, and what multipliers add to the coefficients of their inputs."""

    low_slope: Tensor
    low_offset: Tensor
    up_slope: Tensor
    up_offset: Tensor
    pull: Tensor


@dataclass(frozen=True, eq=False)
class OpenReLU(ReLU):
    """max(z, slope z) where the signs of all entries but some are known; bounds and lines are those of these entries
    only.

    Attributes:
        entries: the flattened entries whose sign is open.
        factor: slope of every other entry; 0 at the open ones.
    """

    entries: Int[Tensor, " n"] | None = None
    factor: Float[Tensor, "1 z"] | None = None

    def of(self, a: Float[Tensor, "r *z"]) -> Float[Tensor, "r n"]:
        assert self.entries is not None
        return a.flatten(1)[:, self.entries]

    def backward(self, a: Float[Tensor, "r *z"], lines: OpenLines) -> tuple[Tensor, Tensor]:
        assert self.entries is not None
        assert self.factor is not None
        before, constant = super().backward(self.of(a), lines)
        flat = a.flatten(1) * self.factor
        return flat.index_add_(1, self.entries, before + lines.pull).view(a.shape), constant

    def bent(self, a: Float[Tensor, "r *z"], before: Tensor, lines: OpenLines) -> tuple[Tensor, Tensor]:
        own = self.of(a)
        return own, super().backward(own, lines)[0]


@dataclass(frozen=True, eq=False)
class NonzeroReLU(OpenReLU):
    """An OpenReLU with only those outputs that are not known to be 0: the open ones, then those whose input is >= 0.

    Attributes:
        positive: the flattened entries that are >= 0.
        shape: of its input.
    """

    positive: Int[Tensor, " m"] | None = None
    shape: tuple[int, ...] = ()

    def of(self, a: Float[Tensor, "r u"]) -> Float[Tensor, "r n"]:
        assert self.entries is not None
        return a[:, : len(self.entries)]

    def forward(self, z: Tensor) -> Tensor:
        assert self.entries is not None
        assert self.positive is not None
        flat = z.flatten(1)
        return torch.cat([flat[:, self.entries].clamp(min=0), flat[:, self.positive]], 1)

    def backward(self, a: Float[Tensor, "r u"], lines: OpenLines) -> tuple[Tensor, Tensor]:
        assert self.entries is not None
        assert self.positive is not None
        before, constant = ReLU.backward(self, self.of(a), lines)
        all_entries = torch.cat([self.entries, self.positive])
        own = torch.cat([before + lines.pull, a[:, len(self.entries) :]], 1)
        flat = a.new_zeros(len(a), torch.Size(self.shape).numel())
        return flat.index_copy(1, all_entries, own).view(len(a), *self.shape), constant
