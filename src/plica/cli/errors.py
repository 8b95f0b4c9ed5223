"""The exit status, and wrong input: one sentence on standard error, before any work."""

import sysconfig
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path

from plica.utils.messages import sentence

PACKAGE = str(Path(__file__).parents[1])


class Status(IntEnum):
    """The exit status of the command."""

    DONE = 0
    OTHER = 1  # interrupted, or numbers that are not confirmed or not to be believed
    WRONG_INPUT = 2


class WrongInputError(Exception):
    """The message is one sentence that says what is wrong and what to do."""


@contextmanager
def wrong_input(
    errors: tuple[type[Exception], ...] = (ValueError, TypeError, OSError),
    accepted: Callable[[], bool] = lambda: False,
) -> Iterator[None]:
    """Within this context these errors become a WrongInputError with the same message. Two kinds are raised unchanged:
    after the input was `accepted` an error is a fault of the program, whose traceback is shown; and errors in code of
    the user."""
    try:
        yield
    except errors as error:
        if accepted() or users_line(error):
            raise
        raise WrongInputError(sentence(error)) from error


def users_line(error: BaseException) -> str | None:
    """The line, such as "net.py, line 5", where code failed that plica called and that belongs neither to plica nor to
    an installed package, such as a distance or a goal."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [k for k, frame in enumerate(frames) if frame.filename.startswith(PACKAGE)]
    called = frames[own[-1] + 1 :] if own else []
    if not called or not called[0].filename.endswith(".py") or called[0].filename.startswith(_installed()):
        return None
    return f"{Path(called[0].filename).name}, line {called[0].lineno}"


def _installed() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    return tuple(paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib"))
