"""The directory of `plica radius` and `plica attack`, which is complete or does not exist.

`schema.SINGLE` lists its files. They are written into a temporary folder beside it and moved when all are complete,
summary.json last.
"""

import json
import os
import platform
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from jaxtyping import Float, Int64, Shaped
from safetensors.torch import save
from torch import Tensor

from plica.core.domain.bounds import Bounds
from plica.core.result import Result
from plica.runs.encode import pack, sample_table
from plica.runs.points import point_tensors
from plica.runs.schema import BOUNDS, INPUTS, MANIFEST, PICTURE, POINTS, SAMPLES, SUMMARY
from plica.utils.files import LOCK, filled_together

FILES = (SAMPLES, POINTS, INPUTS, PICTURE, SUMMARY)  # of every such run
QUANTILES = (0.0, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 1.0)


def save_run(
    directory: str | Path,
    x: Float[Tensor, "b *image"],
    y: Shaped[Tensor, "b *label"],
    result: Result,
    arguments: Mapping[str, Any],
    elapsed: float,
    classes: Sequence[str] | None = None,
    overwrite: bool = False,
    ids: Int64[Tensor, " b"] | None = None,
    bounds: Bounds | None = None,
    draw: Callable[..., None] | None = None,
    targets: Int64[Tensor, " b"] | None = None,
) -> dict[str, Any]:
    """Write a result, and return the summary that was written.

    Args:
        directory: a new one, or an empty one.
        x: the images that were attacked.
        y: their labels.
        result: of the attack.
        arguments: stored in summary.json; load reads metric, method, model, radius, loss and through from them.
        elapsed: wall time in seconds.
        classes: their names.
        overwrite: replace an earlier run in the directory.
        ids: the images' rows in the data, 0, 1, 2, ... if not given.
        bounds: where features may move, [0, 1] if not given.
        draw: makes perturbations.png, called as plica.plot.perturbations.draw_perturbations is; no picture if None.
        targets: the only class that counts as a success, for each image; None for any other class than y.

    Raises:
        FileExistsError: the directory is not empty, and `overwrite` is false or there is no run to replace.
        NotADirectoryError, PermissionError: it is a file, or cannot be written to.
        OSError: the disk is full, or the directory cannot be written to; no file is left behind.
    """
    directory = Path(directory)
    check_directory(directory, overwrite)
    summary = summarise(result, arguments, elapsed) | ({"classes": list(classes)} if classes else {})
    with filled_together(directory, SUMMARY, stale=(SUMMARY, PICTURE, BOUNDS)) as folder:
        pq.write_table(
            sample_table(result, torch.arange(len(y)) if ids is None else ids, y), (folder / SAMPLES).absolute()
        )
        # serialised first, written by Python: safetensors' own writer hides which system error it met
        (folder / POINTS).write_bytes(save(point_tensors(result.x_adv, result.theta, ids)))
        images = {"x": pack(x.detach().cpu()).contiguous(), "y": y.cpu().contiguous()}
        images |= {} if ids is None else {"id": ids.cpu().contiguous()}
        images |= {} if targets is None else {"targets": targets.cpu().contiguous()}
        (folder / INPUTS).write_bytes(save(images))
        if draw is not None:
            pixels, points = (t if bounds is None else bounds.to_pixels(t) for t in (x, result.x_adv))
            draw(folder / PICTURE, pixels, y, {_title(arguments): replace(result, x_adv=points)}, classes)
        if bounds is not None and not bounds.is_default:
            (folder / BOUNDS).write_bytes(bounds.packed())
        (folder / SUMMARY).write_text(json.dumps(summary, indent=2, allow_nan=False) + "\n")
    return summary


def _title(arguments: Mapping[str, Any]) -> str:
    """Metric and perturbation as the picture names them: "l2", "l2 flow", "flow"."""
    metric, through = str(arguments.get("metric", "d")), str(arguments.get("through") or "")
    return through if through and metric == "theta" else f"{metric} {through}".strip()


def check_directory(directory: str | Path, overwrite: bool = False) -> None:
    """Check, before any work, that a run can be written to a directory.

    Raises:
        FileExistsError, NotADirectoryError, PermissionError: it cannot.
    """
    directory = Path(directory)
    existing = next(folder for folder in (directory, *directory.absolute().parents) if folder.exists())
    if not existing.is_dir():
        raise NotADirectoryError(f"{existing} is a file; give a new directory for the results.")
    entries = {entry.name for entry in directory.iterdir()} - {LOCK} if existing == directory else set()
    if entries:
        if not overwrite:
            raise FileExistsError(f"{directory} is not empty; give a new directory, or --overwrite to replace a run.")
        if not entries & set(FILES) or MANIFEST in entries:  # of plica evaluate
            raise FileExistsError(f"{directory} holds no run that could be replaced; give a new directory.")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise PermissionError(f"{existing} cannot be written to; give another directory for the results.")


def summarise(result: Result, arguments: Mapping[str, Any], elapsed: float) -> dict[str, Any]:
    """The content of summary.json. A radius is null where no point was found; "robust_accuracy" needs a "radius"."""
    wrong = result.success & (result.distance == 0)  # misclassified unperturbed: distance 0, by definition
    robust = {} if arguments.get("radius") is None else {"robust_accuracy": 1 - float(result.success.double().mean())}
    return {
        "arguments": dict(arguments),
        "versions": versions(),
        "dtype": str(result.x_adv.dtype).removeprefix("torch."),
        "images": len(result.success),
        "accuracy": 1 - float(wrong.double().mean()),
        **robust,
        "radius": quantiles(result.distance.cpu().numpy()),
        "status": {
            status.name: {"images": count, "means": str(status.value)}
            for status, count in Counter(result.status).most_common()
        },
        "gradients": int(result.gradients.sum()),
        "forwards": int(result.forwards.sum()),
        "seconds": round(elapsed, 3),
    }


def quantiles(distance: np.ndarray) -> dict[str, float | None]:
    """For each fraction the smallest radius within which that fraction of all images is misclassified."""
    if not len(distance):
        return {f"{q:g}": None for q in QUANTILES}
    # inverted_cdf takes no means, which would make a finite and an infinite distance infinite
    values = np.quantile(distance, QUANTILES, method="inverted_cdf")
    return {f"{q:g}": float(value) if np.isfinite(value) else None for q, value in zip(QUANTILES, values, strict=True)}


def versions() -> dict[str, Any]:
    """Versions and settings that the numbers may depend on beside the arguments."""
    return {name: _version(name) for name in ("plica", "torch", "numpy")} | {
        "python": platform.python_version(),
        "system": platform.platform(),
        "threads": torch.get_num_threads(),
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None  # run from a source tree that was never installed
