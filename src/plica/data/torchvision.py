"""torchvision:NAME:FOLDER, the test part of a data set in torchvision's layout in a folder; nothing is downloaded."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from PIL import Image

from plica.data.images import ImageSource
from plica.utils.messages import one_line
from plica.utils.optional import require

# arguments that select the test part; pickled files (CIFAR) are read only after torchvision has compared their digests
TEST_PARTS: dict[str, dict[str, Any]] = {
    **{name: {"train": False} for name in ("MNIST", "FashionMNIST", "KMNIST", "QMNIST", "CIFAR10", "CIFAR100")},
    **{name: {"split": "test"} for name in ("SVHN", "STL10", "GTSRB", "Food101", "Flowers102", "OxfordIIITPet", "DTD")},
    "ImageNet": {"split": "val"},
    "EuroSAT": {},
}


def open_torchvision(spec: str, allow_out_of_range: bool = False) -> ImageSource:
    """Raises ValueError, in one sentence: there is no such data set, or it is not in the folder."""
    name, _, folder = spec.removeprefix("torchvision:").partition(":")
    package = require("torchvision.datasets", spec)
    if name not in TEST_PARTS or not folder:
        raise ValueError(f"Write torchvision:NAME:FOLDER, NAME one of {', '.join(TEST_PARTS)}, not {spec}.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data_set = getattr(package, name)(folder, **TEST_PARTS[name])
    except Exception as error:
        raise ValueError(f"torchvision finds no {name} in {folder} ({one_line(error)}).") from error
    keys = ("targets", "labels", "_labels")
    labels = next((getattr(data_set, key) for key in keys if hasattr(data_set, key)), None)
    if labels is None:
        labels = [data_set[i][1] for i in range(len(data_set))]
    classes = getattr(data_set, "classes", None)
    names = [str(c) for c in classes] if isinstance(classes, list | tuple) else None

    def open_image(i: int) -> Image.Image:
        return data_set[i][0]

    return ImageSource(f"torchvision:{name}", open_image, torch.as_tensor(labels).long(), names)
