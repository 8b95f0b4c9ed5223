"""A run on disk, whoever wrote it: `load(directory)` gives its tasks, samples, points and images::

    DIR/manifest.json                  plan, hashes of plan, models and data, versions
    DIR/bounds.safetensors             low, high, mask of the features, where they are not pixels in [0, 1]
    DIR/inputs/00000.safetensors       per chunk of images: x, y, id, as they were attacked
    DIR/parts/TASK/00000.parquet       per chunk and task, one row per image; TASK is one model, question and method
    DIR/parts/TASK/00000.safetensors   x_adv and id of those rows whose point is not the image itself; theta, where a
                                       perturbation made x_adv of it
    DIR/summary.json                   accuracies, radii, unions

The older directory of `plica radius` and `plica attack` is read as a run with one task.
"""

from plica.core.bounds import Bounds
from plica.runs.read import Run, load
from plica.runs.task import Task

__all__ = ["Bounds", "Run", "Task", "load"]
