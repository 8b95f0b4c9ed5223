"""Labelled images of any form as a source that is read in parts, so that the images need not fit into memory."""

from typing import Protocol, runtime_checkable

from jaxtyping import Float, Int64, Shaped
from torch import Tensor


@runtime_checkable
class Source(Protocol):
    """Labelled images of one shape (*image).

    Attributes:
        shape: of one image.
        labels: class numbers of all images, (n,); for other goals whatever belongs to them, (n, ...).
        classes: names of the classes, where the data set has them.
    """

    shape: tuple[int, ...]
    labels: Shaped[Tensor, "n *label"]
    classes: list[str] | None

    def __len__(self) -> int: ...

    def hash(self) -> str:
        """A hexadecimal digest of the whole content, by which data sets are distinguished."""
        ...

    def read(self, ids: Int64[Tensor, " b"]) -> tuple[Float[Tensor, "b *image"], Shaped[Tensor, "b *label"]]:
        """Pixels and labels of these images.

        Raises:
            ValueError, OSError: one of them cannot be read; in one sentence.
        """
        ...
