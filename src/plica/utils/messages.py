"""Foreign messages and long lists, cut to fit into one sentence of ours."""

from collections.abc import Iterable


def one_line(error: BaseException, named: bool = False) -> str:
    """An error's message in one line without its full stop; its name before it if asked for, or if it says nothing."""
    text = " ".join(str(getattr(error, "strerror", None) or error).split())  # a system error without its number
    text = (text[:300] + " ..." if len(text) > 300 else text).rstrip(" .:")
    name = type(error).__name__
    return plain((f"{name}: {text}" if named else text) if text else name)


def sentence(error: BaseException) -> str:
    """An error's message in one line, with the mark that ends a sentence."""
    text = one_line(error)
    return text if text.endswith("?") else f"{text}."


def few(names: Iterable[object], most: int = 3) -> str:
    """The first few names, and how many more there are."""
    words = [str(name) for name in names]
    return ", ".join(words[:most]) + (f" and {len(words) - most} more" if len(words) > most else "")


def plain(text: str) -> str:
    """Foreign text without what a terminal would obey: control characters become question marks."""
    return "".join(c if c.isprintable() or c in "\n\t" else "?" for c in text)
