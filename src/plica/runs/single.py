"""A run on disk: one directory that is whole or not there.

    samples.parquet     one row per image: what was found and what it cost
    x_adv.safetensors   the points, "x_adv" (b, *image); with a perturbation T also "theta" (b, k), x_adv = T(x, theta)
    inputs.safetensors  the images and labels, "x" and "y", so that the run can be read anywhere
    perturbations.png   a picture of them
    summary.json        versions, arguments, accuracy, quantiles of the radius; written last, so it marks a whole run

Everything is written beside its place and moved there when all of it is complete.
"""

import json
import os
import platform
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Float, Int64
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from plica.core.result import Result
from plica.data.bounds import FILE, Bounds
from plica.runs.encode import pack, points
from plica.runs.read import SAMPLES
from plica.utils.files import filled_together
from plica.utils.messages import one_line

FILES = ("samples.parquet", "x_adv.safetensors", "inputs.safetensors", "perturbations.png", "summary.json")
NEEDED = ("samples.parquet", "x_adv.safetensors", "summary.json")
QUANTILES = (0.0, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 1.0)


@dataclass(frozen=True)
class Run:
    """A saved run: `samples` has one row per image, in the order of `x_adv` (b, *image)."""

    samples: pa.Table
    x_adv: Tensor
    summary: dict[str, Any]


def save_run(
    directory: str | Path,
    x: Float[Tensor, "b *image"],
    y: Int64[Tensor, " b"],
    result: Result,
    arguments: Mapping[str, Any],
    elapsed: float,
    classes: Sequence[str] | None = None,
    overwrite: bool = False,
    ids: Int64[Tensor, " b"] | None = None,
    bounds: Bounds | None = None,
    draw: Callable[..., None] | None = None,
) -> dict[str, Any]:
    """Write a result; gives the summary. `arguments` are kept as they are, "metric" among them; `elapsed` in seconds.

    ids: the images' rows in the data, by default 0, 1, ... bounds: where they could move, by default in [0, 1]. draw:
    what makes perturbations.png, called as plica.plot.perturbations.draw_perturbations is; None leaves it out.

    Raises:
        FileExistsError: the directory holds something, and `overwrite` is not set; with it, a former run is replaced.
        OSError: the disk is full, or not ours to write; nothing is left behind.
    """
    directory = Path(directory)
    check_directory(directory, overwrite)
    summary = summarise(result, arguments, elapsed) | ({"classes": list(classes)} if classes else {})
    with filled_together(directory, "summary.json", stale=("summary.json", "perturbations.png", FILE)) as folder:
        own = {} if ids is None else {"id": ids.cpu().contiguous()}
        pq.write_table(samples(torch.arange(len(y)) if ids is None else ids, y, result), folder / "samples.parquet")
        # serialised first, written by Python: safetensors' own writer hides which system error it met
        (folder / "x_adv.safetensors").write_bytes(save(points(result.x_adv, result.theta) | own))
        images = {"x": pack(x.detach().cpu()).contiguous(), "y": y.cpu()} | own
        (folder / "inputs.safetensors").write_bytes(save(images))
        if draw is not None:
            draw(folder / "perturbations.png", x, y, {_title(arguments): result}, classes)
        if bounds is not None and not bounds.usual:
            (folder / FILE).write_bytes(bounds.packed())
        (folder / "summary.json").write_text(json.dumps(summary, indent=2, allow_nan=False) + "\n")
    return summary


def _title(arguments: Mapping[str, Any]) -> str:
    """The distance, and the perturbation it is through, as the picture names them."""
    metric, through = str(arguments.get("metric", "d")), str(arguments.get("through") or "")
    return through if through and metric == "theta" else " ".join(filter(None, (metric, through)))


def check_directory(directory: str | Path, overwrite: bool = False) -> None:
    """Whether a run could be written there, asked before any work is done.

    Raises:
        FileExistsError, NotADirectoryError, PermissionError: one sentence that says what to do.
    """
    directory = Path(directory)
    ground = next(folder for folder in (directory, *directory.absolute().parents) if folder.exists())
    if not ground.is_dir():
        raise NotADirectoryError(f"{ground} is a file; give a new directory for the results.")
    if ground == directory and any(directory.iterdir()):
        held = {entry.name for entry in directory.iterdir()}
        if not overwrite:
            raise FileExistsError(f"{directory} is not empty; give a new directory, or --overwrite to replace a run.")
        if not held & set(FILES):
            raise FileExistsError(f"{directory} holds no run that could be replaced; give a new directory.")
    if not os.access(ground, os.W_OK | os.X_OK):
        raise PermissionError(f"{ground} cannot be written to; give another directory for the results.")


def load_run(directory: str | Path) -> Run:
    """Read a saved run.

    Raises:
        FileNotFoundError: there is no run, or none that was completed.
        ValueError: a file of it is broken.
    """
    directory = Path(directory)
    missing = [name for name in NEEDED if not (directory / name).is_file()]
    if missing:
        raise FileNotFoundError(f"{directory} is not a complete run: it has no {missing[0]}.")
    try:
        summary = json.loads((directory / "summary.json").read_text())
        x_adv = load((directory / "x_adv.safetensors").read_bytes())["x_adv"]
        return Run(pq.read_table(directory / "samples.parquet"), x_adv, summary)
    except (ValueError, KeyError, SafetensorError, pa.ArrowException) as error:
        raise ValueError(f"The run {directory} is broken ({one_line(error)}); make it anew.") from error


def summarise(result: Result, arguments: Mapping[str, Any], elapsed: float) -> dict[str, Any]:
    """What summary.json says. A radius is null where no perturbation was found; "robust_accuracy" needs a "radius"."""
    wrong = result.success & (result.distance == 0)  # misclassified as they are: distance 0, by definition
    robust = {} if arguments.get("radius") is None else {"robust_accuracy": 1 - float(result.success.double().mean())}
    return {
        "arguments": dict(arguments),
        "versions": versions(),
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
    # inverted_cdf never averages two images, so an infinite distance stays where it belongs
    values = np.quantile(distance, QUANTILES, method="inverted_cdf")
    return {f"{q:g}": float(value) if np.isfinite(value) else None for q, value in zip(QUANTILES, values, strict=True)}


def samples(ids: Int64[Tensor, " b"], y: Int64[Tensor, " b"], result: Result) -> pa.Table:
    """One row per image: `id` is its row in the data, `prediction` what x_adv is taken for, `status` the name."""
    measured = ("prediction", "success", "distance", "margin", "violation", "stationarity")
    spent = ("gradients", "forwards", "seconds")
    columns: dict[str, Any] = {"id": ids.numpy(), "label": y.cpu().numpy()}
    columns |= {name: getattr(result, name).cpu().numpy() for name in measured}
    columns |= {"status": [status.name for status in result.status]}
    columns |= {name: getattr(result, name).cpu().numpy() for name in spent}
    return pa.table(columns, schema=SAMPLES)


def versions() -> dict[str, Any]:
    """What the numbers may depend on beside the arguments."""
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
