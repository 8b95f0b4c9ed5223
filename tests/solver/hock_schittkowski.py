"""Smooth problems of W. Hock, K. Schittkowski, Test Examples for Nonlinear Programming Codes, Springer 1981.

Their g(x) >= 0 is -g(x) <= 0 here, and bounds are constraints like any other. Starts are the published ones.
Optima without a closed form were recomputed to ten digits with an SQP in float64 from twenty starts.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf, sqrt

from solver.collection import Fun, Reference, box, join

HOCK_SCHITTKOWSKI: list[Reference] = []


Point = tuple[float, ...]


def hs(number: int, x0: Point, f_star: float, x_star: Point | None = None) -> Callable[[Fun], Fun]:
    """Enter the decorated function into the collection."""

    def enter(fun: Fun) -> Fun:
        source = f"Hock, Schittkowski 1981, problem {number}"
        HOCK_SCHITTKOWSKI.append(Reference(f"hs{number}", fun, x0, f_star, source, "smooth", x_star))
        return fun

    return enter


@hs(6, (-1.2, 1), 0, (1, 1))
def hs6(x):
    x1, x2 = x.unbind(-1)
    return (1 - x1) ** 2, None, join(10 * (x2 - x1**2))


@hs(7, (2, 2), -sqrt(3), (0, sqrt(3)))
def hs7(x):
    x1, x2 = x.unbind(-1)
    return (1 + x1**2).log() - x2, None, join((1 + x1**2) ** 2 + x2**2 - 4)


@hs(10, (-10, 10), -1, (0, 1))
def hs10(x):
    x1, x2 = x.unbind(-1)
    return x1 - x2, join(3 * x1**2 - 2 * x1 * x2 + x2**2 - 1)


@hs(12, (0, 0), -30, (2, 3))
def hs12(x):
    x1, x2 = x.unbind(-1)
    return x1**2 / 2 + x2**2 - x1 * x2 - 7 * x1 - 7 * x2, join(4 * x1**2 + x2**2 - 25)


@hs(14, (2, 2), 9 - 2.875 * sqrt(7), ((sqrt(7) - 1) / 2, (sqrt(7) + 1) / 4))
def hs14(x):
    x1, x2 = x.unbind(-1)
    return (x1 - 2) ** 2 + (x2 - 1) ** 2, join(x1**2 / 4 + x2**2 - 1), join(x1 - 2 * x2 + 1)


@hs(21, (-1, -1), -99.96, (2, 0))
def hs21(x):
    x1, x2 = x.unbind(-1)
    return x1**2 / 100 + x2**2 - 100, join(10 - 10 * x1 + x2, box(x, (2, -50), 50))


@hs(22, (2, 2), 1, (1, 1))
def hs22(x):
    x1, x2 = x.unbind(-1)
    return (x1 - 2) ** 2 + (x2 - 1) ** 2, join(x1 + x2 - 2, x1**2 - x2)


@hs(24, (1, 0.5), -1, (3, sqrt(3)))
def hs24(x):
    x1, x2 = x.unbind(-1)
    c = join(x2 - x1 / sqrt(3), -x1 - sqrt(3) * x2, x1 + sqrt(3) * x2 - 6, box(x, 0, inf))
    return ((x1 - 3) ** 2 - 9) * x2**3 / (27 * sqrt(3)), c


@hs(26, (-2.6, 2, 2), 0, (1, 1, 1))
def hs26(x):
    x1, x2, x3 = x.unbind(-1)
    return (x1 - x2) ** 2 + (x2 - x3) ** 4, None, join((1 + x2**2) * x1 + x3**4 - 3)


@hs(27, (2, 2, 2), 0.04, (-1, 1, 0))
def hs27(x):
    x1, x2, x3 = x.unbind(-1)
    return (x1 - 1) ** 2 / 100 + (x2 - x1**2) ** 2, None, join(x1 + x3**2 + 1)


@hs(29, (1, 1, 1), -16 * sqrt(2), (4, 2 * sqrt(2), 2))
def hs29(x):
    x1, x2, x3 = x.unbind(-1)
    return -x1 * x2 * x3, join(x1**2 + 2 * x2**2 + 4 * x3**2 - 48)


@hs(30, (1, 1, 1), 1, (1, 0, 0))
def hs30(x):
    x1, x2, _ = x.unbind(-1)
    return (x**2).sum(-1), join(1 - x1**2 - x2**2, box(x, (1, -10, -10), 10))


@hs(31, (1, 1, 1), 6, (1 / sqrt(3), sqrt(3), 0))
def hs31(x):
    x1, x2, x3 = x.unbind(-1)
    return 9 * x1**2 + x2**2 + 9 * x3**2, join(1 - x1 * x2, box(x, (-10, 1, -10), (10, 10, 1)))


@hs(32, (0.1, 0.7, 0.2), 1, (0, 0, 1))
def hs32(x):
    x1, x2, x3 = x.unbind(-1)
    c = join(x1**3 - 6 * x2 - 4 * x3 + 3, box(x, 0, inf))
    return (x1 + 3 * x2 + x3) ** 2 + 4 * (x1 - x2) ** 2, c, join(1 - x1 - x2 - x3)


@hs(35, (0.5, 0.5, 0.5), 1 / 9, (4 / 3, 7 / 9, 4 / 9))
def hs35(x):
    x1, x2, x3 = x.unbind(-1)
    f = 9 - 8 * x1 - 6 * x2 - 4 * x3 + 2 * x1**2 + 2 * x2**2 + x3**2 + 2 * x1 * x2 + 2 * x1 * x3
    return f, join(x1 + x2 + 2 * x3 - 3, box(x, 0, inf))


@hs(39, (2, 2, 2, 2), -1, (1, 1, 0, 0))
def hs39(x):
    x1, x2, x3, x4 = x.unbind(-1)
    return -x1, None, join(x2 - x1**3 - x3**2, x1**2 - x2 - x4**2)


@hs(40, (0.8, 0.8, 0.8, 0.8), -0.25, (2 ** (-1 / 3), 2**-0.5, 2 ** (-11 / 12), 2**-0.25))
def hs40(x):
    x1, x2, x3, x4 = x.unbind(-1)
    return -x1 * x2 * x3 * x4, None, join(x1**3 + x2**2 - 1, x1**2 * x4 - x3, x4**2 - x2)


@hs(42, (1, 1, 1, 1), 28 - 10 * sqrt(2), (2, 2, 0.6 * sqrt(2), 0.8 * sqrt(2)))
def hs42(x):
    x1, x2, x3, x4 = x.unbind(-1)
    return (x1 - 1) ** 2 + (x2 - 2) ** 2 + (x3 - 3) ** 2 + (x4 - 4) ** 2, None, join(x1 - 2, x3**2 + x4**2 - 2)


def rosen_suzuki(x):
    """f and the three c <= 0 of problem 43, which is also posed without constraints as a maximum."""
    x1, x2, x3, x4 = x.unbind(-1)
    f = x1**2 + x2**2 + 2 * x3**2 + x4**2 - 5 * x1 - 5 * x2 - 21 * x3 + 7 * x4
    c1 = x1**2 + x2**2 + x3**2 + x4**2 + x1 - x2 + x3 - x4 - 8
    c2 = x1**2 + 2 * x2**2 + x3**2 + 2 * x4**2 - x1 - x4 - 10
    c3 = 2 * x1**2 + x2**2 + x3**2 + 2 * x1 - x2 - x4 - 5
    return f, join(c1, c2, c3)


hs(43, (0, 0, 0, 0), -44, (0, 1, 2, -1))(rosen_suzuki)


@hs(48, (3, 5, -3, 2, -2), 0, (1, 1, 1, 1, 1))
def hs48(x):
    x1, x2, x3, x4, x5 = x.unbind(-1)
    return (x1 - 1) ** 2 + (x2 - x3) ** 2 + (x4 - x5) ** 2, None, join(x.sum(-1) - 5, x3 - 2 * (x4 + x5) + 3)


@hs(49, (10, 7, 2, -3, 0.8), 0, (1, 1, 1, 1, 1))
def hs49(x):
    x1, x2, x3, x4, x5 = x.unbind(-1)
    f = (x1 - x2) ** 2 + (x3 - 1) ** 2 + (x4 - 1) ** 4 + (x5 - 1) ** 6
    return f, None, join(x1 + x2 + x3 + 4 * x4 - 7, x3 + 5 * x5 - 6)


@hs(50, (35, -31, 11, 5, -5), 0, (1, 1, 1, 1, 1))
def hs50(x):
    x1, x2, x3, x4, x5 = x.unbind(-1)
    f = (x1 - x2) ** 2 + (x2 - x3) ** 2 + (x3 - x4) ** 4 + (x4 - x5) ** 2
    return f, None, join(x1 + 2 * x2 + 3 * x3 - 6, x2 + 2 * x3 + 3 * x4 - 6, x3 + 2 * x4 + 3 * x5 - 6)


@hs(52, (2, 2, 2, 2, 2), 1859 / 349, (-33 / 349, 11 / 349, 180 / 349, -158 / 349, 11 / 349))
def hs52(x):
    x1, x2, x3, x4, x5 = x.unbind(-1)
    f = (4 * x1 - x2) ** 2 + (x2 + x3 - 2) ** 2 + (x4 - 1) ** 2 + (x5 - 1) ** 2
    return f, None, join(x1 + 3 * x2, x3 + x4 - 2 * x5, x2 - x5)


@hs(60, (2, 2, 2), 0.0325682002)
def hs60(x):
    x1, x2, x3 = x.unbind(-1)
    h = join(x1 * (1 + x2**2) + x3**4 - 4 - 3 * sqrt(2))
    return (x1 - 1) ** 2 + (x1 - x2) ** 2 + (x2 - x3) ** 4, box(x, -10, 10), h


@hs(61, (0, 0, 0), -143.6461422)
def hs61(x):
    x1, x2, x3 = x.unbind(-1)
    f = 4 * x1**2 + 2 * x2**2 + 2 * x3**2 - 33 * x1 + 16 * x2 - 24 * x3
    return f, None, join(3 * x1 - 2 * x2**2 - 7, 4 * x1 - x3**2 - 11)


@hs(63, (2, 2, 2), 961.7151721)
def hs63(x):
    x1, x2, x3 = x.unbind(-1)
    f = 1000 - x1**2 - 2 * x2**2 - x3**2 - x1 * x2 - x1 * x3
    return f, box(x, 0, inf), join(8 * x1 + 14 * x2 + 7 * x3 - 56, (x**2).sum(-1) - 25)


@hs(64, (1, 1, 1), 6299.842428)
def hs64(x):
    x1, x2, x3 = x.unbind(-1)
    f = 5 * x1 + 50000 / x1 + 20 * x2 + 72000 / x2 + 10 * x3 + 144000 / x3
    return f, join(4 / x1 + 32 / x2 + 120 / x3 - 1, box(x, 1e-5, inf))


@hs(65, (-5, 5, 0), 0.9535288567)
def hs65(x):
    x1, x2, x3 = x.unbind(-1)
    f = (x1 - x2) ** 2 + (x1 + x2 - 10) ** 2 / 9 + (x3 - 5) ** 2
    return f, join((x**2).sum(-1) - 48, box(x, (-4.5, -4.5, -5), (4.5, 4.5, 5)))


@hs(66, (0, 1.05, 2.9), 0.5181632741)
def hs66(x):
    x1, x2, x3 = x.unbind(-1)
    return 0.2 * x3 - 0.8 * x1, join(x1.exp() - x2, x2.exp() - x3, box(x, 0, (100, 100, 10)))


@hs(71, (1, 5, 5, 1), 17.0140172892)
def hs71(x):
    x1, _, x3, x4 = x.unbind(-1)
    return x1 * x4 * x[:, :3].sum(-1) + x3, join(25 - x.prod(-1), box(x, 1, 5)), join((x**2).sum(-1) - 40)


@hs(76, (0.5, 0.5, 0.5, 0.5), -103 / 22, (3 / 11, 23 / 11, 0, 6 / 11))
def hs76(x):
    x1, x2, x3, x4 = x.unbind(-1)
    f = x1**2 + x2**2 / 2 + x3**2 + x4**2 / 2 - x1 * x3 + x3 * x4 - x1 - 3 * x2 + x3 - x4
    return f, join(x1 + 2 * x2 + x3 + x4 - 5, 3 * x1 + x2 + 2 * x3 - x4 - 4, 1.5 - x2 - 4 * x3, box(x, 0, inf))


@hs(77, (2, 2, 2, 2, 2), 0.24150513)
def hs77(x):
    x1, x2, x3, x4, x5 = x.unbind(-1)
    f = (x1 - 1) ** 2 + (x1 - x2) ** 2 + (x3 - 1) ** 2 + (x4 - 1) ** 4 + (x5 - 1) ** 6
    return f, None, join(x1**2 * x4 + (x4 - x5).sin() - 2 * sqrt(2), x2 + x3**4 * x4**2 - 8 - sqrt(2))


@hs(79, (2, 2, 2, 2, 2), 0.0787768209)
def hs79(x):
    x1, x2, x3, x4, x5 = x.unbind(-1)
    f = (x1 - 1) ** 2 + (x1 - x2) ** 2 + (x2 - x3) ** 2 + (x3 - x4) ** 4 + (x4 - x5) ** 4
    h = join(x1 + x2**2 + x3**3 - 2 - 3 * sqrt(2), x2 - x3**2 + x4 + 2 - 2 * sqrt(2), x1 * x5 - 2)
    return f, None, h


def box_and_equalities(x):
    """The constraints that problems 80 and 81 share."""
    x1, x2, x3, x4, x5 = x.unbind(-1)
    bound = (2.3, 2.3, 3.2, 3.2, 3.2)
    h = join((x**2).sum(-1) - 10, x2 * x3 - 5 * x4 * x5, x1**3 + x2**3 + 1)
    return box(x, [-u for u in bound], bound), h


@hs(80, (-2, 2, 2, -1, -1), 0.0539498478)
def hs80(x):
    return x.prod(-1).exp(), *box_and_equalities(x)


@hs(81, (-2, 2, 2, -1, -1), 0.0539498478)
def hs81(x):
    return x.prod(-1).exp() - (x[:, 0] ** 3 + x[:, 1] ** 3 + 1) ** 2 / 2, *box_and_equalities(x)


def wong(x):
    """f and the four c <= 0 of problem 100, which is also posed without constraints as a maximum."""
    x1, x2, x3, x4, x5, x6, x7 = x.unbind(-1)
    f = (x1 - 10) ** 2 + 5 * (x2 - 12) ** 2 + x3**4 + 3 * (x4 - 11) ** 2 + 10 * x5**6 + 7 * x6**2 + x7**4
    c1 = 2 * x1**2 + 3 * x2**4 + x3 + 4 * x4**2 + 5 * x5 - 127
    c2 = 7 * x1 + 3 * x2 + 10 * x3**2 + x4 - x5 - 282
    c3 = 23 * x1 + x2**2 + 6 * x6**2 - 8 * x7 - 196
    c4 = 4 * x1**2 + x2**2 - 3 * x1 * x2 + 2 * x3**2 + 5 * x6 - 11 * x7
    return f - 4 * x6 * x7 - 10 * x6 - 8 * x7, join(c1, c2, c3, c4)


hs(100, (1, 2, 0, 4, 0, 1, 1), 680.6300573)(wong)


@hs(113, (2, 3, 5, 5, 1, 2, 7, 3, 6, 10), 24.30620907)
def hs113(x):
    x1, x2, x3, x4, x5, x6, x7, x8, x9, x10 = x.unbind(-1)
    f = x1**2 + x2**2 + x1 * x2 - 14 * x1 - 16 * x2 + (x3 - 10) ** 2 + 4 * (x4 - 5) ** 2 + (x5 - 3) ** 2 + 45
    f = f + 2 * (x6 - 1) ** 2 + 5 * x7**2 + 7 * (x8 - 11) ** 2 + 2 * (x9 - 10) ** 2 + (x10 - 7) ** 2
    c = join(
        4 * x1 + 5 * x2 - 3 * x7 + 9 * x8 - 105,
        10 * x1 - 8 * x2 - 17 * x7 + 2 * x8,
        -8 * x1 + 2 * x2 + 5 * x9 - 2 * x10 - 12,
        3 * (x1 - 2) ** 2 + 4 * (x2 - 3) ** 2 + 2 * x3**2 - 7 * x4 - 120,
        5 * x1**2 + 8 * x2 + (x3 - 6) ** 2 - 2 * x4 - 40,
        (x1 - 8) ** 2 / 2 + 2 * (x2 - 4) ** 2 + 3 * x5**2 - x6 - 30,
        x1**2 + 2 * (x2 - 2) ** 2 - 2 * x1 * x2 + 14 * x5 - 6 * x6,
        -3 * x1 + 6 * x2 + 12 * (x9 - 8) ** 2 - 7 * x10,
    )
    return f, c
