"""Which images a task of an evaluation has attacked, as follows from the images and the results of earlier tasks."""

from __future__ import annotations

from plica.runs import Run, Task
from plica.runs.check.tables import read_samples
from plica.runs.check.tensors import read_images


def attacked(run: Run, task: Task) -> set[int]:
    """The ids of the images in the task's finished chunks; for max-loss without those that an earlier method has
    broken. Empty if the run does not contain its images, or if the task has target classes."""
    plan = run.manifest.get("plan") or {}
    if "chunk" not in plan or task.target is not None:  # an image whose label is its target is not attacked
        return set()
    finished, ids = {table.name for table in run.tables[task.name]}, set[int]()
    for file in run.images:
        if file.with_suffix(".parquet").name in finished:
            ids |= set(read_images(file)["id"].tolist())
    if task.kind == "max-loss" and not plan.get("individual"):
        same = [other for other in run.tasks if (other.model, other.question) == (task.model, task.question)]
        for table in (table for other in same[: same.index(task)] for table in run.tables[other.name]):
            samples = read_samples(table, ["id", "success"])
            ids -= set(samples["id"].to_numpy()[samples["success"].to_numpy()].tolist())
    return ids
