"""Activations between two lines, for the audit. Lines may have any slope, and get the smallest offset with which they
are bounds.

Intervals [l, u] have one row (1, *z) or one for each row of coefficients. Lines are moved outward by a few units of
rounding. Activations that are not piecewise linear are in curves.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

TURNS = 10  # of the fixed point for a multiplier
TIED = 1e-5  # of the middles of intervals, whose roundings must not choose
MOVED = 16 * torch.finfo(torch.float64).eps  # of what makes an offset


class Lines(NamedTuple):
    """low z + low_offset <= f(z) <= up z + up_offset on [l, u]."""

    low: Tensor
    low_offset: Tensor
    up: Tensor
    up_offset: Tensor


class Around(NamedTuple):
    """Where inputs lie: l <= z <= u, at most `spread` from `centre` in l_2; one row, or one for each row of a."""

    l: Tensor
    u: Tensor
    centre: Tensor
    spread: Tensor


class Activation:
    """An activation, which acts on each entry or each window separately."""

    def value(self, z: Tensor) -> Tensor:
        raise NotImplementedError

    def interval(self, l: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """The range of an increasing function, including its rounding errors."""
        return self.value(l) - MOVED, self.value(u) + MOVED

    def is_open(self, l: Tensor, u: Tensor) -> Tensor:
        """Entries whose interval is worth tightening."""
        return u > l

    def parameters(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the numbers in [0, 1] that choose the lines, for an input of this shape."""
        return shape

    def lines(self, l: Tensor, u: Tensor, t: Tensor) -> Any:
        raise NotImplementedError

    def back(self, a: Tensor, lines: Any) -> tuple[Tensor, Tensor]:
        """Coefficients and a constant, <a, f(z)> >= <coefficients, z> + constant."""
        over, under = a.clamp(min=0), a.clamp(max=0)
        return over * lines.low + under * lines.up, (over * lines.low_offset + under * lines.up_offset).flatten(1).sum(
            1
        )

    def size(self, z: Tensor) -> Tensor:
        """At least |slope| z + |offset| of each line, where |input| <= z."""
        raise NotImplementedError

    def rounded(self, z: Tensor) -> Tensor | None:
        """Absolute values that determine the rounding error of the output, where |input| <= z; None if an output is one
        of the inputs, or 0."""
        return None


