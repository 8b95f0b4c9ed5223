"""plica: how far is the nearest input that a PyTorch classifier gets wrong, under any distance."""

from plica.ask import Progress, attack, methods
from plica.attacks.task import Status
from plica.metrics import Lp, Unsupported
from plica.perturbations import Flow, HueSaturation, Perturbation, Recolor, RotateTranslate
from plica.questions import MaxLoss, MinRadius
from plica.result import Result
from plica.solver import Variables, minimize
from plica.weighted import WeightedLp

__all__ = [
    "Flow",
    "HueSaturation",
    "Lp",
    "MaxLoss",
    "MinRadius",
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
