"""plica: how far is the nearest input that a PyTorch classifier gets wrong, under any distance."""

from plica.ask import Progress, attack, methods
from plica.attacks.task import Status
from plica.metrics import LPIPS, Lp, Perceptual, Unsupported, WeightedLp
from plica.questions import MaxLoss, MinRadius
from plica.result import Result
from plica.solver import Variables, minimize

__all__ = [
    "LPIPS",
    "Lp",
    "MaxLoss",
    "MinRadius",
    "Perceptual",
    "Progress",
    "Result",
    "Status",
    "Unsupported",
    "Variables",
    "WeightedLp",
    "attack",
    "methods",
    "minimize",
]
