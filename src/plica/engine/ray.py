"""Workers on a Ray cluster, one model in each. A worker that dies is started again elsewhere, and its work with it.

Every node must find the models under the same names; images are sent to the workers, points are sent back.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from typing import Any

from plica.engine import Steps
from plica.evaluation.plan import Plan, PlanError
from plica.evaluation.worker import Part, Worker

RETRIES = 10  # of work whose worker died


def drive(steps: Iterable[Steps], plan: Plan, threads: int, workers: int | None = None, gpus: float = 0) -> None:
    """Carry out all, as many side by side as there are workers; joins the cluster that is running, or starts one here.

    Raises:
        PlanError: Ray is not installed, or the cluster has no room for a worker.
    """
    ray = _ray()
    count = workers or _room(ray, threads, gpus)
    kind = ray.remote(num_cpus=threads, num_gpus=gpus, max_restarts=-1, max_task_retries=RETRIES)(Worker)
    actors = [kind.remote(plan.device, plan.bounds, plan.batch_size, threads) for _ in range(count)]
    try:
        _share(ray, iter(steps), actors)
    finally:
        for actor in actors:
            ray.kill(actor)


def _share(ray: Any, steps: Iterator[Steps], actors: list[Any]) -> None:
    """Each worker has one piece of work, and takes up the next steps when its own are at an end."""
    at_work: dict[Any, tuple[Any, Steps]] = {}
    idle = list(actors)
    while True:
        while idle and (each := next(steps, None)) is not None:
            _go_on(each, None, idle.pop(), at_work, idle)
        if not at_work:
            return
        (done, *_), _ = ray.wait(list(at_work), num_returns=1)
        actor, each = at_work.pop(done)
        _go_on(each, ray.get(done), actor, at_work, idle)


def _go_on(each: Steps, part: Part | None, actor: Any, at_work: dict[Any, tuple[Any, Steps]], idle: list[Any]) -> None:
    try:
        work = next(each) if part is None else each.send(part)
    except StopIteration:
        idle.append(actor)
    else:
        at_work[actor.answer.remote(work)] = actor, each


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise PlanError('The engine ray needs the package ray: pip install "plica[ray]".') from None
    if not ray.is_initialized():
        ray.init(logging_level=logging.WARNING, log_to_driver=False)
    return ray


def _room(ray: Any, threads: int, gpus: float) -> int:
    """Workers that fit on the cluster, node by node."""
    have = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    room = [min(node.get("CPU", 0) // threads, node.get("GPU", 0) // gpus if gpus else 1e9) for node in have]
    if sum(room) < 1:
        raise PlanError(f"No node of the cluster has {threads} CPUs and {gpus:g} GPUs free for a worker; ask for less.")
    return int(sum(room))
