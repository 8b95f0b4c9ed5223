"""Progress of an evaluation on standard error: a bar per method on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections import Counter, defaultdict
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bars

from plica.cli.progress import EVERY, clock
from plica.evaluation.run import Event
from plica.evaluation.tasks import Chain


class Board:
    """A context whose `start` and `event` are handed to plica.evaluate.

    Time left: the time so far, times what is left over what is done. A part of a method counts as much as its parts
    took on average; of a method that has not begun it is not known, and the average of all stands in.
    """

    def __init__(self) -> None:
        console = Console(stderr=True)
        self.bars = Bars(TextColumn("{task.description}"), BarColumn(bar_width=24), TextColumn("{task.fields[told]}"),
                         console=console, transient=True)  # fmt: skip
        self.shown = console.is_terminal
        self.total: Counter[str] = Counter()
        self.done: Counter[str] = Counter()
        self.fresh: Counter[str] = Counter()
        self.seconds: dict[str, float] = defaultdict(float)
        self.rows = {}
        self.began = False

    def __enter__(self) -> Board:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.shown:
            self.bars.stop()

    def start(self, chains: list[Chain], chunks: int) -> None:
        """What there is to do; the clock starts."""
        self.began = True
        for job in (job for chain in chains for job in chain.jobs):
            self.total[job.task.method] += chunks
        self.begin = self.last = self.told = time.monotonic()
        if self.shown:
            self.rows = {name: self.bars.add_task(name, total=n, told="") for name, n in self.total.items()}
            self.bars.start()

    def event(self, event: Event) -> None:
        """A part is there."""
        now, name = time.monotonic(), event.job.task.method
        self.done[name] += 1
        if event.fresh:
            self.fresh[name] += 1
            self.seconds[name] += now - self.last  # of all workers together, if there are several
        self.last = now
        if self.shown:
            for each, row in self.rows.items():
                self.bars.update(row, completed=self.done[each], told=f"{self._count(each)}, {self._left([each])}")
        elif now - self.told >= EVERY and self.done != self.total:
            self.told = now
            counts = "; ".join(self._count(each) for each in self.total)
            print(f"{counts}; {self._left(list(self.total))}", file=sys.stderr, flush=True)

    def _count(self, name: str) -> str:
        return f"{name} {self.done[name]}/{self.total[name]} chunks"

    def _left(self, names: list[str]) -> str:
        everywhere = sum(self.seconds.values()) / max(sum(self.fresh.values()), 1)
        each = {n: self.seconds[n] / self.fresh[n] if self.fresh[n] else everywhere for n in names}
        return f"{clock(sum(each[n] * (self.total[n] - self.done[n]) for n in names))} left"
