"""A folder with a folder of images for each class."""

from pathlib import Path

import torch
from PIL import Image

from plica.data.images import ImageSource, open_encoded
from plica.utils.messages import few

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")


def open_folder(spec: str, allow_out_of_range: bool = False) -> ImageSource:
    """Classes are numbered by name, images sorted by name within their class.

    Raises:
        ValueError: there are no such folders, or no images in them.
    """
    folder = Path(spec)
    classes = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    files = [
        (file, number)
        for number, name in enumerate(classes)
        for file in sorted((folder / name).iterdir())
        if file.suffix.lower() in SUFFIXES and not file.name.startswith(".") and file.is_file()  # a pipe never ends
    ]
    if not files:
        raise ValueError(f"{folder} has no folder of images for each class (folders: {few(classes) or 'none'}).")

    def open_image(i: int) -> Image.Image:
        file = files[i][0]
        return open_encoded(file.read_bytes(), str(file.relative_to(folder)))

    return ImageSource(str(folder), open_image, torch.tensor([number for _, number in files]), classes)
