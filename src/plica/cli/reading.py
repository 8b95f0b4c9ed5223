"""Reading runs for the commands that only look at them: what is wrong is said in one sentence."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from plica import runs
from plica.cli.run import WrongInputError
from plica.trust import believed
from plica.utils.messages import one_line, plain

MARKS = ("manifest.json", "samples.parquet")
Answer = TypeVar("Answer")


def with_runs(directories: Sequence[Path], work: Callable[[list[runs.Run]], Answer]) -> Answer:
    """work(the runs in these directories, or directly below them).

    Raises:
        WrongInputError: no run, a broken one, runs that do not go together, a package that is missing, a file that
            cannot be written.
    """
    try:
        return work([runs.load(found) for directory in directories for found in _runs(directory)])
    except (ValueError, OSError, ModuleNotFoundError) as error:
        raise WrongInputError(f"{one_line(error)}.") from error


def tell_beliefs(read: list[runs.Run]) -> None:
    """How far the numbers of each run can be believed, on standard output."""
    for run in read:
        where = f"{run.directory}: these" if len(read) > 1 else "These"
        print(plain(f"{where} numbers: {believed(run)}"))


def _runs(directory: Path) -> list[Path]:
    """The directory, or those of its folders that are runs where it is none itself."""
    if directory.is_dir() and not any((directory / mark).is_file() for mark in MARKS):
        inside = sorted({found.parent for mark in MARKS for found in directory.glob(f"*/{mark}")})
        return inside or [directory]
    return [directory]