@dataclass(frozen=True)
class Relu(Activation):
    """max(z, slope z), convex for a slope of at most 1: every line through 0 with a slope between lies below."""

    slope: float = 0.0

    def __post_init__(self) -> None:
        if not self.slope <= 1:
            raise ValueError(f"leaky_relu with the slope {self.slope}")

    def value(self, z: Tensor) -> Tensor:
        return torch.maximum(z, self.slope * z)

    def interval(self, l: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        ends = self.value(l), self.value(u)
        least = torch.where(self.is_open(l, u) & (self.slope < 0), 0.0, torch.minimum(*ends))
        return least, torch.maximum(*ends)

    def is_open(self, l: Tensor, u: Tensor) -> Tensor:
        return (l < 0) & (u > 0)

    def lines(self, l: Tensor, u: Tensor, t: Tensor) -> Lines:
        bent, width = self.is_open(l, u), (u - l).clamp(min=torch.finfo(l.dtype).tiny)
        straight = torch.where(l >= 0, 1.0, torch.full_like(l, self.slope))  # two bare numbers give float32
        low = torch.where(bent, (self.slope + (1 - self.slope) * t).clamp(max=1), straight)
        up = torch.where(bent, (u - self.slope * l) / width, straight)
        offset = torch.where(bent, (1 - self.slope) * -(l * u) / width + MOVED * (u - l) * (1 + abs(self.slope)), 0.0)
        return Lines(low, torch.zeros_like(low), up, offset)

    def size(self, z: Tensor) -> Tensor:
        return 2 * (1 + abs(self.slope)) * z

    def rounded(self, z: Tensor) -> Tensor | None:
        return abs(self.slope) * z if self.slope else None

    def constant(self, a: Tensor, g: Tensor, around: Around) -> tuple[Tensor, Tensor]:
        """A lower bound of <a, f(z)> - <g, z>, and the size of its terms: for any m > 0 the least value over [l, u] of
        <a, f(z)> - <g, z> + m (|z - centre|^2 - spread^2) / 2, whose terms are parabolas on either side of 0."""
        a, g, l, u, centre = (part.flatten(1) for part in (a, g, *around[:3]))
        square = (around.spread**2)[:, None]
        corners = [torch.minimum(torch.maximum(torch.zeros_like(l), l), u), l, u]
        slopes = (torch.where(l < 0, self.slope * a - g, 0.0), torch.where(u > 0, a - g, 0.0))
        m = torch.maximum(slopes[0].abs(), slopes[1].abs()).norm(dim=1, keepdim=True) / square.sqrt().clamp(min=1e-300)
        best, size = torch.full_like(a[:, 0], -torch.inf), torch.zeros_like(a[:, 0])
        for _ in range(TURNS):
            m = m.clamp(min=1e-300)
            inner = [torch.minimum(centre - slopes[0] / m, torch.zeros_like(l)), (centre - slopes[1] / m).clamp(min=0)]
            points = [torch.minimum(torch.maximum(z, l), u).expand_as(a) for z in (*inner, *corners)]
            values = torch.stack([a * self.value(z) - g * z + m / 2 * (z - centre) ** 2 for z in points])
            least, which = values.min(0)
            value = least.sum(1) - m[:, 0] / 2 * square[:, 0]
            z = torch.stack(points).gather(0, which[None])[0]
            price = (m / 2 * (z - centre) ** 2).sum(1) + m[:, 0] / 2 * square[:, 0]
            best, size = torch.maximum(best, value), torch.where(value > best, price, size)
            free = (z > l) & (z < u) & (z != 0)
            left = square - torch.where(free, 0.0, (z - centre) ** 2).sum(1, keepdim=True)
            slope = torch.where(z < 0, *slopes)
            m = torch.where(free, slope, 0.0).norm(dim=1, keepdim=True)
            m = m / torch.maximum(left, 1e-12 * square).sqrt().clamp(min=1e-300)
        return best, size


class Planes(NamedTuple):
    """Of the inputs of each window: (r, c, k, windows), and the offset of the upper one, (r, c, windows)."""

    low: Tensor
    up: Tensor
    up_offset: Tensor


class Pool(Activation):
    """max_pool2d. Below: one input of the window. Above, mixed by t: the largest u, and L + sum_i k_i (z_i - l_i).

    L is the largest l, k_i the slope of the chord of max(z_i - L, 0).
    """

    def __init__(self, kernel: Any, stride: Any = (), padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False):
        self.ceil_mode = ceil_mode
        self.kernel, self.stride = _pair(kernel), _pair(stride or kernel)
        self.padding, self.dilation = _pair(padding), _pair(dilation)
        self.image = (0, 0)

    def value(self, z: Tensor) -> Tensor:
        self.image = (z.shape[2], z.shape[3])
        return functional.max_pool2d(z, self.kernel, self.stride, self.padding, self.dilation, self.ceil_mode)

    def parameters(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(self._windows(torch.zeros(1, *shape), 0.0).shape[i] for i in (1, 3))

    def lines(self, l: Tensor, u: Tensor, t: Tensor) -> Planes:
        low, high = self._windows(l, -torch.inf), self._windows(u, -torch.inf)
        top, floor = high.amax(2), low.amax(2, keepdim=True)
        both = low + high
        most = both.amax(2, keepdim=True)
        chosen = (both >= most - TIED * (1 + most.abs())).int().argmax(2)  # the first that is largest, or nearly so
        pick = functional.one_hot(chosen, low.shape[2]).movedim(-1, 2).to(l)
        slope = torch.where(high > floor, (high - floor) / torch.where(high > floor, high - low, 1.0), 0.0)
        at_low = (slope * torch.where(high > floor, low, 0.0)).sum(2)
        ends = (slope * torch.where(high > floor, low.abs() + high.abs(), 0.0)).sum(2)
        moved = MOVED * (top.abs() + floor[:, :, 0].abs() + ends)
        return Planes(pick, t[:, :, None] * slope, t * (floor[:, :, 0] - at_low) + (1 - t) * top + moved)

    def back(self, a: Tensor, lines: Planes) -> tuple[Tensor, Tensor]:
        flat = a.flatten(2)
        over, under = flat.clamp(min=0), flat.clamp(max=0)
        columns = (over[:, :, None] * lines.low + under[:, :, None] * lines.up).flatten(1, 2)
        (high, wide), (rows, across) = self.padding, self.image
        size = tuple(n + p + end for n, p, end in zip(self.image, self.padding, self._ends(), strict=True))
        folded = functional.fold(columns, size, self.kernel, self.dilation, 0, self.stride)
        return folded[:, :, high : high + rows, wide : wide + across], (under * lines.up_offset).flatten(1).sum(1)

    def size(self, z: Tensor) -> Tensor:
        return 4 * self._windows(z, 0.0).sum(2).view(len(z), *self.value(z).shape[1:])

    def _ends(self) -> list[int]:
        """Rows and columns beyond the end of the image that windows take in."""
        windows = self.value(torch.zeros(1, 1, *self.image)).shape[2:]
        axes = zip(windows, self.image, self.kernel, self.stride, self.padding, self.dilation, strict=True)
        return [max(p, (w - 1) * s + (k - 1) * d + 1 - p - n) for w, n, k, s, p, d in axes]

    def _windows(self, z: Tensor, fill: float) -> Tensor:
        (high, wide), (below, right) = self.padding, self._ends()
        padded = functional.pad(z, (wide, right, high, below), value=fill)
        columns = functional.unfold(padded, self.kernel, self.dilation, 0, self.stride)
        return columns.view(*z.shape[:2], -1, columns.shape[-1])


def _pair(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[-1])


ACTIVATIONS: dict[str, Any] = {
    "relu": Relu,
    "leaky_relu": lambda slope=0.01, **_: Relu(float(slope)),
    "max_pool2d_with_indices": Pool,
}
