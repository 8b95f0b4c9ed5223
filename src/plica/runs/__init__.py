"""A run on disk: `load(directory)` returns its tasks, samples, points and images::

    DIR/manifest.json                  plan, hashes of plan, models and data, versions
    DIR/bounds.safetensors             low, high, mask of the features, where they are not pixels in [0, 1]
    DIR/inputs/00000.safetensors       per chunk of images: x, y, id, as they were attacked
    DIR/parts/TASK/00000.parquet       per chunk and task, a row per image; TASK is one model, question and method
    DIR/parts/TASK/00000.safetensors   x_adv and id of the rows whose point is not the image itself; theta, where
                                       x_adv = T(x, theta)
    DIR/parts/TASK/leaves-00000.parquet   what proves the lower bounds of those rows, where the plan asks for such
    DIR/summary.json                   accuracies, radii, unions

The directory of `plica radius` and `plica attack` is read as a run with one task.
"""

from plica.core.domain.bounds import Bounds
from plica.runs.read import Run, load
from plica.runs.task import Task

__all__ = ["Bounds", "Run", "Task", "load"]
