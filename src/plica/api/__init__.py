"""plica.attack in three steps: checks of its arguments (entry), coordinates (batch), attack and judge (judged)."""

from plica.api.batch import default_batch_size
from plica.api.entry import attack, methods
from plica.api.progress import Progress

__all__ = ["Progress", "attack", "default_batch_size", "methods"]
