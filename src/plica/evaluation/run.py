"""Runs a plan chunk by chunk; each finished part is stored at once, and stored parts are not computed again."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from plica import runs
from plica.core.domain.read_bounds import read_bounds
from plica.data import Source
from plica.evaluation import executors as engines
from plica.evaluation.model_cache import ModelCache
from plica.evaluation.parse_plan import read_plan
from plica.evaluation.plan import Plan
from plica.evaluation.preflight import Preflight, preflight
from plica.evaluation.prepare import check_same, is_resumable, prepare
from plica.evaluation.shards import parse_shard, shard_chunks
from plica.evaluation.strict import PlanError
from plica.evaluation.summary import write_summary
from plica.evaluation.tasks import Chain, Job
from plica.evaluation.worker import Part, Resources, Steps, Work, no_part
from plica.runs.check.json_files import Audit, Checks, Manifest, Summary, read_object
from plica.runs.encode import unpack
from plica.runs.schema import AUDIT, CHECKS, MANIFEST, SUMMARY
from plica.runs.write import Store, write_bounds
from plica.trust import check_model
from plica.utils.files import is_full, locked, write_json
from plica.utils.messages import one_line


class DiskError(OSError):
    """The disk is full, or cannot be read or written. Finished parts are stored, and the same call resumes."""


@dataclass(frozen=True)
class Event:
    """A part is finished. fresh: whether this call computed it, rather than an earlier one."""

    job: Job
    images: int
    fresh: bool


def evaluate(
    plan: str | Path | Mapping[str, Any] | Plan,
    out: str | Path | None = None,
    *,
    n: int | None = None,
    shard: str | None = None,
    engine: str = "local",
    workers: int | None = None,
    gpus: float = 0,
    on_start: Callable[[list[Chain], int], None] = lambda chains, chunks: None,
    on_event: Callable[[Event], None] = lambda event: None,
    on_preflight: Callable[[Preflight], None] | None = None,
) -> runs.Run:
    """Carry out a plan, or resume it: parts that the directory `out` already contains are not computed again.

    Args:
        plan: a YAML file, a dict with its keys, or a Plan.
        out: a directory for the run; a new temporary one if not given.
        n: use so many images, in place of the plan's number: the first ones, or a sample, as the plan says.
        shard: "i/N", the i-th of N parts of the chunks, which `plica merge` joins.
        engine: "local" or "ray".
        workers: of ray; if not given, as many as the cluster can hold.
        gpus: for each worker of ray; a fraction lets several share one.
        on_start: called with the chains of tasks and the number of chunks.
        on_event: called for every finished part.
        on_preflight: called with what the quick checks of `plica doctor` find on each model of a new run, before the
            work; None leaves them out. They take up to 10 seconds for each model, and change no answer.

    Raises:
        ValueError: invalid input; raised before any work.
        OSError: a file cannot be read or written, or the disk is full; finished parts are stored.
        RuntimeError: a method fails on every image of a chunk, or ray's cluster has no room for a worker.
    """
    plan = read_plan(plan) if n is None else read_plan(plan, **{"data.n": n})
    parse_shard(shard)  # an invalid one is reported before any work
    drive = engines.find(engine, workers, gpus)
    if engine == "ray" and len(plan.devices) > 1:
        raise PlanError(f"With the engine ray give device: cuda and --gpus, not several devices ({plan.device}).")
    directory = Path(tempfile.mkdtemp(prefix="plica-") if out is None else out)
    _former(directory)  # before it is written to
    with locked(directory):
        former = _former(directory)
        if former and plan.threads is None:
            plan = plan.model_copy(update={"threads": former["versions"].get("threads")})  # for the last bits
        models, device = ModelCache(), "cpu" if engine == "ray" else plan.devices[0]
        manifest, source, ids, plan_chains = prepare(plan, device, shard, models)
        if former:
            check_same(directory, former, manifest)
        chunks = shard_chunks(shard, len(ids), plan.chunk)
        if on_preflight is not None and not former:
            load = partial(models.load, device=device)
            for found in preflight(plan_chains, source, ids, read_bounds(plan.bounds), load):
                on_preflight(found)
        on_start(plan_chains, len(chunks))
        with disk_errors(directory):
            if not former:
                write_bounds(directory, read_bounds(plan.bounds))
                write_json(directory / MANIFEST, manifest)
            images = _Images(Store(directory), source, ids, plan.chunk)
            steps = (_steps(images, chain, chunk, on_event) for chain, chunk in _by_model(plan_chains, chunks))
            drive(steps, Resources(plan, manifest["versions"]["threads"], models, workers, gpus))
            _examine(directory, plan, manifest, models)
            return write_summary(directory)


@contextmanager
def disk_errors(directory: Path) -> Iterator[None]:
    """An error of the system in this context becomes one sentence.

    Raises:
        DiskError: the disk is full, or the directory cannot be written to.
    """
    try:
        yield
    except OSError as error:
        what, cure = f"{directory} cannot be written or read", "mend that"
        if is_full(error):
            what, cure = f"The disk of {directory} is full", "free some space"
        raise DiskError(
            f"{what} ({one_line(error)}); finished parts are stored: {cure} and run the same command again."
        ) from error


def _examine(directory: Path, plan: Plan, manifest: dict[str, Any], models: ModelCache) -> None:
    """Check the models not checked before, on 4 to 32 images each: as many as a tenth of the run's gradients allows, at
    250 for an image."""
    run, budget = runs.load(directory), manifest["data"]["n"] * sum(task["gradients"] for task in manifest["tasks"])
    done = read_object(directory / CHECKS, Checks)
    for model in plan.models:
        if model.name not in done:
            loaded, images = models.load(model, plan.devices[0]), max(4, min(32, budget // 2500))
            with suppress(ValueError):  # the verdict names models that were not examined
                check_model(run, model.name, loaded, images, run.bounds.pair)


@dataclass(frozen=True)
class _Images:
    """The images of each chunk, stored in the run when they are first read."""

    store: Store
    source: Source
    ids: Int64[Tensor, " n"]
    chunk: int

    def read(self, chunk: int) -> tuple[Tensor, Tensor, Tensor]:
        """The ids, x and y of the images of a chunk that can be read."""
        if not self.store.has_inputs(chunk):
            _check_there(self.store.directory)
            self._store(chunk, self.ids[chunk * self.chunk : (chunk + 1) * self.chunk])
        tensors = self.store.read_inputs(chunk)
        return tensors["id"], unpack(tensors["x"]), tensors["y"]

    def _store(self, chunk: int, ids: Int64[Tensor, " b"]) -> None:
        """Read all images at once; if that fails, one by one, so that unreadable images can be named."""
        notes: dict[str, str] = {}
        try:
            x, y = self.source.read(ids)
        except (ValueError, OSError):
            good = [one for number in ids.tolist() for one in self._one(number, notes)]
            ids = torch.tensor([number for number, _, _ in good], dtype=torch.long)
            x = torch.cat([torch.zeros(0, *self.source.shape, dtype=torch.float32), *(x for _, x, _ in good)])
            y = torch.cat([torch.zeros(0, dtype=torch.long), *(y for _, _, y in good)])
        self.store.write_inputs(chunk, ids, x, y, notes)

    def _one(self, number: int, notes: dict[str, str]) -> list[tuple[int, Tensor, Tensor]]:
        """One image, as a list; an empty list, with a note, if it cannot be read."""
        try:
            return [(number, *self.source.read(torch.tensor([number])))]
        except (ValueError, OSError) as error:
            notes[str(number)] = one_line(error)
            return []


def _steps(images: _Images, chain: Chain, chunk: int, on_event: Callable[[Event], None]) -> Steps:
    """The methods of a chain on one chunk, in order; parts that are stored already are not computed again."""
    store, done = images.store, [images.store.has(job.task.name, chunk) for job in chain.jobs]
    ids, x, y = images.read(chunk) if not all(done) else 3 * (torch.zeros(0),)
    broken: set[int] = set()
    best: dict[int, float] = {}
    for job, is_stored in zip(chain.jobs, done, strict=True):
        if is_stored:
            samples = store.read(job.task.name, chunk)
        else:
            standing = [not (chain.ordered and number in broken) for number in ids.tolist()]
            rows = torch.tensor(standing, dtype=torch.bool)
            if (targets := job.targets(y, ids)) is not None:
                # an image of the target itself cannot be taken for it wrongly
                rows &= targets != y
            upper = _known(best, ids[rows]) if job.certify else None
            work = Work(job, chunk, ids[rows], x[rows], y[rows], upper)
            part: Part = (yield work) if len(work.ids) else no_part(work)
            _check_there(store.directory)
            store.write(job.task.name, chunk, part.samples, part.ids, part.x_adv, part.notes, part.theta, part.leaves)
            samples = part.samples
        columns = samples.select(["id", "success", "distance"]).to_pydict()
        for number, success, distance in zip(*columns.values(), strict=True):
            if success:
                broken.add(number)
                best[number] = min(distance, best.get(number, math.inf))
        on_event(Event(job, len(samples), fresh=not is_stored))


def _check_there(directory: Path) -> None:
    """Raises FileNotFoundError if the directory was moved or deleted. Parts written to a new directory of the same name
    would belong to no run."""
    if not (directory / MANIFEST).is_file():
        raise FileNotFoundError(f"{MANIFEST} is gone, as if the directory had been moved or deleted")


def _known(best: dict[int, float], ids: Int64[Tensor, " b"]) -> Float[Tensor, " b"]:
    return torch.tensor([best.get(number, math.inf) for number in ids.tolist()], dtype=torch.float64)


def _by_model(plan_chains: list[Chain], chunks: range) -> Iterator[tuple[Chain, int]]:
    """The work, model by model, so that one at a time is in memory. For each model all questions about one chunk come
    first, then the next chunk."""
    for model in dict.fromkeys(chain.jobs[0].model for chain in plan_chains):
        for chunk in chunks:
            yield from ((chain, chunk) for chain in plan_chains if chain.jobs[0].model == model)


def _former(directory: Path) -> dict[str, Any] | None:
    """The manifest of the run in the directory, or None if there is none.

    Raises:
        PlanError: the directory contains something else.
        BrokenRunError: a file of the run that is read at the end is broken.
    """
    if (directory / MANIFEST).is_file():
        try:
            manifest = read_object(directory / MANIFEST, Manifest)
        except ValueError:
            manifest = {}
        if is_resumable(manifest):
            for name, record in ((CHECKS, Checks), (AUDIT, Audit), (SUMMARY, Summary)):
                read_object(directory / name, record)
            return manifest
        raise PlanError(f"{directory} contains a run with a broken manifest.json; give another --out.")
    if directory.exists() and not directory.is_dir():
        raise PlanError(f"{directory} is a file; give a directory for the run.")
    if directory.is_dir() and any(entry.name != ".lock" for entry in directory.iterdir()):
        raise PlanError(f"{directory} contains files that are not a run of `plica evaluate`; give another --out.")
    return None
