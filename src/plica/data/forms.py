"""The forms of labelled images beside .npz, each as a source that is read image by image."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from safetensors import SafetensorError, safe_open
from torch import Tensor

from plica.data.checks import as_labels, as_pixels
from plica.data.images import open_folder, open_parquet
from plica.data.packaged import is_saved, open_saved, open_torchvision
from plica.utils.factories import make
from plica.utils.files import hash_file
from plica.utils.messages import one_line

FORMS = (
    ".npz or .safetensors with x and y; x.npy,y.npy or a folder with both; a folder with a folder of pictures for each "
    "class; .parquet with pictures; torchvision:NAME:FOLDER; a folder saved by datasets; file.py:dataset"
)


def open_form(spec: str | Path, free: bool = False) -> Any:
    """A source for every form but .npz; None for what is, or should be, an .npz file. `free`: floats need not lie in
    [0, 1].

    Raises:
        FileNotFoundError, ValueError: one sentence.
    """
    source = _form(spec)
    if source is not None and hasattr(source, "free"):
        source.free = free
    return source


def _form(spec: str | Path) -> Any:
    text, path = str(spec), Path(spec)
    if text.startswith("torchvision:"):
        return open_torchvision(text.removeprefix("torchvision:"))
    if path.is_dir():
        if (path / "x.npy").is_file():
            return open_npy(path / "x.npy", path / "y.npy")
        return open_saved(path) if is_saved(path) else open_folder(path)
    if path.suffix == ".npy" and "," in text:
        x, _, y = text.partition(",")
        return open_npy(Path(x), Path(y))
    if ":" in text and not path.exists() and path.suffix != ".npz":
        return open_factory(text)
    if path.suffix in (".safetensors", ".parquet"):
        if not path.is_file():
            raise FileNotFoundError(f"There is no file {path}; data are one of: {FORMS}.")
        return TensorSource(path) if path.suffix == ".safetensors" else open_parquet(path)
    return None


class ArraySource:
    """Images in an array, which may be a file mapped into memory."""

    classes: list[str] | None = None
    free = False

    def __init__(self, name: str, x: np.ndarray, y: np.ndarray):
        if x.ndim < 2 or not len(x) or y.shape != x.shape[:1]:
            raise ValueError(f"{name} holds images {x.shape} and labels {y.shape}; they must be (n, *image) and (n,).")
        self.name, self.x, self.labels, self.shape = name, x, as_labels(y, name), x.shape[1:]

    def __len__(self) -> int:
        return len(self.labels)

    def hash(self) -> str:
        digest = hashlib.sha256(repr((self.shape, self.x.dtype.str)).encode() + self.labels.numpy().tobytes())
        for at in range(0, len(self.x), 256):
            digest.update(np.ascontiguousarray(self.x[at : at + 256]).tobytes())
        return digest.hexdigest()

    def read(self, ids: Int64[Tensor, " b"]) -> tuple[Float[Tensor, "b *image"], Int64[Tensor, " b"]]:
        """Raises ValueError for pixels outside [0, 1]."""
        return as_pixels(np.ascontiguousarray(self.x[ids.numpy()]), self.name, self.free), self.labels[ids]


def open_npy(x: Path, y: Path) -> ArraySource:
    """Two .npy files; the images are mapped, not read.

    Raises:
        FileNotFoundError, ValueError: one is missing, broken, or holds Python objects.
    """
    arrays = []
    for file in (x, y):
        if not file.is_file():
            raise FileNotFoundError(f"There is no file {file}; give x.npy,y.npy or a folder that holds both.")
        try:
            arrays.append(np.load(file, mmap_mode="r", allow_pickle=False))
        except (ValueError, OSError, EOFError) as error:
            said = (
                "it holds Python objects, which are refused"
                if "pickle" in str(error) or "objects" in str(error)
                else one_line(error)
            )
            raise ValueError(f"{file} cannot be read as an array ({said}).") from error
    return ArraySource(str(x), *arrays)


class TensorSource:
    """A .safetensors file with x (n, *image) and y (n,); slices are read when they are asked for."""

    classes: list[str] | None = None
    free = False

    def __init__(self, file: Path):
        self.file = file
        try:
            with safe_open(file, "pt") as held:
                missing = [name for name in ("x", "y") if name not in held.keys()]  # noqa: SIM118 - no mapping
                if missing:
                    raise ValueError(f"{file} has no tensor {' and no tensor '.join(missing)}; save x and y.")
                y, self.shape = held.get_tensor("y"), tuple(held.get_slice("x").get_shape()[1:])
                rows = held.get_slice("x").get_shape()[0]
        except SafetensorError as error:
            raise ValueError(f"{file} cannot be read as safetensors ({one_line(error)}).") from error
        if y.shape != (rows,) or not self.shape or not rows:
            raise ValueError(f"{file} holds {rows} images {self.shape} and labels {tuple(y.shape)}; one label each.")
        self.labels = as_labels(y.numpy(), file)

    def __len__(self) -> int:
        return len(self.labels)

    def hash(self) -> str:
        return hash_file(self.file)

    def read(self, ids: Int64[Tensor, " b"]) -> tuple[Float[Tensor, "b *image"], Int64[Tensor, " b"]]:
        """Raises ValueError for pixels outside [0, 1]."""
        with safe_open(self.file, "pt") as held:
            x = held.get_slice("x")
            rows = torch.cat([x[i : i + 1] for i in ids.tolist()])
        rows = rows.float() if rows.dtype == torch.bfloat16 else rows
        return as_pixels(rows.numpy(), self.file, self.free), self.labels[ids]


def open_factory(spec: str) -> Any:
    """ "file.py:dataset" or "package.module:dataset": arrays (x, y), a torch data set of (image, label), or a source.

    Raises:
        FileNotFoundError, ValueError: there is no such function, it failed, or gave something else; one sentence.
    """
    made = make(spec, "data set")
    if all(hasattr(made, name) for name in ("read", "labels", "shape")):
        return made
    if isinstance(made, tuple) and len(made) == 2:
        return ArraySource(spec, *(np.asarray(part) for part in made))
    if hasattr(made, "__len__") and hasattr(made, "__getitem__"):
        return DatasetSource(spec, made)
    raise ValueError(f"{spec} gave a {type(made).__name__}; return arrays (x, y) or a data set of (image, label).")


class DatasetSource:
    """A torch data set: held[i] is (image, label), the image a tensor or an array of pixels in [0, 1], or a picture."""

    free = False

    def __init__(self, name: str, held: Any):
        self.name, self.held = name, held
        labels = getattr(held, "targets", None)
        labels = [self._one(i)[1] for i in range(len(held))] if labels is None else labels
        self.labels = as_labels(np.asarray(labels), name)
        self.shape = self._one(0)[0].shape
        classes = getattr(held, "classes", None)
        self.classes = [str(c) for c in classes] if isinstance(classes, list | tuple) else None

    def __len__(self) -> int:
        return len(self.labels)

    def _one(self, i: int) -> tuple[np.ndarray, Any]:
        try:
            x, y = self.held[i]
            x = np.asarray(x)
        except Exception as error:  # whatever a user's data set raises
            raise ValueError(f"Image {i} of {self.name} cannot be had: {one_line(error, named=True)}.") from error
        grey_or_rgb = x.dtype == np.uint8 and x.ndim in (2, 3) and not isinstance(self.held[i][0], Tensor)
        if grey_or_rgb:  # a picture, channels last
            x = x[None] if x.ndim == 2 else x.transpose(2, 0, 1)
        return x, y

    def hash(self) -> str:
        digest = hashlib.sha256(json.dumps([self.name, *self.shape]).encode() + self.labels.numpy().tobytes())
        for i in range(len(self)):
            try:
                digest.update(np.ascontiguousarray(self._one(i)[0]).tobytes())
            except ValueError as error:
                digest.update(str(error).encode())
        return digest.hexdigest()

    def read(self, ids: Int64[Tensor, " b"]) -> tuple[Float[Tensor, "b *image"], Int64[Tensor, " b"]]:
        """Raises ValueError for images of different shapes, and pixels outside [0, 1]."""
        images = [self._one(i)[0] for i in ids.tolist()]
        odd = next((i for i, x in zip(ids.tolist(), images, strict=True) if x.shape != self.shape), None)
        if odd is not None:
            raise ValueError(f"Image {odd} of {self.name} has another shape than the first, {tuple(self.shape)}.")
        return as_pixels(np.stack(images), self.name, self.free), self.labels[ids]
