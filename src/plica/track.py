"""Runs in an experiment tracker: `log_run(plica.runs.load(directory))` inside or outside an MLflow run."""

from __future__ import annotations

import math
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from plica.analysis.contenders import groups
from plica.report import write_report
from plica.runs import Run, load
from plica.utils.messages import one_line
from plica.utils.optional import require

# mlflow-skinny has no database, which its default store is, and folders have to be allowed since MLflow 3.13
STORES = (
    "set MLFLOW_TRACKING_URI to a server's address; or pip install mlflow for sqlite:///mlflow.db; or set it to "
    "file:mlruns and MLFLOW_ALLOW_FILE_STORE=true"
)


def log_run(run: Run, report: bool = True) -> None:
    """Log a run to MLflow: the plan as parameters, accuracies and radii as metrics, the report as an artefact.

    Goes to the active MLflow run, or to a new one named after the run's directory.

    Raises:
        ModuleNotFoundError: mlflow is not installed.
        ValueError: the run is broken, or MLflow cannot write to its store; nothing was logged.
    """
    mlflow = require("mlflow", "Tracking")
    plan, numbers = parameters(run), metrics(run)
    with _active(mlflow, run.directory.name):
        mlflow.log_params(plan)
        mlflow.log_metrics(numbers)
        if report:
            with tempfile.TemporaryDirectory() as folder:
                write_report([run], Path(folder) / "report.html")
                mlflow.log_artifact(str(Path(folder) / "report.html"))


def log_training(directory: str | Path) -> None:
    """Log what `plica train` wrote: the epochs of log.parquet as metrics by step, and the run of its last evaluation.

    Goes to the active MLflow run, or to a new one named after the directory.

    Raises:
        FileNotFoundError: there is no log.parquet.
        ModuleNotFoundError, ValueError: as log_run.
    """
    mlflow, folder = require("mlflow", "Tracking"), Path(directory)
    if not (folder / "log.parquet").is_file():
        raise FileNotFoundError(f"There is no log.parquet in {folder}; give a directory of plica train.")
    rows = pq.read_table(folder / "log.parquet").to_pylist()
    with _active(mlflow, folder.name):
        for row in rows:
            numbers = {_name(key): float(value) for key, value in row.items() if key not in ("epoch", "step")}
            mlflow.log_metrics({k: v for k, v in numbers.items() if math.isfinite(v)}, step=row["step"])
        if (folder / "run").is_dir():
            log_run(load(folder / "run"))


@contextmanager
def _active(mlflow: Any, name: str) -> Iterator[None]:
    """The MLflow run that is active, or a new one that ends with the block.

    Raises:
        ValueError: MLflow cannot write to its store.
    """
    if mlflow.active_run() is not None:
        yield
        return
    try:
        started = mlflow.start_run(run_name=name)
    except Exception as error:  # each kind of store has errors of its own
        raise ValueError(
            f"MLflow cannot write to its store {mlflow.get_tracking_uri()} ({one_line(error, named=True)}); {STORES}."
        ) from error
    with started:
        yield


def parameters(run: Run) -> dict[str, str]:
    """The plan's entries and the hashes, a name with dots for each; texts cut to MLflow's 500 characters."""
    record = {"plan": run.manifest.get("plan") or {}, "hash": run.manifest.get("hashes") or {}}
    return {_name(key): value[:500] for key, value in _flat(record)}


def metrics(run: Run) -> dict[str, float]:
    """Per model: accuracy; per question the median radius (left out where it is infinite) or the accuracy under attack,
    over all methods."""
    out: dict[str, float] = {}
    for group in groups([run], "model"):
        for c in group.contenders:
            radius = c.radius[c.attacked]
            out[_name(f"{c.name}.accuracy")] = float((radius > 0).mean())
            if group.budget is not None:
                out[_name(f"{c.name}.accuracy_{group.metric}_{group.budget:.3g}")] = 1 - float(
                    np.isfinite(radius).mean()
                )
                continue
            half = float(np.quantile(radius, 0.5, method="inverted_cdf"))
            if math.isfinite(half):
                out[_name(f"{c.name}.median_{group.metric}_radius")] = half
    return out


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict | list):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _flat(part, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, str(value)


def _name(text: str) -> str:
    """A name that MLflow allows: of some characters, and no path that could be written shorter."""
    parts = re.sub(r"[^\w\-. /]", "_", text).split("/")
    return "/".join(part for part in parts if part not in ("", ".", ".."))
