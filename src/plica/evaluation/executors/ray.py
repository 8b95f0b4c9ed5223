"""Workers on a Ray cluster, one model in each. If one dies, its work goes to another, and a new one is started.

Every node must find the models under the same paths. Images are sent to the workers, points are sent back.
"""

from __future__ import annotations

import logging
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from plica.evaluation.worker import Part, Resources, Steps, Work, Worker
from plica.utils.messages import one_line
from plica.utils.optional import require

RETRIES = 5  # of work whose worker died; the work itself may be the reason


class NoWorkersError(RuntimeError):
    """The cluster cannot be joined, or has no room for a worker."""


def drive(steps: Iterable[Steps], resources: Resources) -> None:
    """Carry out the steps, one per worker at a time; joins the cluster that is running, or starts one here.

    Each worker loads its own models.

    Raises:
        ValueError: Ray is not installed.
        NoWorkersError: the cluster cannot be joined, or has no room for a worker.
    """
    ray = _ray()
    actor_class = ray.remote(num_cpus=resources.threads, num_gpus=resources.gpus)(Worker)
    crew = _Crew(ray, lambda: actor_class.remote(*resources.worker_arguments), iter(steps))
    try:
        for _ in range(resources.workers or _room(ray, resources.threads, resources.gpus)):
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
    """The actors, and what each works on: a piece, or None while it starts."""

    ray: Any
    start: Callable[[], Any]
    steps: Iterator[Steps]
    actors: list[Any] = field(default_factory=list)
    idle: list[Any] = field(default_factory=list)
    running: dict[Any, tuple[Any, _Piece | None]] = field(default_factory=dict)  # by Ray's reference to the answer
    waiting: deque[_Piece] = field(default_factory=deque)

    def hire(self) -> None:
        """Start an actor; it is idle as soon as the cluster has placed it."""
        actor = self.start()
        self.actors.append(actor)
        self.running[actor.__ray_ready__.remote()] = actor, None

    def work(self) -> None:
        """Carry out all steps; actors that the cluster has not placed by then are not waited for."""
        while True:
            while self.idle and (piece := self._next()) is not None:
                actor = self.idle.pop()
                self.running[actor.answer.remote(piece.work)] = actor, piece
            if self.idle and not any(piece for _, piece in self.running.values()):
                return
            (answer, *_), _ = self.ray.wait(list(self.running), num_returns=1)
            self._take(answer, *self.running.pop(answer))

    def _next(self) -> _Piece | None:
        """A waiting piece (after an answer, or its worker died), else the first of new steps; None if none is left."""
        if self.waiting:
            return self.waiting.popleft()
        for steps in self.steps:
            for work in steps:  # empty where all parts are stored already
                return _Piece(steps, work)
        return None

    def _take(self, answer: Any, actor: Any, piece: _Piece | None) -> None:
        """Send an answer to its steps; where the actor died, queue its piece again and start another."""
        errors = self.ray.exceptions
        try:
            part: Part = self.ray.get(answer)
        except (errors.RayActorError, errors.ObjectLostError, errors.NodeDiedError, errors.WorkerCrashedError) as error:
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
        handler = signal.getsignal(signal.SIGTERM)
        try:
            ray.init(logging_level=logging.WARNING, log_to_driver=False)
        except Exception as error:  # it says in many ways that there is no cluster
            raise NoWorkersError(
                f"Ray could not be started ({one_line(error, named=True)}); see ray status."
            ) from error
        # Ray's handler would end the process without a word about the run.
        if callable(handler) and signal.getsignal(signal.SIGTERM) is not handler:
            signal.signal(signal.SIGTERM, handler)
    return ray


def _room(ray: Any, threads: int, gpus: float) -> int:
    """Workers that fit on the cluster, node by node."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    room = [min(node.get("CPU", 0) // threads, node.get("GPU", 0) // gpus if gpus else 1e9) for node in nodes]
    if sum(room) < 1:
        raise NoWorkersError(f"No node of the cluster has {threads} CPUs and {gpus:g} GPUs for a worker; ask for less.")
    return int(sum(room))
