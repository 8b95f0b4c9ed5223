"""Signals that ask a program to end."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# sent by schedulers and `kill`, and by a closing terminal; the interrupt key sends SIGINT
ENDING = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Within this context these signals act like the interrupt key: unfinished files are removed, with a message."""
    if threading.current_thread() is not threading.main_thread():  # others cannot have handlers
        yield
        return
    former = {number: signal.getsignal(number) for number in ENDING}
    try:
        for number, handler in former.items():
            if handler is not signal.SIG_IGN:  # nohup keeps its effect
                signal.signal(number, _interrupt)
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler or signal.SIG_DFL)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
