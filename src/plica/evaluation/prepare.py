"""Before any work: are the models, the data and the methods what the plan takes them for, and what makes this run this
run. Everything that is found to be wrong is one sentence."""

from __future__ import annotations

import hashlib
import inspect
import json
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from plica.api import attack
from plica.core.bounds import read_bounds
from plica.data import Source, open_data
from plica.data.sample import select
from plica.evaluation.model_cache import ModelCache
from plica.evaluation.plan import Plan, PlanError
from plica.evaluation.tasks import Chain, chains
from plica.evaluation.worker import Worker
from plica.models import prepare_inputs
from plica.runs.schema import FORMAT
from plica.runs.single import versions
from plica.utils.files import hash_json
from plica.utils.messages import one_line, sentence

TRIED = 16  # images that every method is tried on, with a single gradient


def prepare(
    plan: Plan, device: str, shard: str | None, models: ModelCache
) -> tuple[dict[str, Any], Source, torch.Tensor, list[Chain]]:
    """The manifest, the data, the ids of the images to attack, and the chains of tasks.

    Raises:
        PlanError, ValueError, OSError: something in the plan cannot be had; one sentence.
    """
    asked = chains(plan)
    bounds = read_bounds(plan.bounds)
    source = open_data(plan.data.path, allow_out_of_range=not bounds.is_default)
    ids = select(source.labels, plan.data.n, plan.data.indices, plan.data.sample, plan.data.seed)
    worker = Worker(device, bounds, plan.batch_size, plan.threads, models)
    x, y = _first_images(source, ids)
    hashes = {}
    for model in plan.models:
        made = worker.model(model)
        hashes[model.name] = hash_model(made, model.model)
        on = prepare_inputs(made, x, y)
        for job in (job for chain in asked for job in chain.jobs if job.model == model):
            _try(worker, made, on, job)
    told = plan.identity()
    manifest = {
        "format": FORMAT,
        "plan": plan.model_dump(mode="json") | {"identity": told},
        "hashes": {"plan": hash_json(told), "models": hashes, "data": source.hash()},
        "versions": versions(),
        "data": {"n": len(ids), "shape": list(source.shape), "classes": source.classes},
        "tasks": [asdict(job.task) | {"gradients": job.gradients} for chain in asked for job in chain.jobs],
        "shard": shard,
    }
    return manifest, source, ids, asked


def hash_model(model: object, spec: str) -> str:
    """Of a module its parameters, buffers, structure and the source of its classes; of another callable its source."""
    digest = hashlib.sha256()
    if not isinstance(model, nn.Module):
        digest.update(_source(model, spec).encode())
        return digest.hexdigest()
    digest.update(repr(model).encode())
    for kind in sorted({type(part) for part in model.modules()}, key=lambda kind: kind.__qualname__):
        if not kind.__module__.startswith("torch."):
            digest.update(_source(kind, kind.__qualname__).encode())
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def check_same(directory: Path, former: dict[str, Any], new: dict[str, Any]) -> None:
    """Whether a run may go on in a directory; other versions are a warning, since answers may differ in the last bits.

    Raises:
        PlanError: plan, model, data or shard differ; the sentence says which, and how.
    """
    difference = differs(former, new)
    if difference:
        raise PlanError(f"{directory} holds a run with {difference}; give another --out, or what it was made with.")
    for name, version in former["versions"].items():
        if version != new["versions"].get(name):
            warnings.warn(
                f"{directory} was begun with {name} {version} and goes on with {new['versions'].get(name)}; "
                "answers may differ in the last digits.",
                stacklevel=2,
            )


def differs(former: dict[str, Any], new: dict[str, Any], shard: bool = True) -> str | None:
    """The first difference between two manifests in words, None where the answers belong together."""
    if former.get("format") != new["format"]:
        return f"format {former.get('format')}, and this plica writes {new['format']}"
    path = _path(former["plan"]["identity"], new["plan"]["identity"])
    if path:
        return "another plan: {} is {} there and {} here".format(*path)
    for name, value in former["hashes"]["models"].items():
        here = new["hashes"]["models"][name]
        if value != here:
            return f"another model {name} (hash {value[:8]} there, {here[:8]} here)"
    there, here = former["hashes"]["data"], new["hashes"]["data"]
    if there != here:
        return f"other data (hash {there[:8]} there, {here[:8]} here)"
    if shard and former["shard"] != new["shard"]:
        return f"another shard ({former['shard'] or 'all'} there, {new['shard'] or 'all'} here)"
    return None


def _path(there: Any, here: Any, at: str = "") -> tuple[str, str, str] | None:
    """Where two nested values first differ, and what they are there."""
    if isinstance(there, dict) and isinstance(here, dict):
        for key in {**there, **here}:
            found = _path(there.get(key), here.get(key), f"{at}.{key}" if at else key)
            if found:
                return found
        return None
    if isinstance(there, list) and isinstance(here, list) and len(there) == len(here):
        pairs = enumerate(zip(there, here, strict=True))
        return next((found for i, (a, b) in pairs if (found := _path(a, b, f"{at}[{i}]"))), None)
    return None if there == here else (at, json.dumps(there), json.dumps(here))


def _first_images(source: Source, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A few images to try; a data set of which most cannot be read is refused with the first reason."""
    read, why = [], []
    for number in ids[:TRIED]:
        try:
            read.append(source.read(number[None]))
        except (ValueError, OSError) as error:
            why.append(sentence(error))
    if len(why) > len(read):
        raise PlanError(why[0])
    x, y = zip(*read, strict=True)
    return torch.cat(x), torch.cat(y)


def _try(worker: Worker, model, on: tuple[torch.Tensor, torch.Tensor], job) -> None:
    try:
        question = job.question(worker.bounds, on[0].shape[1:])
        attack(model, *on, question, method=job.method, gradients=1, seed=job.seed, bounds=worker.bounds.pair)
    except (ValueError, TypeError, ImportError) as error:
        raise PlanError(f"{job.task.model}, {job.task.question}: {one_line(error)}.") from error


def _source(thing: object, otherwise: str) -> str:
    try:
        return inspect.getsource(thing)  # type: ignore[arg-type]
    except (OSError, TypeError):
        return otherwise
