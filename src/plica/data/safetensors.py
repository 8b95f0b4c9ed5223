"""A .safetensors file with the tensors x (n, *image) and y (n,); images are read when they are needed."""

from pathlib import Path

import torch
from jaxtyping import Float, Int64, Shaped
from safetensors import SafetensorError, safe_open
from torch import Tensor

from plica.data.checks import as_labels, as_pixels, check_shapes
from plica.utils.files import hash_file
from plica.utils.messages import one_line


class SafetensorsSource:
    """Raises ValueError, in one sentence, for a file that is broken or has no such tensors."""

    classes: list[str] | None = None

    def __init__(self, spec: str, allow_out_of_range: bool = False):
        self.file, self.allow_out_of_range = Path(spec), allow_out_of_range
        try:
            with safe_open(self.file, "pt") as tensors:
                missing = [name for name in ("x", "y") if name not in tensors.keys()]  # noqa: SIM118 - not a mapping
                if missing:
                    raise ValueError(f"{spec} has no tensor {' and no tensor '.join(missing)}; save x and y.")
                y, shape = tensors.get_tensor("y"), tuple(tensors.get_slice("x").get_shape())
        except SafetensorError as error:
            raise ValueError(f"{spec} cannot be read as safetensors ({one_line(error)}).") from error
        check_shapes(shape, tuple(y.shape), spec)
        self.shape, self.labels = shape[1:], as_labels(y.numpy(), spec)

    def __len__(self) -> int:
        return len(self.labels)

    def hash(self) -> str:
        return hash_file(self.file)

    def read(self, ids: Int64[Tensor, " b"]) -> tuple[Float[Tensor, "b *image"], Shaped[Tensor, "b *label"]]:
        """Raises ValueError for pixels that are not finite, or outside [0, 1] unless that is allowed."""
        with safe_open(self.file, "pt") as tensors:
            x = tensors.get_slice("x")
            rows = torch.cat([x[i : i + 1] for i in ids.tolist()])
        rows = rows.float() if rows.dtype == torch.bfloat16 else rows  # numpy has no bfloat16
        return as_pixels(rows.numpy(), self.file, self.allow_out_of_range), self.labels[ids]
