"""plica: the distance to the nearest input that a PyTorch classifier gets wrong, for any distance."""

import importlib
from typing import TYPE_CHECKING, Any

from plica import goals
from plica.api import Progress, attack, methods
from plica.bracket import Bracket, bracket
from plica.certify import Certificate, CertificateStatus, certify
from plica.core.formulations import MaxLoss, MinRadius
from plica.core.result import Result
from plica.core.status import Status
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
from plica.solver import Variables, minimize
from plica.utils.notebook import ShownInNotebooks

if TYPE_CHECKING:
    from plica.evaluation import evaluate

__all__ = [
    "CIEDE2000",
    "DISTS",
    "LPIPS",
    "Bracket",
    "Certificate",
    "CertificateStatus",
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
    "bracket",
    "certify",
    "evaluate",
    "goals",
    "methods",
    "minimize",
]


LAZY = {
    "compare": "plica.analysis.compare",
    "compat": "plica.compat",
    "demo": "plica.demo",
    "patterns": "plica.analysis.patterns",
    "plot": "plica.plot",
    "report": "plica.report",
    "runs": "plica.runs",
    "track": "plica.track",
    "training": "plica.training",
    "trust": "plica.trust",
}


def _html(shown: Any) -> str:
    from plica.report.notebook import html  # needs pyarrow, which an attack does not

    return html(shown)


ShownInNotebooks.draw = staticmethod(_html)


def __getattr__(name: str) -> Any:
    """Import attributes that need further packages on first use, so that `import plica` is quick."""
    if name == "evaluate":
        from plica.evaluation import evaluate

        return evaluate
    if name == "__version__":
        from importlib.metadata import version

        return version("plica")
    if name in LAZY:
        return importlib.import_module(LAZY[name])
    raise AttributeError(f"module 'plica' has no attribute {name!r}")
