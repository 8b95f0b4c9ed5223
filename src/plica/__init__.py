"""plica: how far is the nearest input that a PyTorch classifier gets wrong, under any distance."""

from plica.ask import Progress, attack, methods
from plica.attacks.task import Status
from plica.metrics import Lp, Unsupported
from plica.questions import MaxLoss, MinRadius
from plica.result import Result
from plica.solver import Variables, minimize
from plica.weighted import WeightedLp

__all__ = [
    "Lp",
    "MaxLoss",
    "MinRadius",
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
