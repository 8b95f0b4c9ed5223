"""Reads images between their pixels, bilinearly."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import grid_sample


def positions(x: Float[Tensor, "b c h w"]) -> tuple[Float[Tensor, "h 1"], Float[Tensor, "1 w"]]:
    """Row and column number of every pixel."""
    h, w = x.shape[2:]
    return torch.arange(h, device=x.device).to(x)[:, None], torch.arange(w, device=x.device).to(x)[None]


def sample(
    x: Float[Tensor, "b c h w"], row: Float[Tensor, "b h w"], column: Float[Tensor, "b h w"], padding: str
) -> Float[Tensor, "b c h w"]:
    """x at (row, column), in pixels from the centre of the first pixel; beyond the border by `padding`, nan at a place
    that is not finite."""
    h, w = x.shape[2:]
    grid = torch.stack([2 * column / max(w - 1, 1) - 1, 2 * row / max(h - 1, 1) - 1], -1)
    finite = grid.isfinite().all(-1)
    if not bool(finite.all()):  # the kernel reads memory that is not its own there
        grid = torch.where(finite[..., None], grid, 0)
    read = grid_sample(x, grid, mode="bilinear", padding_mode=padding, align_corners=True)
    return read.masked_fill(~finite[:, None], torch.nan)


def images(x: Tensor, name: str, channels: tuple[int, ...] | None = None) -> None:
    """Raises ValueError unless x is (b, c, h, w), c among the given channels."""
    if x.ndim != 4 or (channels is not None and x.shape[1] not in channels):
        expected = "c" if channels is None else " or ".join(str(c) for c in channels)
        raise ValueError(f"{name} needs images of shape ({expected}, height, width), got {tuple(x.shape[1:])}.")
