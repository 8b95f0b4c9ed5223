"""Row numbers of the images to use, written as text or read from a file."""

from __future__ import annotations

import re
from pathlib import Path

from plica.utils.files import read_small
from plica.utils.messages import one_line, shown

LONGEST = 10**7  # rows of one range


def parse_indices(text: str) -> list[int]:
    """The rows, counted from 0, of a text such as "3,7,20-29": single rows and ranges, both ends included. The text may
    also be the name of a file that lists these, separated by commas, spaces or lines, with comments after #.

    Raises:
        FileNotFoundError, ValueError: there is no such file, or something in it is not a row; one sentence.
    """
    if re.fullmatch(r"[\d\s,-]*", text):
        return _rows(text, f"{text!r}")
    try:
        content = read_small(Path(text))
    except FileNotFoundError:
        raise FileNotFoundError(
            f"The indices {text!r} are neither rows nor an existing file; write 3,7,20-29, counted from 0."
        ) from None
    except (OSError, ValueError) as error:
        raise ValueError(
            f"The indices {shown(text)} are neither rows nor a text file ({one_line(error)}); write 3,7,20-29, from 0."
        ) from error
    return _rows(" ".join(line.partition("#")[0] for line in content.splitlines()), f"of {text}")


def _rows(text: str, where: str) -> list[int]:
    rows: list[int] = []
    for part in re.split(r"\s*,\s*|\s+", text.strip().strip(",")):
        match = re.fullmatch(r"(\d{1,15})(?:-(\d{1,15}))?", part)
        if not match:
            raise ValueError(
                f"The indices {where} have {part[:30]!r}, which is not a row or a range; write 3,7,20-29, from 0."
            )
        low, high = int(match[1]), int(match[2] or match[1])
        if not low <= high < low + LONGEST:
            raise ValueError(f"The indices {part!r} are an empty or endless range; write the smaller row first.")
        rows += range(low, high + 1)
    return rows
