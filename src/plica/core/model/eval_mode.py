"""Puts a model into eval mode while an attack runs, and restores its mode."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from plica.core.model.counted import Model

DROPOUT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)


@contextmanager
def eval_mode(model: Model, with_dropout: bool = False) -> Iterator[None]:
    """Eval mode for a module and all its submodules, whose modes are restored afterwards. Functions do not change.

    with_dropout: if the module is in eval mode but some of its dropout layers are in train mode, which must be on
        purpose, these layers stay in train mode.
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
