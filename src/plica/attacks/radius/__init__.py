"""The nearest point for distances with a proximal map, which the solver uses exactly (solver/linearized)."""
