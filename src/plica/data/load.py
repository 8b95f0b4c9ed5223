"""Labelled images in any of the forms of plica.data.registry: as a source, or all at once."""

import math
from pathlib import Path

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from plica.data.registry import form_of
from plica.data.sample import count_images
from plica.data.source import Source
from plica.utils.limits import check_memory


def open_data(spec: str | Path, allow_out_of_range: bool = False) -> Source:
    """A source for any of the forms of plica.data.registry.

    Args:
        spec: a file, a folder or a name.
        allow_out_of_range: floats may lie outside [0, 1].

    Raises:
        FileNotFoundError, ValueError: one sentence that says what was wrong and what to do.
    """
    text = str(spec)
    return form_of(text).open(text, allow_out_of_range)


def load_data(
    spec: str | Path, n: int | None = None, allow_out_of_range: bool = False
) -> tuple[Float[Tensor, "b *image"], Int64[Tensor, " b"]]:
    """float32 pixels and labels of the first `n` images, or of all; pixels lie in [0, 1] unless `allow_out_of_range`.

    Raises:
        FileNotFoundError, ValueError: as open_data; or there are fewer images, or more than fit into memory.
    """
    source = open_data(spec, allow_out_of_range)
    count = count_images(n, len(source), spec)
    check_memory(count * math.prod(source.shape), spec)
    return source.read(torch.arange(count))
