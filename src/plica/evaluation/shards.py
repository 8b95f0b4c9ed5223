"""The chunks of a plan that belong to a shard."""

from __future__ import annotations

import re

from plica.evaluation.strict import PlanError


def parse_shard(text: str | None) -> tuple[int, int]:
    """ "2/8" as (1, 8): the number of the shard, counted from 0, and how many there are; None as (0, 1).

    Raises:
        PlanError: it is not a valid shard.
    """
    match = re.fullmatch(r"(\d+)/(\d+)", text or "1/1")
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise PlanError(f"The shard {text!r} is not valid; write i/N with i from 1 to N, such as 2/8.")
    return int(match[1]) - 1, int(match[2])


def shard_chunks(shard: str | None, images: int, chunk: int) -> range:
    """The numbers of the chunks that a shard does: every N-th one.

    Args:
        shard: "i/N"; None for all chunks.
        images: of the whole plan.
        chunk: images in a chunk; the last one may have fewer.

    Raises:
        PlanError: it is not a valid shard.
    """
    number, shards = parse_shard(shard)
    return range(number, -(-images // chunk), shards)
