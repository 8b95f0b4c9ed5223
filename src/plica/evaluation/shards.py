"""Which chunks of a plan a shard does."""

from __future__ import annotations

import re

from plica.evaluation.plan import PlanError


def parse_shard(text: str | None) -> tuple[int, int]:
    """ "2/8" as (1, 8): chunks 1, 9, 17, ..., counted from 0.

    Raises:
        PlanError: it is not a valid shard.
    """
    match = re.fullmatch(r"(\d+)/(\d+)", text or "1/1")
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise PlanError(f"The shard {text!r} is not valid; write i/N with i from 1 to N, such as 2/8.")
    return int(match[1]) - 1, int(match[2])
