"""Exact solutions of small linear and quadratic programs, by scipy."""

import numpy as np
from scipy.optimize import linprog, minimize


def least_norm(p, planes, rise, low, high):
    """min ||z||_p  s.t.  planes z >= rise, low <= z <= high."""
    k, n = planes.shape
    box = list(zip(low, high, strict=True))
    if p == 2:
        rules = {"type": "ineq", "fun": lambda z: planes @ z - rise, "jac": lambda z: planes}
        start = np.clip(0, low, high)
        options = {"maxiter": 500, "ftol": 1e-14}
        found = minimize(lambda z: z @ z / 2, start, jac=lambda z: z, bounds=box, constraints=rules, options=options)
        return np.sqrt(2 * found.fun)
    if p == 1:
        sides = [(0, max(0, b)) for b in high] + [(0, max(0, -a)) for a in low]
        return linprog(np.ones(2 * n), -np.hstack([planes, -planes]), -rise, bounds=sides).fun
    one = np.ones((n, 1))
    rows = [[-planes, np.zeros((k, 1))], [np.eye(n), -one], [-np.eye(n), -one]]
    limits = np.concatenate([-rise, np.zeros(2 * n)])
    return linprog(np.append(np.zeros(n), 1), np.block(rows), limits, bounds=[*box, (0, None)]).fun
