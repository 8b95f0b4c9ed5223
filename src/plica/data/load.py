"""Labelled images in any of the forms of plica.data.registry: as a source, or all at once."""

import math
from pathlib import Path

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from plica.data.checks import check_classes
from plica.data.registry import form_of
from plica.data.sample import count_images
from plica.data.source import Source
from plica.utils.limits import check_memory


def open_data(
    spec: str | Path, allow_out_of_range: bool = False, any_y: bool = False, takes_goals: bool = True
) -> Source:
    """A source for any of the forms of plica.data.registry.

    Args:
        spec: a file, a folder or a name.
        allow_out_of_range: whether floats may lie outside [0, 1].
        any_y: whether y may be anything with an entry for each image, and not only class numbers, because there is a
            goal.
        takes_goals: whether a goal could be given; errors about other y then advise it.

    Raises:
        FileNotFoundError, ValueError: one sentence that says what was wrong and what to do.
    """
    text = str(spec)
    source = form_of(text).open(text, allow_out_of_range)
    if not any_y:
        check_classes(source.labels, text, takes_goals)
    return source


def load_data(
    spec: str | Path, n: int | None = None, allow_out_of_range: bool = False, any_y: bool = False
) -> tuple[Float[Tensor, "b *image"], Shaped[Tensor, "b *label"]]:
    """float32 pixels and labels of the first `n` images, or of all; pixels lie in [0, 1] unless `allow_out_of_range`.

    Raises:
        FileNotFoundError, ValueError: as open_data; or there are fewer images, or more than fit into memory.
    """
    source = open_data(spec, allow_out_of_range, any_y)
    count = count_images(n, len(source), spec)
    check_memory(count * math.prod(source.shape), spec)
    return source.read(torch.arange(count))
