"""One process for each of several devices of this machine, with its own models. This process reads the data and writes
the run. Processes are started by spawn, because an accelerator cannot be used in a fork of a process that has used
it."""

from __future__ import annotations

import multiprocessing
import pickle
from collections.abc import Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, suppress

from plica.evaluation.worker import Resources, Steps, Work, Worker

_worker: list[Worker] = []  # of this process, where it is one of those started here


def drive(steps: Iterable[Steps], resources: Resources) -> None:
    """Carry out the steps, one for each device at a time.

    Raises:
        RuntimeError: a process died.
    """
    new, waiting = iter(steps), list[tuple[Steps, Work]]()
    running: dict[Future[bytes], tuple[str, Steps]] = {}

    def following() -> tuple[Steps, Work] | None:
        if waiting:
            return waiting.pop()
        for one in new:
            for work in one:  # empty where all parts are stored already
                return one, work
        return None

    with ExitStack() as stack:
        pools = _start(stack, resources)
        idle = list(pools)
        while True:
            while idle and (piece := following()) is not None:
                name = idle.pop(0)
                # pickled here: torch's own way, by shared memory, ends where /dev/shm or the files of a process do
                running[pools[name].submit(_answer, pickle.dumps(piece[1]))] = name, piece[0]
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                name, one = running.pop(future)
                try:
                    part = pickle.loads(future.result())
                except BrokenProcessPool as error:
                    raise RuntimeError(
                        f"The process of worker {name} died, probably for lack of memory; finished parts are stored: "
                        "run the same command again, with a smaller batch_size."
                    ) from error
                idle.append(name)
                with suppress(StopIteration):
                    waiting.append((one, one.send(part)))


def _start(stack: ExitStack, resources: Resources) -> dict[str, ProcessPoolExecutor]:
    """A pool of one process for each device, by the worker's number and device."""
    context = multiprocessing.get_context("spawn")
    pools = {}
    for number, device in enumerate(resources.plan.devices, 1):
        arguments = (device, *resources.worker_arguments[1:])
        pool = ProcessPoolExecutor(1, context, initializer=_enter, initargs=arguments)
        stack.callback(pool.shutdown, cancel_futures=True)
        pools[f"{number} ({device})"] = pool
    return pools


def _enter(*arguments) -> None:
    _worker.append(Worker(*arguments))


def _answer(work: bytes) -> bytes:
    return pickle.dumps(_worker[0].answer(pickle.loads(work)))
