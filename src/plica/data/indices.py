"""Which images: rows of the data by number, written as text or kept in a file."""

from __future__ import annotations

import re
from pathlib import Path

LONGEST = 10**7  # rows of one range


def parse_indices(text: str) -> list[int]:
    """ "3,7,20-29": single rows and ranges, both ends included; or the name of a text file of such, with commas, spaces
    or lines between them and remarks behind #.

    Raises:
        FileNotFoundError, ValueError: there is no such file, or something in it is no row; one sentence.
    """
    if re.fullmatch(r"[\d\s,-]*", text):
        return _rows(text, f"{text!r}")
    try:
        held = Path(text).read_text()
    except FileNotFoundError:
        raise FileNotFoundError(
            f"The indices {text!r} name no rows, and there is no such file; write 3,7,20-29, counted from 0."
        ) from None
    except (OSError, ValueError) as error:
        raise ValueError(f"The indices {text!r} name no rows and no file of text; write 3,7,20-29.") from error
    return _rows(" ".join(line.partition("#")[0] for line in held.splitlines()), f"of {text}")


def _rows(text: str, where: str) -> list[int]:
    rows: list[int] = []
    for part in re.split(r"\s*,\s*|\s+", text.strip().strip(",")):
        match = re.fullmatch(r"(\d{1,15})(?:-(\d{1,15}))?", part)
        if not match:
            raise ValueError(f"The indices {where} name no rows at {part[:30]!r}; write 3,7,20-29, counted from 0.")
        low, high = int(match[1]), int(match[2] or match[1])
        if not low <= high < low + LONGEST:
            raise ValueError(f"The indices {part!r} are an empty or endless range; write the smaller row first.")
        rows += range(low, high + 1)
    return rows
