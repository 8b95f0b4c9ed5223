"""An independent bound of the difference between a step of a network as it runs in float32 and in real arithmetic.

The sum of n products, added in any order, has an error of at most n u / (1 - n u) times the sum of their absolute
values, u = 2^-24. This holds for direct sums on a CPU, rounded to nearest; subnormal results may be flushed to 0.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

UNIT = 2.0**-24
FURTHER = 12  # roundings beyond the terms: of the constants of a batch normalisation, of a sigmoid
LARGER = 1 + 1e-7  # what is below is computed in float64
EXACT = {
    "alias", "cat", "clone", "detach", "expand", "flip", "index_select", "lift_fresh_copy", "neg", "permute",
    "pixel_shuffle", "pixel_unshuffle", "reflection_pad1d", "reflection_pad2d", "repeat", "replication_pad1d",
    "replication_pad2d", "reshape", "roll", "select", "slice", "split", "split_with_sizes", "squeeze", "stack",
    "transpose", "unbind", "unsqueeze", "upsample_nearest2d", "view", "_unsafe_view",
}  # fmt: skip


def terms(name: str, args: Any, kwargs: Any, before: tuple[int, ...], after: tuple[int, ...]) -> int:
    """The number of terms in one output of a torch operation, for operands of these shapes; 0 if outputs are inputs,
    possibly with the opposite sign."""
    if name in EXACT:
        return 0
    if name == "_to_copy":
        return int(kwargs.get("dtype") is not None)
    if name == "constant_pad_nd":
        return int(bool(args[2:] and args[2]))
    if name in ("mean", "sum"):
        return math.prod(before) // max(1, math.prod(after))
    if name == "avg_pool2d":
        return math.prod([args[1]] * 2 if isinstance(args[1], int) else list(args[1]) * (3 - len(args[1])))
    if name == "_adaptive_avg_pool2d":
        return math.prod(min(n, -(-n // m) + 1) for n, m in zip(before[-2:], after[-2:], strict=True))
    if name == "convolution":
        weight, transposed, groups = args[1], args[6], args[8]
        return weight[:, 0].numel() // groups if transposed else weight[0].numel()
    if name == "linear":
        return args[1].shape[1]
    if name in ("addmm", "bmm", "matmul", "mm"):
        first, second = args[-2:]
        return second.shape[-2] if isinstance(second, Tensor) else first.shape[-1]
    return 2  # sums, differences, products and quotients of two numbers


def error(n: int, size: Tensor) -> Tensor:
    """The rounding error of sums of n terms, or of their means, where `size` is the sum of absolute values; inf if the
    sum may overflow."""
    n = n + FURTHER
    if n * UNIT >= 0.5:
        return torch.full_like(size, torch.inf)
    most, least = torch.finfo(torch.float32).max, torch.finfo(torch.float32).tiny
    return torch.where(n * size < most / 4, n * UNIT / (1 - n * UNIT) * LARGER * size + 2 * n * least, torch.inf)
