"""Nonsmooth problems: maxima, norms, eigenvalues; with constraints and without.

"Luksan, Vlcek 2000": Test problems for nonsmooth unconstrained and linearly constrained optimization (TR 798, Prague).
"Haarala, Miettinen, Makela 2004": New limited memory bundle method for large-scale nonsmooth optimization.
The source of a problem without a publication is the argument that gives its optimum.
"""

from __future__ import annotations

from collections.abc import Callable
from math import cos, pi, sqrt

import torch

from solver.collection import Fun, Reference, box, join, largest
from solver.hock_schittkowski import rosen_suzuki, wong

NONSMOOTH: list[Reference] = []
LUKSAN, HAARALA = "Luksan, Vlcek 2000", "Haarala, Miettinen, Makela 2004"


def nonsmooth(source: str, x0, f_star: float, x_star=None, name: str = "") -> Callable[[Fun], Fun]:
    """Enter the decorated function into the collection, under its own name unless told otherwise."""

    def enter(fun: Fun) -> Fun:
        answer = None if x_star is None else tuple(x_star)
        NONSMOOTH.append(Reference(name or fun.__name__, fun, tuple(x0), f_star, source, "nonsmooth", answer))
        return fun

    return enter


ROSENBROCK = ((1 - 1 / sqrt(2)) ** 2, (1 / sqrt(2), 0.5))


@nonsmooth("Curtis, Mitchell, Overton 2017", (-2, 2), *ROSENBROCK, name="rosenbrock_far")  # infeasible start
@nonsmooth("Curtis, Mitchell, Overton 2017", (-0.5, 0), *ROSENBROCK)
def rosenbrock(x):
    x1, x2 = x.unbind(-1)
    return 8 * (x1**2 - x2).abs() + (1 - x1) ** 2, join(largest(sqrt(2) * x1, 2 * x2) - 1)


@nonsmooth(f"{LUKSAN}, 2.2 (Charalambous, Bandler)", (1, -0.1), 1.9522244939)
def cb2(x):
    x1, x2 = x.unbind(-1)
    return largest(x1**2 + x2**4, (2 - x1) ** 2 + (2 - x2) ** 2, 2 * (x2 - x1).exp())


@nonsmooth(f"{LUKSAN}, 2.4 (Charalambous, Bandler)", (2, 2), 2, (1, 1))
def cb3(x):
    x1, x2 = x.unbind(-1)
    return largest(x1**4 + x2**2, (2 - x1) ** 2 + (2 - x2) ** 2, 2 * (x2 - x1).exp())


@nonsmooth(f"{LUKSAN}, 2.5 (Demyanov, Malozemov)", (1, 1), -3, (0, -3))
def dem(x):
    x1, x2 = x.unbind(-1)
    return largest(5 * x1 + x2, -5 * x1 + x2, x1**2 + x2**2 + 4 * x2)


@nonsmooth(f"{LUKSAN}, 2.6", (-1, 5), 7.2, (1.2, 2.4))
def ql(x):
    x1, x2 = x.unbind(-1)
    square = x1**2 + x2**2
    return largest(square, square + 10 * (4 - 4 * x1 - x2), square + 10 * (6 - x1 - 2 * x2))


@nonsmooth(f"{LUKSAN}, 2.7", (-0.5, -0.5), -sqrt(2), (sqrt(0.5), sqrt(0.5)))
def lq(x):
    x1, x2 = x.unbind(-1)
    return largest(-x1 - x2, -x1 - x2 + x1**2 + x2**2 - 1)


@nonsmooth(f"{LUKSAN}, 2.8", (0.8, 0.6), -1, (1, 0))
def mifflin1(x):
    x1, x2 = x.unbind(-1)
    return -x1 + 20 * (x1**2 + x2**2 - 1).relu()


@nonsmooth(f"{LUKSAN}, 2.9", (-1, -1), -1, (1, 0))
def mifflin2(x):
    x1, x2 = x.unbind(-1)
    return -x1 + 2 * (x1**2 + x2**2 - 1) + 1.75 * (x1**2 + x2**2 - 1).abs()


@nonsmooth("Madsen, Schjaer-Jacobsen 1978", (1, 2), -0.3896595161)
def mad1(x):
    x1, x2 = x.unbind(-1)
    return largest(x1**2 + x2**2 + x1 * x2 - 1, x1.sin(), -x2.cos()), join(0.5 - x1 - x2)


