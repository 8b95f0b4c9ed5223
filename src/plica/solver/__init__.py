"""Nonsmooth constrained optimisation for many problems at once, in terms of tensors only.

One rule for what changes, in all of this package:

- A record with `@dataclass(frozen=True)` never changes: neither its fields nor the numbers in its tensors. Settings are
  such records.
- State that changes from step to step is a plain `@dataclass`. Only the solver that owns it assigns its fields and
  writes into its tensors. Tensors that are passed to a solver's `start` belong to the record from then on.
- No two fields share a tensor, since a row written in one would change in the other.
"""

from plica.solver.bfgs_sqp.solver import BFGSSQP
from plica.solver.bfgs_sqp.state import Solution
from plica.solver.bfgs_sqp.status import Stop
from plica.solver.minimize import minimize
from plica.solver.problem import Autograd, Evaluation, Problem
from plica.solver.variables import Variables

__all__ = ["BFGSSQP", "Autograd", "Evaluation", "Problem", "Solution", "Stop", "Variables", "minimize"]
