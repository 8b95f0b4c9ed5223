"""Data sets that packages know: torchvision:NAME:FOLDER, and folders that the Hugging Face's `datasets` saved."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from plica.data.images import LABELS, PictureSource, _embedded
from plica.utils.messages import few, one_line
from plica.utils.optional import require

# the test part; those whose files are pickles (CIFAR) are checked by torchvision against known digests before
TESTS: dict[str, dict[str, Any]] = {
    **{name: {"train": False} for name in ("MNIST", "FashionMNIST", "KMNIST", "QMNIST", "CIFAR10", "CIFAR100")},
    **{name: {"split": "test"} for name in ("SVHN", "STL10", "GTSRB", "Food101", "Flowers102", "OxfordIIITPet", "DTD")},
    "ImageNet": {"split": "val"},
    "EuroSAT": {},
}


def open_torchvision(text: str) -> PictureSource:
    """ "NAME:FOLDER": the test part of a data set that lies in the folder as torchvision puts it; no download.

    Raises:
        ValueError: there is no such data set, or none in the folder; one sentence.
    """
    name, _, folder = text.partition(":")
    package = require("torchvision.datasets", f"torchvision:{text}")
    if name not in TESTS or not folder:
        raise ValueError(f"Write torchvision:NAME:FOLDER, NAME one of {', '.join(TESTS)}, not torchvision:{text}.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            held = getattr(package, name)(folder, **TESTS[name])
    except Exception as error:
        raise ValueError(f"torchvision finds no {name} in {folder} ({one_line(error)}).") from error
    labels = next((getattr(held, key) for key in ("targets", "labels", "_labels") if hasattr(held, key)), None)
    if labels is None:
        labels = [held[i][1] for i in range(len(held))]
    classes = getattr(held, "classes", None)

    def one(i: int) -> Image.Image:
        return held[i][0]

    named = [str(c) for c in classes] if isinstance(classes, list | tuple) else None
    return PictureSource(f"torchvision:{name}", one, torch.as_tensor(labels).long(), named)


def is_saved(folder: Path) -> bool:
    """Whether `datasets` saved a data set, or several parts of one, there."""
    return (folder / "dataset_dict.json").is_file() or (folder / "dataset_info.json").is_file()


def open_saved(folder: Path) -> PictureSource:
    """A data set saved by `datasets`: its test part (or validation, or its only one), a picture and a label column.

    Raises:
        ValueError: the package or a column is missing, or the folder is broken; one sentence.
    """
    package = require("datasets", str(folder))
    try:
        held = package.load_from_disk(str(folder))
    except Exception as error:
        raise ValueError(f"{folder} cannot be read as a saved data set ({one_line(error, named=True)}).") from error
    if isinstance(held, dict):
        only = next(iter(held)) if len(held) == 1 else None
        part = next((name for name in ("test", "validation") if name in held), only)
        if part is None:
            raise ValueError(f"{folder} has the parts {few(held)}; give the folder of one of them.")
        held = held[part]
    pictures = [name for name, kind in held.features.items() if isinstance(kind, package.Image)]
    labels = [name for name, kind in held.features.items() if isinstance(kind, package.ClassLabel)]
    labels += [name for name in LABELS if name in held.features and name not in labels]
    if not pictures or not labels:
        raise ValueError(f"{folder} needs a column of pictures and one of labels; it has {few(held.features)}.")
    raw = held.cast_column(pictures[0], package.Image(decode=False))  # bytes, and no path is followed
    names = getattr(held.features[labels[0]], "names", None)

    def one(i: int) -> Image.Image:
        return _embedded(raw[i][pictures[0]], f"Picture {i} of {folder}")

    return PictureSource(str(folder), one, torch.tensor(held[labels[0]][:]).long(), names)
