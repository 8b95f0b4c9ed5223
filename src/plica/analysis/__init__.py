"""Conclusions from runs: contenders, their comparison with intervals, patterns of perturbations."""
