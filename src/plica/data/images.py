"""Encoded images, decoded one by one when they are needed.

Only the bytes of an image are used, never a path that a data set names, and only plain raster formats are decoded.
"""

from __future__ import annotations

import hashlib
import io
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from PIL import Image
from torch import Tensor

from plica.utils.limits import PIXELS
from plica.utils.messages import one_line

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")  # EPS, for one, would be run by a program
LABEL_COLUMNS = ("label", "labels", "fine_label", "class", "target", "y")  # names of columns of labels
GREY_MODES = ("1", "L", "LA")
FINE_MODES = ("I", "F")  # how modes of more than 8 bits begin, which a conversion to 8 would cut off
FINE_PACKED = re.compile(r";16[BLN]$")  # in the file; a 16 without the order of bytes is 5 or 6 bits for each channel
HEADERS = 16  # of images, which are read to see whether all are grey


class ImageSource:
    """Images of one size, grey if all of HEADERS evenly spaced ones are, else RGB.

    Args:
        name: stands in messages.
        open_image: i -> the i-th image, whose header was read and whose pixels were not yet decoded.
        labels: class numbers of all images.
        classes: names of the classes.

    Raises:
        ValueError: there are no images, or the first cannot be opened or is too large; one sentence.
    """

    def __init__(
        self,
        name: str,
        open_image: Callable[[int], Image.Image],
        labels: Int64[Tensor, " n"],
        classes: list[str] | None = None,
    ):
        if not len(labels):
            raise ValueError(f"{name} contains no images; give data with at least one.")
        self.name, self.open_image, self.labels, self.classes = name, open_image, labels, classes
        first = open_image(0)
        some = range(0, len(labels), -(-len(labels) // HEADERS))
        self.size, self.mode = first.size, "L" if all(map(self._is_grey, some)) else "RGB"
        if first.size[0] * first.size[1] > PIXELS:
            raise ValueError(f"The first image of {name} has {first.size[0]} x {first.size[1]} pixels, too many.")
        self.shape = (1 if self.mode == "L" else 3, self.size[1], self.size[0])

    def __len__(self) -> int:
        return len(self.labels)

    def hash(self) -> str:
        digest = hashlib.sha256(repr((self.name, self.shape)).encode())
        digest.update(self.labels.numpy().tobytes())
        for i in range(len(self)):
            try:
                digest.update(self._pixels(i).tobytes())
            except ValueError as error:  # `read` raises it, when the image is needed
                digest.update(str(error).encode())
        return digest.hexdigest()

    def read(self, ids: Int64[Tensor, " b"]) -> tuple[Float[Tensor, "b *image"], Int64[Tensor, " b"]]:
        """Pixels in [0, 1] and labels.

        Raises:
            ValueError: an image is broken, has another size than the first, or more than 8 bits per channel.
        """
        x = torch.from_numpy(np.stack([self._pixels(i) for i in ids.tolist()]))
        return x.float() / 255, self.labels[ids]

    def _is_grey(self, i: int) -> bool:
        try:
            return self.open_image(i).mode in GREY_MODES
        except (OSError, ValueError):  # `read` raises it, when the image is needed
            return True

    def _pixels(self, i: int) -> np.ndarray:
        image = self.open_image(i)
        if image.size != self.size:  # before decoding: an image may unfold to anything
            own, first = (f"{size[0]} x {size[1]}" for size in (image.size, self.size))
            raise ValueError(f"Image {i} of {self.name} has {own} pixels and the first {first}; make them one size.")
        if _is_fine(image):
            raise ValueError(
                f"Image {i} of {self.name} has more than 8 bits a channel (mode {image.mode}); save 8 bits, or floats "
                "in [0, 1] as arrays."
            )
        try:
            pixels = np.array(image.convert(self.mode), dtype=np.uint8)
        except Exception as error:  # decoders raise all sorts of things
            raise ValueError(f"Image {i} of {self.name} cannot be read ({one_line(error)}).") from error
        return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _is_fine(image: Image.Image) -> bool:
    """Whether a channel has more than 8 bits in the file; of several channels Pillow keeps the upper 8."""
    if image.mode.startswith(FINE_MODES):
        return True
    for tile in getattr(image, "tile", []):  # how the decoder unpacks the file: a mode, or a tuple that begins with one
        mode, *more = tile[3] if isinstance(tile[3], tuple) else (tile[3],)
        if FINE_PACKED.search(str(mode)) or (tile[0] == "ppm" and more[0] > 255):
            return True
    return False


def open_encoded(content: bytes | Path, name: str) -> Image.Image:
    """An image whose header was read and whose pixels were not decoded yet.

    Raises:
        ValueError: it is not an image, or is too large to be valid.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            return Image.open(io.BytesIO(content) if isinstance(content, bytes) else content, formats=FORMATS)
    except Exception as error:
        raise ValueError(f"{name} is not an image that can be read ({one_line(error, named=True)}).") from error


def open_embedded(value: Any, name: str) -> Image.Image:
    """An image from its bytes, or from a record with "bytes"; a path beside them is never followed.

    Raises:
        ValueError: there are no bytes, or they are not an image.
    """
    content = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(content, bytes):
        raise ValueError(f"{name} is not in the file itself; save the data set with its images embedded.")
    return open_encoded(content, name)
