"""plica: how far is the nearest input that a PyTorch classifier gets wrong, under any distance."""

import importlib
from typing import TYPE_CHECKING, Any

from plica.ask import Progress, attack, methods
from plica.attacks.task import Status
from plica.metrics import (
    CIEDE2000,
    DISTS,
    LPIPS,
    Held,
    Largest,
    Lp,
    Perceptual,
    Similarity,
    Unsupported,
    Wasserstein,
    Weighted,
    WeightedLp,
)
from plica.perturbations import Flow, HueSaturation, Perturbation, Recolor, RotateTranslate
from plica.questions import MaxLoss, MinRadius
from plica.result import Result
from plica.solver import Variables, minimize

if TYPE_CHECKING:
    from plica.evaluation import evaluate

__all__ = [
    "CIEDE2000",
    "DISTS",
    "LPIPS",
    "Flow",
    "Held",
    "HueSaturation",
    "Largest",
    "Lp",
    "MaxLoss",
    "MinRadius",
    "Perceptual",
    "Perturbation",
    "Progress",
    "Recolor",
    "Result",
    "RotateTranslate",
    "Similarity",
    "Status",
    "Unsupported",
    "Variables",
    "Wasserstein",
    "Weighted",
    "WeightedLp",
    "attack",
    "evaluate",
    "methods",
    "minimize",
]


def __getattr__(name: str) -> Any:
    """What brings packages along that an attack alone has no need of is imported when it is asked for."""
    if name == "evaluate":
        from plica.evaluation import evaluate

        return evaluate
    if name in ("compare", "patterns", "plot", "report", "runs"):
        return importlib.import_module(f"plica.{name}")
    raise AttributeError(f"module 'plica' has no attribute {name!r}")
