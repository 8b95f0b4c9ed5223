"""Runs one task on the images of a chunk; halves the batch where memory ends, and the images where an attack fails."""

from __future__ import annotations

import gc
from collections.abc import Callable, Generator
from dataclasses import dataclass, field

import pyarrow as pa
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from plica.api import Progress, attack, default_batch_size
from plica.attacks.external.common import Peer
from plica.attacks.registry import ATTACKS
from plica.core.bounds import Bounds
from plica.core.result import Result
from plica.core.status import Status
from plica.evaluation.model_cache import ModelCache
from plica.evaluation.plan import Model
from plica.evaluation.tasks import Job
from plica.models import prepare_inputs
from plica.perturbations import parse_through
from plica.runs.encode import sample_table
from plica.runs.points import moved
from plica.utils.limits import out_of_memory
from plica.utils.messages import one_line

FEW = 3  # images that may all fail without the fault being the program's


class AllFailedError(RuntimeError):
    """A method raises an error on every image of a chunk: a fault of the method or the model, not of an image."""


@dataclass(frozen=True)
class Work:
    """Images of a chunk for one task."""

    job: Job
    chunk: int
    ids: Int64[Tensor, " b"]
    x: Float[Tensor, "b *image"]
    y: Int64[Tensor, " b"]


@dataclass(frozen=True)
class Part:
    """The answer: rows as in samples.parquet, the points that are not the images themselves, what a perturbation made
    them of, what is to be noted."""

    samples: pa.Table
    ids: Int64[Tensor, " m"]
    x_adv: Float[Tensor, "m *image"]
    theta: Float[Tensor, "m k"] | None = None
    notes: list[str] = field(default_factory=list)


Steps = Generator[Work, Part, None]  # of a run: each yields work and is sent what came of it


class Worker:
    """Does Work, one piece after the other.

    Args:
        device: where models run.
        bounds: of the features.
        batch_size: images side by side, for the methods of plica, whose answers do not depend on it; a public attack
            takes all images of a chunk at once.
        threads: of torch; as they are if None.
        models: those that are loaded already.
    """

    def __init__(
        self, device: str, bounds: Bounds, batch_size: int | None, threads: int | None, models: ModelCache | None = None
    ):
        if threads is not None:
            torch.set_num_threads(threads)
        self.device, self.bounds, self.batch_size = device, bounds, batch_size
        self.models = ModelCache() if models is None else models
        self.fits = batch_size  # with the present model
        self.present: Model | None = None

    def model(self, spec: Model) -> Callable[[Tensor], Tensor]:
        """The model on the device; another batch size may fit than with the model before it."""
        if self.present != spec:
            self.present, self.fits = spec, self.batch_size
        return self.models.load(spec, self.device)

    def answer(self, work: Work, on_progress: Callable[[Progress], None] | None = None) -> Part:
        """Ask all images; where that fails, fewer side by side, then fewer at all, down to the one that cannot be had.

        Raises:
            AllFailedError: every image fails.
        """
        model = self.model(work.job.model)
        peer = isinstance(ATTACKS[work.job.method], Peer)
        part = self._answer(model, work, None if peer else self.fits, [], on_progress)
        if len(work.ids) > FEW and set(part.samples["status"].to_pylist()) == {Status.FAILED.name}:
            raise AllFailedError(f"A method fails on all images of a chunk: {part.notes[-1]}")
        return part

    def _answer(self, model, work: Work, size: int | None, notes: list[str], on_progress) -> Part:
        try:
            x, y = prepare_inputs(model, work.x, work.y)
            result = self._attack(model, x, y, work.job, size, on_progress)
            return _part(work, result, notes)
        except Exception as error:
            more, cause = len(work.ids) > 1, error
        _free()  # outside of the handler, whose traceback holds the tensors that filled the memory
        if out_of_memory(cause):
            size = min(size or default_batch_size(work.x), len(work.ids)) // 2
            if size:
                self.fits = size
                told = f"{work.job.task.name}, chunk {work.chunk}: out of memory, batch size {size} from here"
                return self._answer(model, work, size, [*notes, told], on_progress)
        if _nowhere_finite(model, work):
            return _part(work, _nothing(work, Status.NOT_FINITE), notes)
        if not more:
            told = f"{work.job.task.name}, image {int(work.ids[0])}: {one_line(cause, named=True)}"
            return _part(work, _nothing(work, Status.FAILED), [*notes, told])
        half = len(work.ids) // 2
        sides = [self._answer(model, _some(work, rows), size, [], None) for rows in (slice(half), slice(half, None))]
        return Part(
            pa.concat_tables([side.samples for side in sides]),
            torch.cat([side.ids for side in sides]),
            torch.cat([side.x_adv for side in sides]),
            torch.cat(thetas) if (thetas := [side.theta for side in sides if side.theta is not None]) else None,
            notes + [note for side in sides for note in side.notes],
        )

    def _attack(self, model, x, y, job: Job, size: int | None, on_progress) -> Result:
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
            on_progress=on_progress,
        )


def no_part(work: Work) -> Part:
    """The answer about no images."""
    return _part(work, _nothing(work, Status.FAILED), [])


def _part(work: Work, result: Result, notes: list[str]) -> Part:
    table = sample_table(result, work.ids, work.y)
    for name, column in work.job.task.constant_columns(len(work.ids)).items():
        table = table.append_column(name, column)
    x_adv = result.x_adv.detach().cpu()
    rows = moved(work.x, x_adv)
    theta = None if result.theta is None else result.theta.detach().cpu()[rows]
    return Part(table, work.ids[rows], x_adv[rows], theta, notes)


def _some(work: Work, rows: slice) -> Work:
    return Work(work.job, work.chunk, work.ids[rows], work.x[rows], work.y[rows])


def _nothing(work: Work, status: Status) -> Result:
    """No point was found for any image, and nothing is known of what it cost."""
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
        theta=None if through is None else parse_through(through).start(work.x),  # for its width: no row is kept
    )


@torch.no_grad()
def _nowhere_finite(model, work: Work) -> bool:
    """Whether the model has no number to offer for any of the images, which plica.attack refuses to work with."""
    try:
        x, _ = prepare_inputs(model, work.x, work.y)
        return not bool(model(x).isfinite().all(1).any())
    except Exception:  # whatever the model raises is found again, image by image
        return False


def _free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
