"""Run directories written by hand, in the layout that `plica evaluate` writes: what reads runs is tested without it."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import save_file

import plica


def write_inputs(directory, x, y, classes=None, models=("net",), plan=None):
    """manifest.json and one chunk of images; ids are the rows of x."""
    directory = Path(directory)
    (directory / "inputs").mkdir(parents=True)
    data = {"n": len(x), "shape": list(x.shape[1:]), "classes": None if classes is None else list(classes)}
    hashes = {"plan": "ab" * 32, "models": dict.fromkeys(models, "cd" * 32), "data": "ef" * 32}
    versions = {"plica": "0.1.0", "torch": torch.__version__}
    manifest = {"format": 1, "plan": plan or {}, "hashes": hashes, "versions": versions, "data": data, "shard": None}
    (directory / "manifest.json").write_text(json.dumps(manifest))
    save_file({"x": x.contiguous(), "y": y, "id": torch.arange(len(x))}, directory / "inputs" / "00000.safetensors")


def write_task(directory, result, y, *, model="net", method="radius", metric="l2", radius=None, loss=None):
    """One task in one chunk."""
    kind = "min-radius" if radius is None else "max-loss"
    question = f"{kind} {metric}" if radius is None else f"{kind} {metric} {radius:.4g} {loss}"
    part = Path(directory) / "parts" / f"{model}--{question}--{method}".replace(" ", "-").replace("/", "_")
    part.mkdir(parents=True)
    b = len(result)
    columns = {"id": range(b), "label": y.tolist(), "prediction": result.prediction.tolist()}
    for name in ("success", "distance", "margin", "violation", "stationarity"):
        columns[name] = getattr(result, name).tolist()
    columns["status"] = [status.name for status in result.status]
    for name in ("gradients", "forwards", "seconds"):
        columns[name] = getattr(result, name).tolist()
    constant = dict(model=model, question=question, kind=kind, metric=metric, radius=radius, loss=loss, method=method)
    columns |= {name: [value] * b for name, value in constant.items()}
    table = pa.table({name: list(values) for name, values in columns.items()})
    table = table.set_column(table.column_names.index("radius"), "radius", pa.array([radius] * b, pa.float64()))
    table = table.set_column(table.column_names.index("loss"), "loss", pa.array([loss] * b, pa.string()))
    save_file({"x_adv": result.x_adv.contiguous(), "id": torch.arange(b)}, part / "00000.safetensors")
    pq.write_table(table, part / "00000.parquet")


def made_up(x, moved, distance, prediction=None):
    """A Result with given points and distances (inf: not found, 0: misclassified from the start)."""
    b, distance = len(x), torch.as_tensor(distance, dtype=torch.float64)
    zeros, ones = torch.zeros(b, dtype=torch.float64), torch.ones(b, dtype=torch.int64)
    return plica.Result(
        x_adv=moved, success=distance.isfinite(), distance=distance, violation=zeros, stationarity=zeros,
        gradients=ones * 100, forwards=ones * 20, margin=zeros, prediction=ones if prediction is None else prediction,
        seconds=zeros + 0.5, status=[plica.Status.BUDGET] * b,
    )  # fmt: skip
