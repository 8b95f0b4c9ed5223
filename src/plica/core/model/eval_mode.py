"""Eval mode while an attack runs, whatever mode a model came in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from plica.core.model.counted import Model

DROPOUT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)


@contextmanager
def eval_mode(model: Model, with_dropout: bool = False) -> Iterator[None]:
    """Eval mode for a module and its submodules, each of whose modes is restored afterwards; nothing for functions.

    with_dropout: of a module in eval mode the layers of dropout that are in train mode, which is on purpose, stay so.
    """
    modules = list(model.modules()) if isinstance(model, nn.Module) else []
    modes = [getattr(module, "training", False) for module in modules]
    kept = with_dropout and isinstance(model, nn.Module) and not model.training
    for module in (module for module, mode in zip(modules, modes, strict=True) if mode):
        module.training = kept and isinstance(module, DROPOUT)
    try:
        yield
    finally:
        for module in (module for module, mode in zip(modules, modes, strict=True) if mode):
            module.training = True
