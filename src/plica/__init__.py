"""plica: how far is the nearest input that a PyTorch classifier gets wrong, under any distance."""

from plica.ask import Progress, attack, methods
from plica.attacks.task import Status
from plica.metrics import LPIPS, Lp, Perceptual, Unsupported, WeightedLp
from plica.perturbations import Flow, HueSaturation, Perturbation, Recolor, RotateTranslate
from plica.questions import MaxLoss, MinRadius
from plica.result import Result
from plica.solver import Variables, minimize

__all__ = [
    "LPIPS",
    "Flow",
    "HueSaturation",
    "Lp",
    "MaxLoss",
    "MinRadius",
    "Perceptual",
    "Perturbation",
    "Progress",
    "Recolor",
    "Result",
    "RotateTranslate",
    "Status",
    "Unsupported",
    "Variables",
    "WeightedLp",
    "attack",
    "methods",
    "minimize",
]
