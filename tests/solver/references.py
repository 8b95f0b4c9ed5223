"""The reference problems: REFERENCES by name, and those that have no answer.

`collection.py` says how one is written, `test_references.py` solves them all, `benchmarks/references.py` tabulates.
"""

from __future__ import annotations

from solver.collection import Hopeless, Reference, box, join, parts, violation
from solver.hock_schittkowski import HOCK_SCHITTKOWSKI
from solver.nonsmooth import NONSMOOTH

__all__ = ["INFEASIBLE", "REFERENCES", "UNBOUNDED", "Hopeless", "Reference", "parts", "violation"]

REFERENCES: dict[str, Reference] = {reference.name: reference for reference in (*HOCK_SCHITTKOWSKI, *NONSMOOTH)}


def discs(x):
    """Two unit discs four apart; midway both constraints are missed by 3."""
    x1, x2 = x.unbind(-1)
    return x1 + 2 * x2, join((x1 + 2) ** 2 + x2**2 - 1, (x1 - 2) ** 2 + x2**2 - 1)


def catenary(x):
    """cosh(x1) + x2^2 = 0 is missed by at least 1."""
    x1, x2 = x.unbind(-1)
    return (x1 - 1) ** 2 + x2, None, join(x1.cosh() + x2**2)


def kink(x):
    """|x1| + |x2| + 1/2 <= 0 is missed by at least 1/2, at a kink; the box is met."""
    return (x**2).sum(-1) - x[:, 0], join(x.abs().sum(-1) + 0.5, box(x, -3, 3))


def slope(x):
    """Falls along the strip |x2| <= 1."""
    x1, x2 = x.unbind(-1)
    return x1 + x2**2, join(x2.abs() - 1)


def saddle(x):
    """Falls like a square, with no constraint at all."""
    x1, x2 = x.unbind(-1)
    return x2**2 - x1**2


def ray(x):
    """Feasible only on the line x1 = x2, along which f falls."""
    x1, x2 = x.unbind(-1)
    return -x1 - x2, join(-x1), join(x1 - x2)


INFEASIBLE = (
    Hopeless("discs", discs, (1.0, 3.0), 3.0),
    Hopeless("catenary", catenary, (2.0, -1.0), 1.0),
    Hopeless("kink", kink, (2.0, -1.0), 0.5),
)
UNBOUNDED = (
    Hopeless("slope", slope, (0.0, 0.3)),
    Hopeless("saddle", saddle, (0.1, 1.0)),
    Hopeless("ray", ray, (2.0, 1.0)),
)
