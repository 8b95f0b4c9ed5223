"""A list of Python code that this user has run from this folder before. A run directory may come from anybody, so code
that it names is run without `--trust` only if it is on this list, which is stored in the user's own state folder.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path


def remember(specs: Iterable[str | None]) -> None:
    """Keep the names of code (file.py:name, module:name) that a command has run, where there is a place for them."""
    with suppress(OSError):
        known = _known()
        new = dict.fromkeys(digest for spec in specs if spec and ":" in spec and (digest := _digest(spec)) not in known)
        if new:
            _file().parent.mkdir(parents=True, exist_ok=True)
            with _file().open("a") as stream:
                stream.writelines(f"{digest}\n" for digest in new)


def is_own(spec: str) -> bool:
    """Whether code of that name was run from this folder before."""
    with suppress(OSError):
        return _digest(spec) in _known()
    return False


def _known() -> set[str]:
    return set(_file().read_text().split()) if _file().is_file() else set()


def _digest(spec: str) -> str:
    """A digest of the name and of the current folder, to which names of files and modules are relative."""
    return hashlib.sha256(f"{Path.cwd()}\0{spec}".encode(errors="surrogateescape")).hexdigest()


def _file() -> Path:
    folder = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(folder) / "plica" / "code-run-before"
