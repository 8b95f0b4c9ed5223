"""Standard augmentation of images (b, c, h, w): a random crop after padding by an eighth, and a random flip."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

PADDED = 8  # sides to a padding: 4 pixels of 32


def augmented(x: Float[Tensor, "b c h w"], generator: torch.Generator, low: float = 0.0) -> Float[Tensor, "b c h w"]:
    """Images with new crops and flips, drawn from a CPU generator. Padding has the value `low`."""
    b, _, h, w = x.shape
    rows, columns = h // PADDED, w // PADDED
    top = torch.randint(2 * rows + 1, (b,), generator=generator)
    left = torch.randint(2 * columns + 1, (b,), generator=generator)
    flipped = torch.rand(b, generator=generator, dtype=torch.float32) < 0.5
    wide = pad(x, (columns, columns, rows, rows), value=low)
    across = torch.arange(w).expand(b, w)
    across = left[:, None] + torch.where(flipped[:, None], across.flip(1), across)
    down = top[:, None] + torch.arange(h)
    image = torch.arange(b)[:, None, None]
    return wide.permute(0, 2, 3, 1)[image, down[:, :, None], across[:, None, :]].permute(0, 3, 1, 2).contiguous()
