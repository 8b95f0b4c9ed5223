"""The nearest point for distances with a proximal map, kept whole (solver/linearized)."""
