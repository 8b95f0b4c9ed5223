"""The exit status, and wrong input: one sentence on standard error, before any work."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import IntEnum

from plica.utils.messages import sentence


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
    """These errors, if the block raises them, become a WrongInputError with the same message. Unless the input was
    `accepted` before: then it is a fault of the program, and its traceback is shown."""
    try:
        yield
    except errors as error:
        if accepted():
            raise
        raise WrongInputError(sentence(error)) from error
