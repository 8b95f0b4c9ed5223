"""Training with the solvers of the attacks: hard inputs for any distance, in any training loop."""

from plica.training.hard import Hard
from plica.training.inner import Inner, Union

__all__ = ["Hard", "Inner", "Union"]
