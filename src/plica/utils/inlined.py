"""Lets torch trace through parts of a model that are compiled."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def inlined() -> Iterator[None]:
    """Within this context, what torch.compile made is traced as it was written; torch refuses to trace it otherwise."""
    dynamo = sys.modules.get("torch._dynamo")  # loaded where anything was compiled; it takes a second
    if dynamo is None:
        yield
        return
    with dynamo.config.patch(error_on_nested_fx_trace=False):
        yield