@nonsmooth(f"{LUKSAN}, 2.12", (0, 0, 0, 0), -44, (0, 1, 2, -1), name="rosen_suzuki_max")
def rosen_suzuki_max(x):
    f, c = rosen_suzuki(x)
    return f + 10 * c.amax(-1).relu()


@nonsmooth("Shor 1985", (0, 0, 0, 0, 1), 22.6001620958)
def shor(x):
    rows = ("00000", "21113", "12112", "14122", "32101", "02101", "11111", "10121", "00210", "11200")
    a = x.new_tensor([[float(digit) for digit in row] for row in rows])
    b = x.new_tensor([1, 5, 10, 2, 4, 3, 1.7, 2.5, 6, 3.5])
    return (b * ((x[:, None] - a) ** 2).sum(-1)).amax(-1)


@nonsmooth("Lemarechal, Mifflin 1978", (1,) * 10, -0.8414083346)
def maxquad(x):
    """max over k = 1..5 of x'A_k x - b_k'x."""
    n = x.shape[1]
    i = torch.arange(1, n + 1, dtype=x.dtype, device=x.device)
    low, high = torch.minimum(i[:, None], i), torch.maximum(i[:, None], i)
    pieces = []
    for k in torch.arange(1, 6, dtype=x.dtype, device=x.device):
        off = (low / high).exp() * (low * high).cos() * k.sin() * (1 - torch.eye(n, dtype=x.dtype, device=x.device))
        a = off + torch.diag(i / n * k.sin().abs() + off.abs().sum(-1))
        pieces.append((x[:, :, None] * a * x[:, None]).sum((1, 2)) - ((i / k).exp() * (i * k).sin() * x).sum(-1))
    return largest(*pieces)


RAMP = tuple(float(i if i <= 10 else -i) for i in range(1, 21))  # the published start of MAXQ and MAXL


@nonsmooth(f"{HAARALA} and earlier", RAMP, 0, (0,) * 20)
def maxq(x):
    return (x**2).amax(-1)


@nonsmooth(f"{LUKSAN}, 2.21", RAMP, 0, (0,) * 20)
def maxl(x):
    return x.abs().amax(-1)


@nonsmooth(f"{LUKSAN} (Asaadi)", (1, 2, 0, 4, 0, 1, 1), 680.6300573)
def wong1(x):
    f, c = wong(x)
    return f + 10 * c.amax(-1).relu()


@nonsmooth(HAARALA, (-0.5,) * 20, -19 * sqrt(2), (sqrt(0.5),) * 20)
def chained_lq(x):
    y, z = x[:, :-1], x[:, 1:]
    return largest(-y - z, -y - z + y**2 + z**2 - 1).sum(-1)


@nonsmooth(HAARALA, (2,) * 20, 38, (1,) * 20)
def chained_cb3(x):
    """Their problem I, the sum of maxima."""
    y, z = x[:, :-1], x[:, 1:]
    return largest(y**4 + z**2, (2 - y) ** 2 + (2 - z) ** 2, 2 * (z - y).exp()).sum(-1)


@nonsmooth(HAARALA, (2,) * 10, 18, (1,) * 10)
def chained_cb3_ii(x):
    """Their problem II, the maximum of sums."""
    y, z = x[:, :-1], x[:, 1:]
    return largest((y**4 + z**2).sum(-1), ((2 - y) ** 2 + (2 - z) ** 2).sum(-1), 2 * (z - y).exp().sum(-1))


@nonsmooth("soft threshold at 1: |x - a|^2 = 1 + 1 + 1 + 1/4", (3, -2, 1, 0.5), 3, (2, -1, 0, 0))
def l1_in_ball(x):
    return x.abs().sum(-1), join(((x - x.new_tensor([3, -2, 1, 0.5])) ** 2).sum(-1) - 3.25)


NORMAL = tuple(cos(1 + 3 * i) for i in range(12))  # no two entries of equal size


@nonsmooth("duality of l1 and linf: f* = 1 / max|a|", (0.5,) * 12, 1 / max(map(abs, NORMAL)))
def l1_on_plane(x):
    return x.abs().sum(-1), None, join(x @ x.new_tensor(NORMAL) - 1)


@nonsmooth("duality of l1 and linf: f* = 1 / sum|a|", (0.5,) * 12, 1 / sum(map(abs, NORMAL)))
def linf_to_halfspace(x):
    return x.abs().amax(-1), join(1 - x @ x.new_tensor(NORMAL))


