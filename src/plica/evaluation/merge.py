"""Shards of one plan joined to one run. Nothing is computed; files get a second name where the file system allows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from plica import runs
from plica.evaluation.plan import PlanError
from plica.evaluation.prepare import differs
from plica.evaluation.shards import parse_shard
from plica.evaluation.summary import complete, write_summary
from plica.runs.schema import BOUNDS, CHECKS, MANIFEST
from plica.utils.files import copy_whole, locked, write_json


def merge(directories: Sequence[str | Path], out: str | Path) -> runs.Run:
    """Join runs that are shards of one; `out` is a new directory.

    Raises:
        PlanError: they do not belong together, or something is missing; one sentence.
    """
    shards, out = [runs.load(directory) for directory in directories], Path(out)
    if out.exists() and any(out.iterdir()):
        raise PlanError(f"{out} is not empty; give a new directory.")
    first = shards[0].manifest
    for shard in shards:
        if "hashes" not in shard.manifest:
            raise PlanError(f"{shard.directory} is no run of plica evaluate; only those can be merged.")
        difference = differs(shard.manifest, first, shard=False)
        if difference:
            raise PlanError(f"{shard.directory} does not belong to {shards[0].directory}: it is of {difference}.")
        if not complete(shard):
            raise PlanError(f"{shard.directory} is unfinished; run its shard {shard.manifest['shard']} again.")
    _check_all_there(shards)
    with locked(out):
        for shard in shards:
            for file in sorted(shard.directory.glob("inputs/*")) + sorted(shard.directory.glob("parts/*/*")):
                if not file.name.startswith("."):
                    copy_whole(file, out / file.relative_to(shard.directory))
        for name in (BOUNDS, CHECKS):  # the same in all shards that have one
            for file in [shard.directory / name for shard in shards if (shard.directory / name).is_file()][:1]:
                copy_whole(file, out / name)
        write_json(out / MANIFEST, first | {"shard": None, "merged": [_origin(shard) for shard in shards]})
        return write_summary(out)


def _check_all_there(shards: list[runs.Run]) -> None:
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
