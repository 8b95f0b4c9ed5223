"""Nonsmooth constrained optimisation for many problems at once; knows tensors only."""

from plica.solver.bfgs_sqp.solver import BFGSSQP, Solution
from plica.solver.bfgs_sqp.status import Stop
from plica.solver.minimize import minimize
from plica.solver.problem import Autograd, Evaluation, Problem
from plica.solver.variables import Variables

__all__ = ["BFGSSQP", "Autograd", "Evaluation", "Problem", "Solution", "Stop", "Variables", "minimize"]
