"""Shortens messages of other packages, values and long lists so that they fit into one sentence."""

import os
import reprlib
from collections.abc import Iterable
from difflib import get_close_matches

MOST = 300  # characters of a foreign message
CUT = " [...]"  # marks where text was cut off

_short = reprlib.Repr()  # visits a few entries of a few levels, so that a value which contains itself many times ends
_short.maxlevel, _short.maxdict, _short.maxlist, _short.maxtuple, _short.maxset = 2, 4, 4, 4, 4
_short.maxstring = _short.maxlong = _short.maxother = 80


def one_line(error: BaseException, named: bool = False) -> str:
    """A foreign error's message in one line without its full stop, cut with a mark where it is long; its name before it
    if asked for, or if it says nothing."""
    text = _line(error)
    text = text[:MOST].rstrip(" .:") + CUT if len(text) > MOST else text
    name = type(error).__name__
    return (f"{name}: {text}" if named else text) if text else name


def sentence(error: BaseException) -> str:
    """A message of plica in one line, not shortened, with a full stop at its end."""
    text = _line(error) or type(error).__name__
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        text = f"{plain(os.fsdecode(error.filename))}: {text}"
    return text if text.endswith("?") else f"{text}."


def shown(value: object) -> str:
    """A value as Python writes it, for a message; in one line, and cut where it is long or deep."""
    return plain(" ".join(line.strip() for line in _short.repr(value).splitlines()))


def _line(error: BaseException) -> str:
    """The message in one line without its full stop; of a system error without its number."""
    return plain(" ".join(str(getattr(error, "strerror", None) or error).split()).rstrip(" .:"))


def few(names: Iterable[object], most: int = 3) -> str:
    """The first few names, and how many more there are."""
    words = [str(name) for name in names]
    return ", ".join(words[:most]) + (f" and {len(words) - most} more" if len(words) > most else "")


def did_you_mean(word: object, names: Iterable[str]) -> str:
    """The question for the name most like a word that begins with the same letter, whatever the case of letters, with a
    space at its end; "" where none is like it."""
    written = str(word)[:80].lower()  # comparing takes quadratic time
    known = {name.lower(): name for name in names if name.lower()[:1] == written[:1]}
    similar = get_close_matches(written, known, 1)
    return f"did you mean {known[similar[0]]!r}? " if similar else ""


def plain(text: str) -> str:
    """Foreign text without what a terminal would obey: control characters become question marks."""
    return "".join(c if c.isprintable() or c in "\n\t" else "?" for c in text)
