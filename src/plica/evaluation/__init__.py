"""Whole evaluations: a plan in, a run directory out. `evaluate` carries one out, `merge` joins shards, `export` writes
tables."""

from plica.evaluation.plan import Plan, PlanError, read_plan
from plica.evaluation.run import evaluate

__all__ = ["Plan", "PlanError", "evaluate", "read_plan"]
