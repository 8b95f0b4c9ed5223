"""Images and labels in two arrays, from any kind of file."""

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

from plica.data.checks import as_labels, as_pixels, check_shapes


class ArraySource:
    """Images x (n, *image) and labels y (n,), in memory or in files mapped into it.

    Args:
        name: stands in messages.
        x: an array, or what has its shape and gives the images of these ids as one, x[ids].
        allow_out_of_range: pixels may lie outside [0, 1].
        content_hash: a digest of the content, where there is a cheaper one than that of the arrays.
    """

    classes: list[str] | None = None

    def __init__(
        self,
        name: str,
        x: Any,
        y: np.ndarray,
        allow_out_of_range: bool = False,
        content_hash: Callable[[], str] | None = None,
    ):
        check_shapes(x.shape, y.shape, name)
        self.name, self.x, self.labels = name, x, as_labels(y, name)
        self.shape = x.shape[1:]
        self.allow_out_of_range = allow_out_of_range
        self.hash = content_hash or self._hash

    def __len__(self) -> int:
        return len(self.labels)

    def _hash(self) -> str:
        digest = hashlib.sha256(repr((self.shape, self.x.dtype.str)).encode() + self.labels.numpy().tobytes())
        for start in range(0, len(self.x), 256):
            digest.update(np.ascontiguousarray(self.x[start : start + 256]).tobytes())
        return digest.hexdigest()

    def read(self, ids: Int64[Tensor, " b"]) -> tuple[Float[Tensor, "b *image"], Shaped[Tensor, "b *label"]]:
        """Raises ValueError for pixels that are not finite, or outside [0, 1] unless that is allowed."""
        x = np.ascontiguousarray(self.x[ids.numpy()])
        return as_pixels(x, self.name, self.allow_out_of_range), self.labels[ids]
