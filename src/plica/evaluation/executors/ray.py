"""Workers on a Ray cluster, one model in each. The work of one that dies goes to another, and a new one is asked for.

Every node must find the models under the same names; images are sent to the workers, points are sent back.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from plica.core.bounds import read_bounds
from plica.evaluation.model_cache import ModelCache
from plica.evaluation.plan import Plan
from plica.evaluation.worker import Part, Steps, Work, Worker
from plica.utils.optional import require

RETRIES = 5  # of work whose worker died: it may be the work that kills them


def drive(
    steps: Iterable[Steps],
    plan: Plan,
    threads: int,
    models: ModelCache,
    workers: int | None = None,
    gpus: float = 0,
) -> None:
    """Carry out all, as many side by side as there are workers; joins the cluster that is running, or starts one here.

    `models` are those of this process: each worker loads its own.

    Raises:
        ValueError: Ray is not installed, or the cluster has no room for a worker.
    """
    ray = _ray()
    kind = ray.remote(num_cpus=threads, num_gpus=gpus)(Worker)
    bounds = read_bounds(plan.bounds)
    crew = _Crew(ray, lambda: kind.remote(plan.device, bounds, plan.batch_size, threads), iter(steps))
    try:
        for _ in range(workers or _room(ray, threads, gpus)):
            crew.hire()
        crew.work()
    finally:
        for actor in crew.actors:
            ray.kill(actor)


@dataclass(frozen=True)
class _Piece:
    """Steps that wait for the answer to `work`."""

    steps: Steps
    work: Work
    tries: int = 0


@dataclass
class _Crew:
    """The actors, and what each is at: a piece, or None while it starts."""

    ray: Any
    start: Callable[[], Any]
    steps: Iterator[Steps]
    actors: list[Any] = field(default_factory=list)
    idle: list[Any] = field(default_factory=list)
    at: dict[Any, tuple[Any, _Piece | None]] = field(default_factory=dict)
    waiting: deque[_Piece] = field(default_factory=deque)

    def hire(self) -> None:
        """A new actor, which begins when it has found a place."""
        actor = self.start()
        self.actors.append(actor)
        self.at[actor.__ray_ready__.remote()] = actor, None

    def work(self) -> None:
        """Until all steps are at an end; an actor that still looks for its place is not waited for."""
        while True:
            while self.idle and (piece := self._next()) is not None:
                actor = self.idle.pop()
                self.at[actor.answer.remote(piece.work)] = actor, piece
            if self.idle and not any(piece for _, piece in self.at.values()):
                return
            (done, *_), _ = self.ray.wait(list(self.at), num_returns=1)
            self._take(done, *self.at.pop(done))

    def _next(self) -> _Piece | None:
        """What a dead worker left, or the beginning of new steps."""
        if self.waiting:
            return self.waiting.popleft()
        for steps in self.steps:
            for work in steps:  # none, if all of it is there already
                return _Piece(steps, work)
        return None

    def _take(self, done: Any, actor: Any, piece: _Piece | None) -> None:
        lost = self.ray.exceptions
        try:
            part: Part = self.ray.get(done)
        except (lost.RayActorError, lost.ObjectLostError, lost.NodeDiedError, lost.WorkerCrashedError) as error:
            if piece is not None and piece.tries >= RETRIES:
                raise RuntimeError(f"{piece.work.job.task.name}, chunk {piece.work.chunk}: {error}") from error
            if piece is not None:
                self.waiting.append(replace(piece, tries=piece.tries + 1))
            self.actors.remove(actor)
            self.hire()
            return
        self.idle.append(actor)
        if piece is not None:
            with suppress(StopIteration):
                self.waiting.appendleft(_Piece(piece.steps, piece.steps.send(part)))


def _ray() -> Any:
    ray = require("ray", "The engine ray")
    if not ray.is_initialized():
        ray.init(logging_level=logging.WARNING, log_to_driver=False)
    return ray


def _room(ray: Any, threads: int, gpus: float) -> int:
    """Workers that fit on the cluster, node by node."""
    have = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    room = [min(node.get("CPU", 0) // threads, node.get("GPU", 0) // gpus if gpus else 1e9) for node in have]
    if sum(room) < 1:
        raise ValueError(f"No node of the cluster has {threads} CPUs and {gpus:g} GPUs for a worker; ask for less.")
    return int(sum(room))
