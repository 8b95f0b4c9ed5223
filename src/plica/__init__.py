"""plica: how far is the nearest input that a PyTorch classifier gets wrong, under any distance."""

from plica.ask import Progress, attack, methods
from plica.attacks.task import Status
from plica.metrics import (
    CIEDE2000,
    LPIPS,
    Largest,
    Lp,
    Perceptual,
    Similarity,
    Unsupported,
    Wasserstein,
    WeightedLp,
)
from plica.perturbations import Flow, HueSaturation, Perturbation, Recolor, RotateTranslate
from plica.questions import MaxLoss, MinRadius
from plica.result import Result
from plica.solver import Variables, minimize

__all__ = [
    "CIEDE2000",
    "LPIPS",
    "Flow",
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
    "WeightedLp",
    "attack",
    "methods",
    "minimize",
]
