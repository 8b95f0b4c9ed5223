"""Tries the models, data and methods of a plan before the evaluation, and makes the manifest that identifies a run.

An error in the plan is reported in one sentence."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from plica.api import attack
from plica.certify import check_certifiable
from plica.core.domain.bounds import check_shared
from plica.core.domain.read_bounds import read_bounds
from plica.core.model.eval_mode import eval_mode
from plica.core.model.fitting import fitted
from plica.data import Source, open_data
from plica.data.sample import select
from plica.data.targets import check_targets
from plica.evaluation.fingerprint import distance_sums, hash_model, model_sums, same
from plica.evaluation.model_cache import ModelCache
from plica.evaluation.plan import Plan
from plica.evaluation.strict import PlanError
from plica.evaluation.tasks import Chain, Job, chains
from plica.evaluation.worker import Worker
from plica.goals import check_labels, class_logits
from plica.metrics import Unsupported
from plica.models import prepare_inputs
from plica.runs.schema import FORMAT
from plica.runs.single import versions
from plica.utils.files import hash_json
from plica.utils.limits import out_of_memory
from plica.utils.messages import CUT, MOST, one_line, sentence

TRIED = 16  # images on which every method is tried with a single gradient


def prepare(
    plan: Plan, device: str, shard: str | None, models: ModelCache
) -> tuple[dict[str, Any], Source, torch.Tensor, list[Chain]]:
    """The manifest, the data, the ids of the images to attack, and the chains of tasks.

    Raises:
        PlanError, ValueError, OSError: something in the plan is missing or does not work; one sentence.
    """
    plan_chains = chains(plan)
    bounds = read_bounds(plan.bounds)
    any_y = all(question.goal is not None for question in plan.questions)
    source = open_data(plan.data.path, allow_out_of_range=not bounds.is_default, any_y=any_y)
    check_shared(bounds.pair, source.shape)
    ids = select(source.labels, plan.data.n, plan.data.indices, plan.data.sample, plan.data.seed)
    for chain in plan_chains:
        job = chain.jobs[0]
        if job.targets_of_rows is not None:
            check_targets(str(job.targets_file), job.targets_of_rows, source.labels[ids], ids)
        elif job.task.target is not None and bool((source.labels[ids] == int(job.task.target)).all()):
            raise PlanError(f"The images all have the label {job.task.target}; give another target.")
    worker = Worker(device, bounds, plan.batch_size, plan.threads, models)
    first, x, y = _first_images(source, ids)
    hashes, answers = {}, {"images": first, "models": {}, "distances": {}}
    for model in plan.models:
        loaded = worker.model(model)
        hashes[model.name] = hash_model(loaded, model.model)
        inputs = prepare_inputs(loaded, x, y)
        for job in (job for chain in plan_chains for job in chain.jobs if job.model == model):
            _try(worker, inputs, torch.tensor(first), job)
            _check_classes(inputs[0], inputs[1], job, ids)
            if job.task.distance not in answers["distances"]:
                distance = bounds.distance(job.task.metric, job.task.through)
                answers["distances"][job.task.distance] = distance_sums(*distance, inputs[1])
        answers["models"][model.name] = model_sums(*inputs[:2])
    identity = plan.identity()
    manifest = {
        "format": FORMAT,
        "plan": plan.model_dump(mode="json") | {"identity": identity},
        "hashes": {"plan": hash_json(identity), "models": hashes, "data": source.hash()},
        "answers": answers,
        "versions": versions(),
        "data": {"n": len(ids), "shape": list(source.shape), "classes": source.classes},
        "tasks": [asdict(job.task) | {"gradients": job.gradients} for chain in plan_chains for job in chain.jobs],
        "shard": shard,
    }
    return manifest, source, ids, plan_chains


def check_same(directory: Path, former: dict[str, Any], new: dict[str, Any]) -> None:
    """Check that a run can be resumed; other versions are a warning, since answers may differ in the last bits.

    Raises:
        PlanError: plan, model, data or shard differ; the message says which and how.
    """
    difference = differs(former, new)
    if difference:
        raise PlanError(
            f"{directory} holds a run with {difference}; give another --out, or what that run was made with."
        )
    for name, version in former["versions"].items():
        if version != new["versions"].get(name):
            warnings.warn(
                f"{directory} was started with {name} {version} and is resumed with {new['versions'].get(name)}; "
                "answers may differ in the last digits.",
                stacklevel=2,
            )


def is_resumable(manifest: dict[str, Any]) -> bool:
    """Whether a manifest states all that results depend on: it was written by `plica evaluate`, and is complete."""
    plan, hashes = manifest.get("plan") or {}, manifest.get("hashes") or {}
    has_plan = "identity" in plan and "chunk" in plan and "n" in (manifest.get("data") or {})
    return has_plan and {"models", "data"} <= set(hashes) and bool(manifest.get("versions")) and "shard" in manifest


def differs(former: dict[str, Any], new: dict[str, Any], shard: bool = True) -> str | None:
    """The first difference between two manifests, in words; None if their results can be joined."""
    if former.get("format") != new["format"]:
        return f"format {former.get('format')}, and this plica writes {new['format']}"
    path = _first_difference(former["plan"]["identity"], new["plan"]["identity"])
    if path and path[0].endswith(".targets") and "null" not in path[1:]:
        return "another plan: {} holds other target classes, or has another name ({} there, {} here)".format(*path)
    if path:
        return "another plan: {} is {} there and {} here".format(*path)
    for name, value in former["hashes"]["models"].items():
        here = new["hashes"]["models"].get(name, "none")
        if value != here:
            return f"another model {name} (hash {value[:8]} there, {here[:8]} here)"
    before, now = former.get("answers", {}), new.get("answers", {})
    comparable = before.get("images") == now.get("images")  # one of them could not be read, on one of the two occasions
    for kind, name in (("models", "model"), ("distances", "distance")) if comparable else ():
        for key, answers in before.get(kind, {}).items():
            if not same(answers, now.get(kind, {}).get(key, [])):
                return (
                    f"a {name} {key} that gave other values on the first images: something that it uses has changed, "
                    "such as an attribute, a variable or a file"
                )
    there, here = former["hashes"]["data"], new["hashes"]["data"]
    if there != here:
        return f"other data (hash {there[:8]} there, {here[:8]} here)"
    if shard and former["shard"] != new["shard"]:
        return f"another shard ({former['shard'] or 'all'} there, {new['shard'] or 'all'} here)"
    return None


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= MOST else text[:MOST] + CUT


def _first_difference(there: Any, here: Any, at: str = "") -> tuple[str, str, str] | None:
    """The key at which two nested values first differ, and both values there, as JSON."""
    if isinstance(there, dict) and isinstance(here, dict):
        for key in {**there, **here}:
            difference = _first_difference(there.get(key), here.get(key), f"{at}.{key}" if at else key)
            if difference:
                return difference
        return None
    if isinstance(there, list) and isinstance(here, list) and len(there) == len(here):
        pairs = enumerate(zip(there, here, strict=True))
        return next((difference for i, (a, b) in pairs if (difference := _first_difference(a, b, f"{at}[{i}]"))), None)
    return None if there == here else (at, _short(there), _short(here))


def _first_images(source: Source, ids: torch.Tensor) -> tuple[list[int], torch.Tensor, torch.Tensor]:
    """The first images and their ids. If most of them cannot be read, the first error is raised."""
    first, read, reasons = [], [], []
    for number in ids[:TRIED]:
        try:
            read.append(source.read(number[None]))
            first.append(int(number))
        except (ValueError, OSError) as error:
            reasons.append(sentence(error))
    if len(reasons) > len(read):
        raise PlanError(reasons[0])
    x, y = zip(*read, strict=True)
    return first, torch.cat(x), torch.cat(y)


@torch.no_grad()
def _check_classes(model: Callable[..., Any], x: torch.Tensor, job: Job, ids: torch.Tensor) -> None:
    """Raises PlanError where a target of these rows is not a class of the model."""
    if job.targets_of_rows is None:
        return
    with eval_mode(model):
        logits = class_logits(fitted(model)(x))[:1]
    try:
        check_labels(f"The targets of {job.targets_file}", job.targets_of_rows[ids], logits.expand(len(ids), -1))
    except ValueError as error:
        raise PlanError(str(error)) from None


def _try(
    worker: Worker, inputs: tuple[Callable[..., Any], torch.Tensor, torch.Tensor], ids: torch.Tensor, job: Job
) -> None:
    """Try one gradient. Errors that concern single images, or memory, are left to the run, which names the images and
    halves the batch.

    Raises:
        PlanError: the method, the model or the distance fails for all images; one sentence.
    """
    model, x, y = inputs
    if (targets := job.targets(y, ids)) is not None:  # an image of the target is tried as if it were of another class
        y = torch.where(targets == y, (targets == 0).to(y), y)

    def fault(rows: slice) -> Exception | None:
        try:
            question = job.question(worker.bounds, x.shape[1:])
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "A budget of")  # one gradient is no search
                attack(
                    model, x[rows], y[rows], question, method=job.method, gradients=1, seed=job.seed,
                    bounds=worker.bounds.pair, goal=job.goal(), draws=job.task.draws,
                    levels=job.task.levels, targets=job.targets(y[rows], ids[rows]), precision=job.precision,
                )  # fmt: skip
        except Exception as error:  # models and public attacks may raise anything
            return error
        return None

    if job.certify is not None:
        try:
            question = job.question(worker.bounds, x.shape[1:])
            check_certifiable(model, x, question, job.task.goal, job.task.draws, job.certify.arithmetic)
        except (Unsupported, ValueError) as error:
            raise PlanError(f"{job.task.model}, {job.task.question}: {sentence(error)}") from error
    error = fault(slice(None))
    if error is None or out_of_memory(error):
        return
    refused = isinstance(error, ValueError | TypeError | ImportError)
    if refused or all(fault(slice(row, row + 1)) is not None for row in range(len(x))):
        raise PlanError(f"{job.task.model}, {job.task.question}: {one_line(error)}.") from error
