"""Checks that a model returns a tensor of logits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor


def check_output(out: Any, x: Tensor) -> None:
    """Raises ValueError unless `out`, which a model returned for x, is a floating-point tensor with an entry for each
    image."""
    fits = isinstance(out, Tensor) and out.ndim > 0 and len(out) == len(x) and out.numel() > 0
    if fits and out.is_floating_point():
        return
    seen = f"{out.dtype} of shape {tuple(out.shape)}" if isinstance(out, Tensor) else type(out).__name__
    raise ValueError(
        f"The model must return floating-point logits of shape (b, classes), or with a goal of shape (b, ...), "
        f"here b = {len(x)}, got {seen}; wrap it in a function that does{_wrapper(out)}."
    )


def _wrapper(out: object) -> str:
    """An example of a function that takes logits out of what a model returns, where it returns several things."""
    entries = dict(out) if isinstance(out, Mapping) else dict(enumerate(out)) if isinstance(out, tuple | list) else {}
    name = next((name for name, entry in entries.items() if isinstance(entry, Tensor)), None)
    if name is not None:
        return f", such as lambda x: model(x)[{name!r}]"
    return ", such as lambda x: model(x).logits" if isinstance(getattr(out, "logits", None), Tensor) else ""
