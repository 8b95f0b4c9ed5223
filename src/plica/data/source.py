"""What each form of labelled images becomes: a source, read in parts, so that the images need not fit into memory."""

from typing import Protocol, runtime_checkable

from jaxtyping import Float, Int64
from torch import Tensor


@runtime_checkable
class Source(Protocol):
    """Labelled images of one shape (*image).

    Attributes:
        shape: of one image.
        labels: class numbers of all images, (n,).
        classes: names of the classes, where the data set has them.
    """

    shape: tuple[int, ...]
    labels: Int64[Tensor, " n"]
    classes: list[str] | None

    def __len__(self) -> int: ...

    def hash(self) -> str:
        """A hexadecimal digest of the whole content: it tells one data set from another."""
        ...

    def read(self, ids: Int64[Tensor, " b"]) -> tuple[Float[Tensor, "b *image"], Int64[Tensor, " b"]]:
        """Pixels and labels of these images.

        Raises:
            ValueError, OSError: one of them cannot be read; in one sentence.
        """
        ...
