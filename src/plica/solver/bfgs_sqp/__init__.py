"""BFGS-SQP (Curtis, Mitchell, Overton 2017) for nonsmooth constrained problems, for many rows at once."""
