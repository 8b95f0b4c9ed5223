"""Images and perturbations as data URIs, small enough that hundreds fit into one page."""

from __future__ import annotations

import base64
import io

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, features
from torch import Tensor

SIDE = 96  # pixels: larger images are made smaller
QUALITY = 85  # of images; perturbations, of 33 colours, are compressed without loss
LEVELS = 16  # of each sign
WEBP = features.check("webp")


def is_image(shape: tuple[int, ...]) -> bool:
    """Whether a shape has a height, a width and one or three channels."""
    return (len(shape) == 3 and shape[0] in (1, 3)) or len(shape) == 2


def image_uri(x: Float[Tensor, " *image"]) -> str:
    """An image with pixels in [0, 1]."""
    pixels = x.detach().float().cpu().numpy()
    pixels = np.moveaxis(pixels, 0, 2) if pixels.ndim == 3 else pixels
    eight = (pixels.clip(0, 1) * 255).round().astype(np.uint8)
    picture = Image.fromarray(eight[..., 0] if eight.ndim == 3 and eight.shape[2] == 1 else eight).convert("RGB")
    picture.thumbnail((SIDE, SIDE))
    return _uri(picture, quality=QUALITY)


def perturbation_uri(delta: Float[Tensor, " *image"]) -> tuple[str, float]:
    """A picture of delta, red where a pixel is raised and blue where it is lowered, and its magnification.

    Of the channels of a pixel the one that changed most is shown; the largest may saturate (plot.perturbations.scale).
    """
    from plica.plot.perturbations import SIGNED, scale, signed  # not above: see cli/app.py

    change = signed(delta)
    full = scale(change)
    levels = _shrunk(change / full)
    picture = Image.fromarray(levels)
    colours = SIGNED(np.linspace(0, 1, 2 * LEVELS + 1))[:, :3]
    picture.putpalette((255 * colours + 0.5).astype(np.uint8).tobytes())
    return _uri(picture.convert("RGB"), lossless=True), float(f"{1 / full:.2g}")


def _shrunk(unit: Float[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h2 w2"]:
    """Levels 0 to 2 LEVELS; of a large perturbation every k-th row and column is taken, as means would cancel."""
    step = -(-max(unit.shape) // (2 * SIDE))
    return np.clip(np.rint(unit[::step, ::step] * LEVELS) + LEVELS, 0, 2 * LEVELS).astype(np.uint8)


def _uri(picture: Image.Image, **how) -> str:
    memory, kind = io.BytesIO(), "webp" if WEBP else "png"
    picture.save(memory, kind, **(how | {"method": 4} if WEBP else {"optimize": True}))
    return f"data:image/{kind};base64,{base64.b64encode(memory.getvalue()).decode()}"
