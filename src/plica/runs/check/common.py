"""Errors for broken files of a run in any format, and strings of JSON that are safe to print on a terminal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from plica.utils.messages import one_line, plain

DEEPEST = 50  # levels of a JSON file
ADVICE = "restore the file or run it again"


class BrokenRunError(ValueError):
    """A file of a run is missing, broken or not as the schema has it; one sentence that names it."""


def printable(value: Any, level: int = 0) -> Any:
    """A JSON value whose texts hold nothing that a terminal would obey.

    Raises:
        RecursionError: it is nested too deep.
    """
    if level > DEEPEST:
        raise RecursionError("nested too deep")
    if isinstance(value, dict):
        return {plain(key): printable(part, level + 1) for key, part in value.items()}
    if isinstance(value, list):
        return [printable(part, level + 1) for part in value]
    return plain(value) if isinstance(value, str) else value


def parsed_notes(file: Path, content: str | bytes) -> Any:
    try:
        return printable(json.loads(content))
    except (ValueError, RecursionError) as error:
        raise BrokenRunError(f"The notes of {file} are broken ({one_line(error)}); {ADVICE}.") from error


def check_file(file: Path) -> None:
    if not file.is_file():  # a pipe would be waited for
        raise BrokenRunError(f"{file} is not there, or not a regular file; {ADVICE}.")
