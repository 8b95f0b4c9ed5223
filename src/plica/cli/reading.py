"""Reading runs for the commands that only look at them: what is wrong is said in one sentence."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from plica import runs
from plica.cli.run import WrongInputError
from plica.wording import one_line

Answer = TypeVar("Answer")


def with_runs(directories: Sequence[Path], work: Callable[[list[runs.Run]], Answer]) -> Answer:
    """work(the runs in these directories).

    Raises:
        WrongInputError: no run, a broken one, runs that do not go together, a package that is missing, a file that
            cannot be written.
    """
    try:
        return work([runs.load(directory) for directory in directories])
    except (ValueError, OSError, ModuleNotFoundError) as error:
        raise WrongInputError(f"{one_line(error)}.") from error