@nonsmooth("duality of l2 with itself: f* = 1 / |a|", (0.5,) * 12, 1 / sqrt(sum(a * a for a in NORMAL)))
def l2_to_halfspace(x):
    return torch.linalg.vector_norm(x, dim=-1), join(1 - x @ x.new_tensor(NORMAL))


@nonsmooth("duality of l1 and linf: f* = -max|a|", (0.5,) * 12, -max(map(abs, NORMAL)))
def plane_in_l1_ball(x):
    return x @ x.new_tensor(NORMAL), join(x.abs().sum(-1) - 1)


@nonsmooth("duality of l1 and linf: f* = -sum|a|", (0.5,) * 12, -sum(map(abs, NORMAL)))
def plane_in_linf_ball(x):
    return x @ x.new_tensor(NORMAL), box(x, -1, 1)


SPARSE = (0, 0, 2, 0, 0, 0, 0, -1, 0, 0, 0, 0)


@nonsmooth("x* is the only solution, by its dual certificate", (0.5,) * 12, 3, SPARSE)
def basis_pursuit(x):
    """A'y = sign(x*) on the support of x* and |A'y| < 0.82 elsewhere, for some y (found by linear programming)."""
    i, j = torch.arange(1, 7, device=x.device), torch.arange(1, 13, device=x.device)
    a = (i[:, None] * j**2).to(x.dtype).cos()
    return x.abs().sum(-1), None, (x - x.new_tensor(SPARSE)) @ a.T


@nonsmooth("Chebyshev: t^3 - 3t/4 = T_3(t)/4 departs least from zero", (1, 1, 1), 0.25, (0, 0.75, 0))
def chebyshev(x):
    t = (torch.arange(13, dtype=x.dtype, device=x.device) * pi / 12).cos()  # the extrema of T_3 are among the points
    return (t**3 - x @ torch.stack([t**0, t, t**2])).abs().amax(-1)


@nonsmooth("Fermat's point of a convex quadrilateral is where its diagonals cross", (2, 3), 4 + 3, (0, 0))
def fermat(x):
    corners = x.new_tensor([[-1, 0], [3, 0], [0, -1], [0, 2], [0, 0]])  # the fifth puts a kink there
    return torch.linalg.vector_norm(x[:, None] - corners, dim=-1).sum(-1)


@nonsmooth("the circle through the ends of a diameter holds the rest", (3, -4), 5, (1, 1))
def enclosing_circle(x):
    points = x.new_tensor([[-2, -3], [4, 5], [1, 5], [5, 2], [-3, 2]])
    return torch.linalg.vector_norm(x[:, None] - points, dim=-1).amax(-1)


@nonsmooth("Lovasz 1979: theta of the pentagon", (1, -1, 0, 0.5, -0.5), sqrt(5), ((sqrt(5) - 5) / 2,) * 5)
def theta(x):
    """Largest eigenvalue of the matrix of ones with the entries of the five edges free; threefold at the optimum."""
    i = torch.arange(5)
    matrix = x.new_ones(len(x), 5, 5)
    edges = torch.zeros(5, 5, 5, dtype=x.dtype, device=x.device)
    edges[i, i, (i + 1) % 5] = edges[i, (i + 1) % 5, i] = 1
    return torch.linalg.eigvalsh(matrix + (x[:, :, None, None] * edges).sum(1))[:, -1]


@nonsmooth("Parrott 1978: max(|[A B]|, |[A; C]|) = 5", (1, 2, -1, 3), 5)
def parrott(x):
    """Spectral norm of [[A, B], [C, X]] over the 2 x 2 block X; A = diag(3, 1), B = diag(4, 1), C = diag(1, 2)."""
    a, b, c = torch.diag(x.new_tensor([3, 1])), torch.diag(x.new_tensor([4, 1])), torch.diag(x.new_tensor([1, 2]))
    left = torch.cat([a, c]).expand(len(x), 4, 2)
    right = torch.cat([b.expand(len(x), 2, 2), x.reshape(-1, 2, 2)], dim=1)
    return torch.linalg.matrix_norm(torch.cat([left, right], dim=2), ord=2)


@nonsmooth("a vertex of the l1 ball", (0.2, 0.5), -1)  # (1, 0) and (-1, 0)
def concave(x):
    """Whatever mu > 0, the penalty function falls for ever far outside; near the feasible set it has its minimum."""
    x1, x2 = x.unbind(-1)
    return -(x1**2) + x2.abs(), join(x1.abs() + x2.abs() - 1)
