"""A folder in which `datasets` of Hugging Face saved a data set, or several parts of one."""

from pathlib import Path

import torch
from PIL import Image

from plica.data.images import LABEL_COLUMNS, ImageSource, open_embedded
from plica.utils.messages import few, one_line
from plica.utils.optional import require


def is_saved(spec: str) -> bool:
    return any((Path(spec) / name).is_file() for name in ("dataset_dict.json", "dataset_info.json"))


def open_saved(spec: str, allow_out_of_range: bool = False) -> ImageSource:
    """Its test part (or validation, or its only one), a column of images and one of labels.

    Raises:
        ValueError: the package or a column is missing, or the folder is broken; one sentence.
    """
    package = require("datasets", spec)
    try:
        data_set = package.load_from_disk(spec)
    except Exception as error:
        raise ValueError(f"{spec} cannot be read as a saved data set ({one_line(error, named=True)}).") from error
    if isinstance(data_set, dict):
        only = next(iter(data_set)) if len(data_set) == 1 else None
        part = next((name for name in ("test", "validation") if name in data_set), only)
        if part is None:
            raise ValueError(f"{spec} has the parts {few(data_set)}; give the folder of one of them.")
        data_set = data_set[part]
    columns = data_set.features
    images = [name for name, kind in columns.items() if isinstance(kind, package.Image)]
    labels = [name for name, kind in columns.items() if isinstance(kind, package.ClassLabel)]
    labels += [name for name in LABEL_COLUMNS if name in columns and name not in labels]
    if not images or not labels:
        raise ValueError(f"{spec} needs a column of images and one of labels; it has {few(columns)}.")
    raw = data_set.cast_column(images[0], package.Image(decode=False))  # bytes, and no path is followed
    names = getattr(columns[labels[0]], "names", None)

    def open_image(i: int) -> Image.Image:
        return open_embedded(raw[i][images[0]], f"Image {i} of {spec}")

    return ImageSource(str(Path(spec)), open_image, torch.tensor(data_set[labels[0]][:]).long(), names)
