"""The precision that a search runs the model in: its own, or half precision by torch.autocast, which is faster on GPUs.

A success is judged in the model's own precision in any case.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from plica.core.model.fitting import Model
from plica.metrics import Unsupported
from plica.utils.messages import shown

OWN = "own"
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
PRECISIONS = (OWN, *DTYPES)


class Autocast(nn.Module):
    """A model under torch.autocast for the device of x."""

    def __init__(self, model: Model, dtype: torch.dtype):
        super().__init__()
        self.model, self.dtype = model, dtype
        self.eval()

    def forward(self, x: Float[Tensor, "b *image"]) -> Any:
        with torch.autocast(x.device.type, self.dtype):
            return self.model(x)


def check_precision(precision: Any, levels: Any, draws: Any) -> None:
    """Check the name, and that half precision is not combined with levels or draws.

    Raises:
        ValueError: there is no such precision.
        Unsupported: levels or draws are asked for as well.
    """
    if precision is not None and precision not in PRECISIONS:
        names = ", ".join(map(repr, PRECISIONS))
        raise ValueError(
            f"There is no precision {shown(precision)}; choose from {names}; {PRECISIONS[0]!r} is the model's own."
        )
    if precision in DTYPES and (levels is not None or draws is not None):
        what = "draws" if levels is None else "levels"
        raise Unsupported(f"Searches in {precision} do not support {what}; leave out {what}, or the precision.")


def search_precision(precision: str | None) -> str | None:
    """The precision where it is not the model's own, else None."""
    return None if precision == OWN else precision


@contextmanager
def without_tf32() -> Iterator[None]:
    """Computes matrix products and convolutions in full float32 within the context. Torch has two ways to set this,
    which cannot be mixed: if the newer one was used, the settings stay as they are."""
    before: list[tuple[Any, Any]] = []
    with suppress(RuntimeError):
        before = [(part, part.allow_tf32) for part in (torch.backends.cudnn, torch.backends.cuda.matmul)]
    for part, _ in before:
        part.allow_tf32 = False
    try:
        yield
    finally:
        for part, allowed in before:
            part.allow_tf32 = allowed
