"""Exact l_inf and l_1 radii of small dense ReLU networks by mixed-integer programming (Tjeng et al. 2019), with HiGHS.

It shares nothing with plica.certify: numpy alone, bounds by intervals over the whole box.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp


class Program:
    """Variables are added with their bounds, rows with theirs."""

    def __init__(self):
        self.low, self.high, self.integer, self.rows = [], [], [], []

    def variables(self, low, high, integer=False):
        first = len(self.low)
        self.low += list(low)
        self.high += list(high)
        self.integer += [int(integer)] * len(low)
        return np.arange(first, len(self.low))

    def row(self, terms, low, high):
        """low <= sum of factor * variable <= high; terms: pairs (variables, factors)."""
        self.rows.append((terms, low, high))

    def minimise(self, objective):
        n = len(self.low)
        A, low, high = np.zeros((len(self.rows), n)), *np.array([row[1:] for row in self.rows]).T
        for k, (terms, _, _) in enumerate(self.rows):
            for variables, factors in terms:
                A[k, variables] += factors
        cost = np.zeros(n)
        cost[objective] = 1
        found = milp(
            cost,
            constraints=LinearConstraint(A, low, high),
            integrality=self.integer,
            bounds=Bounds(self.low, self.high),
            options={"mip_rel_gap": 1e-7},
        )
        return found.fun if found.status == 0 else np.inf


def radius(layers, slope, x, label, p):
    """The distance of the nearest point of [0, 1]^n that is not classified as `label`; inf where there is none.

    layers: [(W, b), ...] with z -> max(z, slope z) between; p: inf or 1.
    """
    others = [j for j in range(len(layers[-1][1])) if j != label]
    return min(_to_class(layers, slope, x, label, other, p) for other in others)


def _to_class(layers, slope, x, label, other, p):
    program, n = Program(), len(x)
    z = program.variables(np.zeros(n), np.ones(n))
    t = program.variables(np.zeros(n if p == 1 else 1), np.ones(n if p == 1 else 1))
    for i in range(n):  # |z_i - x_i| <= t_i
        of = t[i] if p == 1 else t[0]
        program.row([(z[i], 1), (of, -1)], -np.inf, x[i])
        program.row([(z[i], 1), (of, 1)], x[i], np.inf)
    size = program.variables([0], [n])
    program.row([(size, 1), (t, -1)], 0, 0)
    low, high = np.zeros(n), np.ones(n)
    for k, (W, b) in enumerate(layers):
        middle, half = W @ (low + high) / 2 + b, np.abs(W) @ (high - low) / 2
        low, high = middle - half, middle + half
        before = program.variables(low, high)
        for i, (w, c) in enumerate(zip(W, b, strict=True)):
            program.row([(before[i], 1), (z, -w)], c, c)
        z = before if k == len(layers) - 1 else _relu(program, before, low, high, slope)
        if k < len(layers) - 1:
            low, high = np.maximum(low, slope * low), np.maximum(high, slope * high)
    program.row([(z[other], 1), (z[label], -1)], 0, np.inf)
    return program.minimise(size)


def _relu(program, before, low, high, slope):
    """y = slope z + (1 - slope) a with a = max(z, 0), by a binary for each neuron."""
    n = len(before)
    a = program.variables(np.zeros(n), np.maximum(high, 0))
    on = program.variables(np.zeros(n), np.ones(n), integer=True)
    y = program.variables(np.maximum(low, slope * low), np.maximum(high, slope * high))
    for i in range(n):
        program.row([(a[i], 1), (before[i], -1)], 0, np.inf)
        program.row([(a[i], 1), (on[i], -max(high[i], 0))], -np.inf, 0)
        program.row([(a[i], 1), (before[i], -1), (on[i], -min(low[i], 0))], -np.inf, -min(low[i], 0))
        program.row([(y[i], 1), (before[i], -slope), (a[i], slope - 1)], 0, 0)
    return y
