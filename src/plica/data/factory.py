""" "file.py:dataset" or "package.module:dataset": a function of the user's that returns labelled images."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
from jaxtyping import Float, Int64
from torch import Tensor

from plica.data.arrays import ArraySource
from plica.data.checks import as_labels, as_pixels
from plica.data.source import Source
from plica.utils.factories import make
from plica.utils.messages import one_line


def open_factory(spec: str, allow_out_of_range: bool = False) -> Source:
    """Arrays (x, y), a torch data set of (image, label), or a source of the user's own.

    Raises:
        FileNotFoundError, ValueError: there is no such function, it failed, or gave something else; one sentence.
    """
    made = make(spec, "data set")
    if all(hasattr(made, name) for name in ("read", "labels", "shape")):
        return made
    if isinstance(made, tuple) and len(made) == 2:
        x, y = (np.asarray(part) for part in made)
        return ArraySource(spec, x, y, allow_out_of_range)
    if hasattr(made, "__len__") and hasattr(made, "__getitem__"):
        return DatasetSource(spec, made, allow_out_of_range)
    raise ValueError(
        f"{spec} gave an object of type {type(made).__name__}; return arrays (x, y) or a data set of (image, label)."
    )


class DatasetSource:
    """A torch data set: data_set[i] is (image, label), the image a tensor, an array or a PIL image.

    Tensors and arrays of floats are (channels, h, w), or any other shape. PIL images and arrays of uint8 are taken as
    (h, w) or (h, w, channels).

    Raises:
        ValueError: an image or a label cannot be read; one sentence.
    """

    def __init__(self, name: str, data_set: Any, allow_out_of_range: bool = False):
        self.name, self.data_set, self.allow_out_of_range = name, data_set, allow_out_of_range
        labels = getattr(data_set, "targets", None)
        labels = [self._item(i)[1] for i in range(len(data_set))] if labels is None else labels
        self.labels = as_labels(np.asarray(labels), name)
        self.shape = self._item(0)[0].shape
        classes = getattr(data_set, "classes", None)
        self.classes = [str(c) for c in classes] if isinstance(classes, list | tuple) else None

    def __len__(self) -> int:
        return len(self.labels)

    def _item(self, i: int) -> tuple[np.ndarray, Any]:
        try:
            image, label = self.data_set[i]
            x = np.asarray(image)
        except Exception as error:  # a data set may raise anything
            raise ValueError(f"Image {i} of {self.name} cannot be read: {one_line(error, named=True)}.") from error
        if x.dtype == np.uint8 and x.ndim in (2, 3) and not isinstance(image, Tensor):  # a PIL image: channels last
            x = x[None] if x.ndim == 2 else x.transpose(2, 0, 1)
        return x, label

    def hash(self) -> str:
        digest = hashlib.sha256(json.dumps([self.name, *self.shape]).encode() + self.labels.numpy().tobytes())
        for i in range(len(self)):
            try:
                digest.update(np.ascontiguousarray(self._item(i)[0]).tobytes())
            except ValueError as error:  # `read` raises it, when the image is needed
                digest.update(str(error).encode())
        return digest.hexdigest()

    def read(self, ids: Int64[Tensor, " b"]) -> tuple[Float[Tensor, "b *image"], Int64[Tensor, " b"]]:
        """Raises ValueError for images of different shapes, and for pixels as as_pixels."""
        images = [self._item(i)[0] for i in ids.tolist()]
        other = next((i for i, x in zip(ids.tolist(), images, strict=True) if x.shape != self.shape), None)
        if other is not None:
            raise ValueError(f"Image {other} of {self.name} has another shape than the first, {tuple(self.shape)}.")
        return as_pixels(np.stack(images), self.name, self.allow_out_of_range), self.labels[ids]
