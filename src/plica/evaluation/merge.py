"""Joins the shards of a plan into one run. Nothing is computed; files are hard-linked if the file system allows it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from plica import runs
from plica.evaluation.prepare import differs, is_resumable
from plica.evaluation.shards import parse_shard
from plica.evaluation.strict import PlanError
from plica.evaluation.summary import complete, write_summary
from plica.runs.schema import BOUNDS, CHECKS, MANIFEST
from plica.utils.files import LOCK, copy_whole, locked, write_json, writing


def merge(directories: Sequence[str | Path], out: str | Path) -> runs.Run:
    """Join the shards of one plan; `out` is a new directory.

    Raises:
        PlanError: the runs are not all the shards of one plan.
        OSError: the disk is full, or `out` cannot be written to; it is then left as it was.
    """
    shards, out = [runs.load(directory) for directory in directories], Path(out)
    if out.is_dir() and any(path.name != LOCK for path in out.iterdir()):
        raise PlanError(f"{out} is not empty; give a new directory.")
    first = shards[0].manifest
    for shard in shards:
        if not is_resumable(shard.manifest):
            raise PlanError(f"{shard.directory} is not a whole run of `plica evaluate`; only those can be merged.")
        difference = differs(shard.manifest, first, shard=False)
        if difference:
            raise PlanError(f"{shard.directory} does not belong to {shards[0].directory}: it has {difference}.")
        if not complete(shard):
            raise PlanError(f"{shard.directory} is unfinished; run its shard {shard.manifest['shard']} again.")
    _check_complete(shards)
    ordered = sorted(shards, key=lambda shard: parse_shard(shard.manifest["shard"]))
    with locked(out), _emptied_on_failure(out), writing(out):
        for shard in shards:
            for file in sorted(shard.directory.glob("inputs/*")) + sorted(shard.directory.glob("parts/*/*")):
                if not file.name.startswith("."):
                    copy_whole(file, out / file.relative_to(shard.directory))
        for name in (BOUNDS, CHECKS):  # of the first shard, whose images the whole would be checked on
            for file in [shard.directory / name for shard in ordered if (shard.directory / name).is_file()][:1]:
                copy_whole(file, out / name)
        write_json(out / MANIFEST, first | {"shard": None, "merged": [_origin(shard) for shard in shards]})
        return write_summary(out)


@contextmanager
def _emptied_on_failure(out: Path) -> Iterator[None]:
    """After a failure, remove what was written except for the lock: half a run could be mistaken for a whole one."""
    try:
        yield
    except BaseException:
        for path in [path for path in out.iterdir() if path.name != LOCK]:
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()
        raise


def _check_complete(shards: list[runs.Run]) -> None:
    parsed = [parse_shard(shard.manifest["shard"]) for shard in shards]
    count = parsed[0][1]
    if {total for _, total in parsed} != {count} or len(set(parsed)) < len(parsed):
        names = ", ".join(shard.manifest["shard"] or "all" for shard in shards)
        raise PlanError(f"The shards {names} are not parts of one division; give each of 1/N to N/N once.")
    missing = sorted(set(range(count)) - {number for number, _ in parsed})
    if missing:
        names = ", ".join(f"{number + 1}/{count}" for number in missing)
        raise PlanError(f"The shard {names} is missing; give its directory too.")


def _origin(shard: runs.Run) -> dict[str, Any]:
    return {"shard": shard.manifest["shard"], "versions": shard.manifest["versions"]}
