"""Progress on standard error: a bar on a terminal, a plain line now and then elsewhere."""

import math
import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar

import plica

EVERY = 10.0  # seconds between plain lines


class Reporter:
    """A context that takes plica.Progress records: `with Reporter(budget) as report: attack(..., on_progress=report)`.

    `budget` is the number of gradients per image, for the time left: the work done is the share of images finished or
    of gradients spent, whichever is larger, since the images of a batch all finish near its end.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.began = False
        self.start = self.told = time.monotonic()
        self.last: plica.Progress | None = None
        console = Console(stderr=True)
        self.bar = Bar(BarColumn(bar_width=24), TextColumn("{task.description}"), console=console, transient=True)
        self.shown = console.is_terminal
        self.task = self.bar.add_task("starting", total=1.0)

    def __enter__(self) -> "Reporter":
        if self.shown:
            self.bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.shown:
            self.bar.stop()
        if self.last is not None and kind is None:
            print(self._line(self.last, left=False), file=sys.stderr)

    def __call__(self, progress: plica.Progress) -> None:
        self.began = True
        self.last = progress
        if self.shown:
            self.bar.update(self.task, completed=self._share(progress), description=self._line(progress))
        elif progress.done < progress.total and time.monotonic() - self.told >= EVERY:
            self.told = time.monotonic()
            print(self._line(progress), file=sys.stderr, flush=True)

    def _share(self, progress: plica.Progress) -> float:
        spent = progress.gradients / max(progress.total * self.budget, 1)
        return min(max(progress.done / max(progress.total, 1), spent), 1.0)

    def _line(self, progress: plica.Progress, left: bool = True) -> str:
        """12/20 images, 1200 gradients, median distance 0.213, 0:35 left."""
        passed, share = time.monotonic() - self.start, self._share(progress)
        words = [f"{progress.done}/{progress.total} images", f"{progress.gradients} gradients"]
        if not math.isnan(progress.radius):
            words.append(f"median distance {progress.radius:.4g}")
        if not left:
            words.append(f"{clock(passed)} in all")
        elif share > 0:
            words.append(f"{clock(passed * (1 - share) / share)} left")
        return ", ".join(words)


def clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
