"""Whole evaluations, from a plan to a run directory. `evaluate` carries one out, `merge` joins shards, `export` writes
tables."""

from plica.evaluation.parse_plan import read_plan
from plica.evaluation.plan import Plan
from plica.evaluation.run import evaluate
from plica.evaluation.strict import PlanError

__all__ = ["Plan", "PlanError", "evaluate", "read_plan"]
