"""Runs one task on the images of a chunk; halves the batch when memory runs out, the images when an attack fails."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace

import pyarrow as pa
import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

from plica.api import Progress, attack, default_batch_size
from plica.attacks.external.common import Peer
from plica.attacks.registry import ATTACKS
from plica.bracket import CLOSED, certified, gap
from plica.certify import Certificate, CertificateStatus
from plica.certify.api import SECONDS
from plica.core.domain.bounds import Bounds
from plica.core.domain.read_bounds import read_bounds
from plica.core.result import Result
from plica.core.status import Status
from plica.evaluation.model_cache import ModelCache
from plica.evaluation.plan import Model, Plan
from plica.evaluation.tasks import Job
from plica.models import prepare_inputs
from plica.perturbations import parse_through
from plica.runs.encode import leaf_table, sample_table
from plica.runs.points import moved
from plica.runs.schema import CERTIFIED, TARGET_CLASS, arrow_schema
from plica.utils.limits import free_memory, out_of_memory
from plica.utils.messages import few, one_line

FEW = 3  # images that may all fail without the method or the model being at fault


class AllFailedError(RuntimeError):
    """A method raises an error on every image of a chunk: a fault of the method or the model, not of an image."""


@dataclass(frozen=True)
class Work:
    """Images of a chunk for one task. upper: the smallest distances that other methods found (inf if none), for lower
    bounds.
    """

    job: Job
    chunk: int
    ids: Int64[Tensor, " b"]
    x: Float[Tensor, "b *image"]
    y: Shaped[Tensor, "b *label"]
    upper: Float[Tensor, " b"] | None = None


@dataclass(frozen=True)
class Part:
    """The result of Work: rows as in samples.parquet; the points that differ from their images, with their ids and,
    with a perturbation, their theta; sentences about failures; and the proofs of lower bounds."""

    samples: pa.Table
    ids: Int64[Tensor, " m"]
    x_adv: Float[Tensor, "m *image"]
    theta: Float[Tensor, "m k"] | None = None
    notes: list[str] = field(default_factory=list)
    leaves: pa.Table | None = None


Steps = Generator[Work, Part, None]  # of a run: each yields work and is sent its part


@dataclass(frozen=True)
class Resources:
    """The resources of an executor.

    Attributes:
        plan: gives the workers' device, bounds and batch size.
        threads: of torch in each worker.
        models: those that are loaded in this process.
        workers: on a Ray cluster; as many as it can hold if None.
        gpus: of each worker on a Ray cluster; a fraction lets several share one.
    """

    plan: Plan
    threads: int
    models: ModelCache
    workers: int | None
    gpus: float

    @property
    def worker_arguments(self) -> tuple[str, Bounds, int | None, int]:
        """device, bounds, batch_size and threads of a Worker."""
        return self.plan.devices[0], read_bounds(self.plan.bounds), self.plan.batch_size, self.threads


class Worker:
    """Does work, one piece after the other.

    Args:
        device: where models run.
        bounds: of the features.
        batch_size: images side by side, for the methods of plica, whose answers do not depend on it; a public attack
            takes all images of a chunk at once.
        threads: of torch; unchanged if None.
        models: those that are loaded already.
    """

    def __init__(
        self, device: str, bounds: Bounds, batch_size: int | None, threads: int | None, models: ModelCache | None = None
    ):
        if threads is not None:
            torch.set_num_threads(threads)
        self.device, self.bounds, self.batch_size = device, bounds, batch_size
        self.models = ModelCache() if models is None else models
        self.fitting_size = batch_size  # of the present model, where memory ran out
        self.present: Model | None = None

    def model(self, spec: Model) -> Callable[[Tensor], Tensor]:
        """The model on the device; the batch size is reset for each model."""
        if self.present != spec:
            self.present, self.fitting_size = spec, self.batch_size
        return self.models.load(spec, self.device)

    def answer(self, work: Work, on_progress: Callable[[Progress], None] | None = None) -> Part:
        """Attack all images. If that fails, use a smaller batch, then halves of the images, down to the image that
        fails.

        Raises:
            AllFailedError: every image fails.
        """
        model = self.model(work.job.model)
        peer = isinstance(ATTACKS[work.job.method], Peer)
        part = self._answer(model, work, None if peer else self.fitting_size, [], on_progress)
        if len(work.ids) > FEW and set(part.samples["status"].to_pylist()) == {Status.FAILED.name}:
            raise AllFailedError(f"A method fails on all images of a chunk: {part.notes[-1]}")
        return part

    def _answer(self, model, work: Work, size: int | None, notes: list[str], on_progress) -> Part:
        """The part of all images; `size` is the batch size, `notes` those of the tries before."""
        try:
            model, x, y = prepare_inputs(model, work.x, work.y)
            result = self._attack(model, x, y, work.ids, work.job, size, on_progress)
            if Status.BLACK_BOX in result.status:
                part = f"{work.job.task.name}, chunk {work.chunk}"
                notes = [*notes, f"{part}: attacked with forward runs only, as the model has no gradient"]
            if work.job.certify is not None:
                return self._certified(model, x, y, work, result, notes)
            return _part(work, result, notes)
        except Exception as error:
            cause = error
        free_memory()
        if out_of_memory(cause):
            size = min(size or default_batch_size(work.x, torch.device(self.device)), len(work.ids)) // 2
            if size:
                self.fitting_size = size
                note = f"{work.job.task.name}, chunk {work.chunk}: out of memory, batch size {size} from here"
                return self._answer(model, work, size, [*notes, note], on_progress)
        if _nowhere_finite(model, work):
            return _part(work, _nothing(work, Status.NOT_FINITE), notes)
        if len(work.ids) == 1:
            note = f"{work.job.task.name}, image {int(work.ids[0])}: {one_line(cause, named=True)}"
            return _part(work, _nothing(work, Status.FAILED), [*notes, note])
        half = len(work.ids) // 2
        sides = [self._answer(model, _some(work, rows), size, [], None) for rows in (slice(half), slice(half, None))]
        return _joined(sides, notes)

    def _certified(self, model, x, y, work: Work, result: Result, notes: list[str]) -> Part:
        """The part with lower bounds; where they cannot be computed, with bounds of 0 and a note."""
        failed: dict[str, list[int]] = {}
        sides = list(self._bounded(model, x, y, work, result, failed))
        for cause, ids in failed.items():
            some = f"image{'s' * (len(ids) > 1)} {few(ids)}"
            notes = [*notes, f"{work.job.task.name}, {some}: no lower bounds ({cause})"]
        return _joined(sides, notes)

    def _bounded(self, model, x, y, work: Work, result: Result, failed: dict[str, list[int]]) -> Iterator[Part]:
        """Parts with lower bounds, of all images or, if that fails, of halves of them, down to the image that fails.

        failed: images without bounds, by the error; images are added to it.
        """
        job = work.job
        assert job.certify is not None
        own = job.certify
        question = job.question(self.bounds, x.shape[1:])
        upper = torch.full((len(x),), torch.inf) if work.upper is None else work.upper
        try:
            bracketed, certificate = certified(
                model, x, y, question, result, upper=upper, seconds=own.seconds if own.nodes is None else SECONDS,
                nodes=own.nodes, arithmetic=own.arithmetic,
                bounds=self.bounds.pair, method=job.method, seed=job.seed, batch_size=self.fitting_size,
                levels=job.task.levels, targets=job.targets(y, work.ids),
            )  # fmt: skip
        except Exception as error:  # the attack's results are still stored
            cause = one_line(error, named=True)
        else:
            yield _part(work, bracketed, [], bound_columns(work, bracketed, certificate))
            return
        free_memory()
        if len(work.ids) == 1:
            failed.setdefault(cause, []).append(int(work.ids[0]))
            yield _part(work, result, [])
            return
        half = len(work.ids) // 2
        for rows in (slice(half), slice(half, None)):
            yield from self._bounded(model, x[rows], y[rows], _some(work, rows), _rows(result, rows), failed)

    def _attack(self, model, x, y, ids, job: Job, size: int | None, on_progress) -> Result:
        return attack(
            model,
            x,
            y,
            job.question(self.bounds, x.shape[1:]),
            method=job.method,
            gradients=job.gradients,
            seed=job.seed,
            batch_size=size,
            bounds=self.bounds.pair,
            goal=job.goal(),
            draws=job.task.draws,
            precision=job.precision,
            levels=job.task.levels,
            targets=job.targets(y, ids),
            on_progress=on_progress,
        )


def no_part(work: Work) -> Part:
    """The part of work without images."""
    return _part(work, _nothing(work, Status.FAILED), [])


def bound_columns(work: Work, result: Result, certificate: Certificate | None) -> tuple[dict[str, pa.Array], pa.Table]:
    """The columns of schema.CERTIFIED, and the leaves; bounds of 0 without a certificate."""
    rows = len(work.ids)
    lower = torch.zeros(rows).double() if certificate is None else certificate.radius.double().cpu()
    upper = result.distance.double().cpu()
    upper = upper if work.upper is None else torch.minimum(upper, work.upper.double())
    evidence = [None] * rows if certificate is None else certificate.evidence
    assert work.job.certify is not None
    arithmetic = [work.job.certify.arithmetic] * rows if certificate is None else certificate.arithmetic
    status = [_unbounded(s) for s in result.status] if certificate is None else certificate.status
    values = (lower.numpy(), (gap(lower, upper) <= CLOSED).numpy(), arithmetic, [s.name for s in status])
    columns = {field.name: pa.array(v, field.type) for field, v in zip(arrow_schema(CERTIFIED), values, strict=True)}
    return columns, leaf_table(evidence, work.ids)


def _part(
    work: Work, result: Result, notes: list[str], bounds: tuple[dict[str, pa.Array], pa.Table] | None = None
) -> Part:
    if bounds is None and work.job.certify is not None:
        bounds = bound_columns(work, result, None)
    more, leaves = bounds or ({}, None)
    table = sample_table(result, work.ids, work.y)
    if (targets := work.job.targets_of_rows) is not None:
        more = more | {TARGET_CLASS.name: pa.array(targets[work.ids.cpu()].tolist(), pa.int64())}
    for name, column in (more | work.job.task.constant_columns(len(work.ids))).items():
        table = table.append_column(name, column)
    x_adv = result.x_adv.detach().cpu()
    rows = moved(work.x, x_adv)
    theta = None if result.theta is None else result.theta.detach().cpu()[rows]
    return Part(table, work.ids[rows], x_adv[rows], theta, notes, leaves)


def _unbounded(status: Status) -> CertificateStatus:
    """Why an image has no lower bound where no search for one ended, by the status of its attack."""
    return CertificateStatus.NOT_FINITE if status == Status.NOT_FINITE else CertificateStatus.FAILED


def _joined(sides: Sequence[Part], notes: list[str]) -> Part:
    """The part of all images, from those of some each. notes: before theirs."""
    leaves = [side.leaves for side in sides if side.leaves is not None]
    thetas = [side.theta for side in sides if side.theta is not None]
    return Part(
        pa.concat_tables([side.samples for side in sides]),
        torch.cat([side.ids for side in sides]),
        torch.cat([side.x_adv for side in sides]),
        torch.cat(thetas) if thetas else None,
        notes + [note for side in sides for note in side.notes],
        pa.concat_tables(leaves) if leaves else None,
    )


def _rows(result: Result, rows: slice) -> Result:
    """The result for some of its images."""
    values = {field.name: getattr(result, field.name) for field in fields(result)}
    return replace(result, **{name: value[rows] for name, value in values.items() if value is not None})


def _some(work: Work, rows: slice) -> Work:
    upper = None if work.upper is None else work.upper[rows]
    return Work(work.job, work.chunk, work.ids[rows], work.x[rows], work.y[rows], upper)


def _nothing(work: Work, status: Status) -> Result:
    """A result without a point for any image, with unknown costs."""
    b = len(work.ids)
    through = work.job.task.through
    nan, none = torch.full((b,), torch.nan).double(), torch.zeros(b, dtype=torch.long)
    return Result(
        x_adv=work.x,
        success=torch.zeros(b, dtype=torch.bool),
        distance=torch.full((b,), torch.inf).double(),
        violation=nan,
        stationarity=nan,
        gradients=none,
        forwards=none,
        margin=nan,
        prediction=none - 1,
        seconds=torch.zeros(b).double(),
        status=[status] * b,
        theta=None if through is None else parse_through(through).start(work.x),  # for its number of columns only
    )


@torch.no_grad()
def _nowhere_finite(model, work: Work) -> bool:
    """Whether the logits of every image contain NaN or infinity, which plica.attack raises an error for."""
    try:
        model, x, _ = prepare_inputs(model, work.x, work.y)
        return not bool(model(x).isfinite().reshape(len(x), -1).all(1).any())
    except Exception:  # any error of the model is reported image by image
        return False
