"""The twenty labelled CIFAR-10 test images inside the wheel `foolbox`; the label ends the file's name."""

import numpy as np
import torch
from jaxtyping import Float, Int64
from matplotlib.image import imread
from torch import Tensor

from plica.demo.wheels import wheel

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def images() -> tuple[Float[Tensor, "20 3 32 32"], Int64[Tensor, "20"]]:
    """Pixels in [0, 1] (multiples of 1/255) and labels.

    Raises:
        ModuleNotFoundError: the wheel with the images is not installed.
    """
    files = sorted((wheel("foolbox") / "data").glob("cifar10_*.png"))
    x = np.stack([imread(file)[..., :3] for file in files])  # (20, 32, 32, 3) in [0, 1]: imread divides by 255
    y = [int(file.stem.rpartition("_")[2]) for file in files]
    return torch.from_numpy(x).permute(0, 3, 1, 2).contiguous(), torch.tensor(y)
