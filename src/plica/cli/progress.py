"""Progress on standard error: bars on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import math
import sys
import time
from collections import Counter, defaultdict
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, TextColumn
from rich.progress import Progress as Bars

import plica
from plica.evaluation.preflight import Preflight
from plica.evaluation.run import Event
from plica.evaluation.tasks import Chain
from plica.training.trainer import TrainingProgress
from plica.utils.messages import plain

EVERY = 10.0  # seconds between plain lines
BAR = 24  # characters


class _Display:
    """A context with the bars.

    Attributes:
        began: whether there was a report, so that the input was accepted.
    """

    def __init__(self, *columns: ProgressColumn) -> None:
        console = Console(stderr=True)
        self.bars = Bars(*columns, console=console, transient=True)
        self.on_terminal = console.is_terminal
        self.began = False
        self.printed = time.monotonic()  # when the last plain line was

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def stop(self) -> None:
        """Remove the bars, so that what is printed next does not stand among them."""
        if self.on_terminal:
            self.bars.stop()

    def _line_is_due(self, now: float) -> bool:
        """Whether the last plain line was EVERY seconds ago; the clock starts again then."""
        due = now - self.printed >= EVERY
        self.printed = now if due else self.printed
        return due


class AttackProgress(_Display):
    """`with AttackProgress(gradients) as progress: plica.attack(..., on_progress=progress)`.

    `budget` is the number of gradients per image, for the time left: the work done is the share of images finished or
    of gradients spent, whichever is larger, since the images of a batch all finish near its end.
    """

    def __init__(self, budget: int) -> None:
        super().__init__(BarColumn(bar_width=BAR), TextColumn("{task.description}"))
        self.budget = budget
        self.start = self.printed
        self.last: plica.Progress | None = None
        self.bar = self.bars.add_task("starting", total=1.0)

    def __enter__(self) -> AttackProgress:
        if self.on_terminal:
            self.bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        super().__exit__(kind, error, at)
        if self.last is not None and kind is None:
            print(self._line(self.last, left=False), file=sys.stderr)

    def __call__(self, progress: plica.Progress) -> None:
        """Shows how far the attack has come: a bar on a terminal, elsewhere a line now and then."""
        self.began = True
        self.last = progress
        if self.on_terminal:
            self.bars.update(self.bar, completed=self._share(progress), description=self._line(progress))
        elif progress.done < progress.total and self._line_is_due(time.monotonic()):
            print(self._line(progress), file=sys.stderr, flush=True)

    def _share(self, progress: plica.Progress) -> float:
        spent = progress.gradients / max(progress.total * self.budget, 1)
        return min(max(progress.done / max(progress.total, 1), spent), 1.0)

    def _line(self, progress: plica.Progress, left: bool = True) -> str:
        """12/20 images, 1200 gradients, median distance 0.213, 0:35 left."""
        passed, share = time.monotonic() - self.start, self._share(progress)
        words = [f"{progress.done}/{progress.total} images", f"{progress.gradients} gradients"]
        if left and not math.isnan(progress.radius):  # at the end, the results have the median over all images
            words.append(f"median distance {progress.radius:.4g}")
        if not left:
            words.append(f"{clock(passed)} in all")
        elif share > 0:
            words.append(f"{clock(passed * (1 - share) / share)} left")
        return ", ".join(words)


class EvaluationProgress(_Display):
    """`start` and `event` are handed to plica.evaluate; a bar per method.

    Time left: the time so far, times what is left over what is done. A chunk of a method counts as much as its chunks
    took on average; of a method that has not begun that is not known, and the average of all stands in.
    """

    def __init__(self) -> None:
        super().__init__(TextColumn("{task.description}"), BarColumn(bar_width=BAR), TextColumn("{task.fields[text]}"))
        self.total: Counter[str] = Counter()  # chunks of each method
        self.done: Counter[str] = Counter()
        self.fresh: Counter[str] = Counter()  # those computed now, not read from an earlier run
        self.seconds: dict[str, float] = defaultdict(float)
        self.rows = {}  # the bar of each method

    def __enter__(self) -> EvaluationProgress:
        return self

    def preflight(self, found: Preflight) -> None:
        """Print the findings of the quick checks of a model, if there are any."""
        for finding in found.findings:
            print(plain(f"{finding.weight.name.lower()}, {finding.check}: {finding.sentence}"), file=sys.stderr)
        if found.findings:
            after = f"after {found.seconds:.1f} s on {found.images} images of {found.model.name}"
            print(plain(f"doctor, {after}; the work goes on. --skip-doctor leaves this out."), file=sys.stderr)

    def start(self, chains: list[Chain], chunks: int) -> None:
        """Set the total work, and start the clock."""
        self.began = True
        for job in (job for chain in chains for job in chain.jobs):
            self.total[job.task.method] += chunks
        self.last = self.printed = time.monotonic()
        if self.on_terminal:
            self.rows = {name: self.bars.add_task(name, total=n, text="") for name, n in self.total.items()}
            self.bars.start()

    def event(self, event: Event) -> None:
        """A chunk is done."""
        now, method = time.monotonic(), event.job.task.method
        self.done[method] += 1
        if event.fresh:
            self.fresh[method] += 1
            self.seconds[method] += now - self.last  # of all workers together, if there are several
        self.last = now
        if self.on_terminal:
            for name, row in self.rows.items():
                self.bars.update(row, completed=self.done[name], text=f"{self._count(name)}, {self._left([name])}")
        elif self.done != self.total and self._line_is_due(now):
            counts = "; ".join(self._count(name) for name in self.total)
            print(f"{counts}; {self._left(list(self.total))}", file=sys.stderr, flush=True)

    def _count(self, method: str) -> str:
        return f"{method} {self.done[method]}/{self.total[method]} chunks"

    def _left(self, methods: list[str]) -> str:
        average = sum(self.seconds.values()) / max(sum(self.fresh.values()), 1)
        per_chunk = {m: self.seconds[m] / self.fresh[m] if self.fresh[m] else average for m in methods}
        return f"{clock(sum(per_chunk[m] * (self.total[m] - self.done[m]) for m in methods))} left"


class TrainingBar(_Display):
    """`with TrainingBar() as progress: train(..., on_progress=progress, say=progress.say)`."""

    def __init__(self) -> None:
        super().__init__(BarColumn(bar_width=BAR), TextColumn("{task.description}"))
        self.bar = self.bars.add_task("starting", total=1.0)

    def __enter__(self) -> TrainingBar:
        if self.on_terminal:
            self.bars.start()
        return self

    def __call__(self, progress: TrainingProgress) -> None:
        self.began = True
        line = f"{progress.what}: step {progress.step}/{progress.steps}"
        if not math.isnan(progress.loss):
            line += f", loss {progress.loss:.3f}"
        if progress.fresh:
            line += f", {clock(progress.seconds / progress.fresh * (progress.steps - progress.step))} left"
        if self.on_terminal:
            self.bars.update(self.bar, completed=progress.step / progress.steps, description=line)
        elif self._line_is_due(time.monotonic()):
            print(line, file=sys.stderr, flush=True)

    def say(self, sentence: str) -> None:
        """A sentence that stays."""
        self.bars.console.print(plain(sentence), soft_wrap=True, markup=False, highlight=False)


def clock(seconds: float) -> str:
    """0:35, 2:05:00."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
