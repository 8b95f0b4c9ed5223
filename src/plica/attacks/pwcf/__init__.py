"""PWCF, the method of the papers: the question folded into few constraints, solved by BFGS-SQP (solver/bfgs_sqp)."""
