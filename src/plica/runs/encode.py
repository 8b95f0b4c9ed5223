"""Images as small as they go: those that came from 8 bits are kept in 8 bits, to the last bit the same when read."""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor


def pack(x: Float[Tensor, "b *image"]) -> Shaped[Tensor, "b *image"]:
    """uint8 where unpack gives x back exactly, else x itself."""
    if x.dtype != torch.float32 or not bool(((x >= 0) & (x <= 1)).all()):
        return x
    small = (x * 255).round().to(torch.uint8)
    return small if torch.equal(unpack(small), x) else x


def points(x_adv: Float[Tensor, "b *image"], theta: Float[Tensor, "b k"] | None) -> dict[str, Tensor]:
    """What is kept of points, by name; theta is what a perturbation made them of."""
    held = {"x_adv": x_adv} | ({} if theta is None else {"theta": theta})
    return {name: tensor.detach().cpu().contiguous() for name, tensor in held.items()}


def unpack(x: Shaped[Tensor, "b *image"]) -> Float[Tensor, "b *image"]:
    """The pixels in [0, 1] that pack was given."""
    return x.float() / 255 if x.dtype == torch.uint8 else x
