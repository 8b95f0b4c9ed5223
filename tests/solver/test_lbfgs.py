"""Limited-memory BFGS with a damping that changes: against a dense product of updates of the damped pairs."""

import torch

from plica.solver.lbfgs import DampedLBFGS
from plica.solver.rows import dot


def dense(pairs, t, n):
    """The inverse Hessian by the textbook update (Nocedal, Wright, Eq. 6.17) from gamma I."""
    damped = [(s, y + t * s) for s, y in pairs]
    s, y = damped[-1]
    H = (s @ y) / (y @ y) * torch.eye(n, dtype=s.dtype)
    for s, y in damped:
        V = torch.eye(n, dtype=s.dtype) - torch.outer(s, y) / (s @ y)
        H = V @ H @ V.T + torch.outer(s, s) / (s @ y)
    return H


def quadratic(rows=3, n=12, seed=0):
    """A positive definite Hessian per row, condition number about 1e3."""
    generator = torch.Generator().manual_seed(seed)
    Q = torch.linalg.qr(torch.randn(rows, n, n, generator=generator, dtype=torch.float64))[0]
    return Q @ torch.diag_embed(torch.logspace(0, 3, n, dtype=torch.float64).expand(rows, n)) @ Q.transpose(1, 2)


def updated(A, steps, pairs):
    rows, n = A.shape[:2]
    generator = torch.Generator().manual_seed(1)
    memory, kept = DampedLBFGS.start(rows, A[:, 0], pairs), [[] for _ in range(rows)]
    for _ in range(steps):
        s = torch.randn(rows, n, generator=generator, dtype=A.dtype)
        y = (A @ s[:, :, None])[:, :, 0]
        memory.update(s, y)
        for row in range(rows):
            kept[row] = [*kept[row], (s[row], y[row])][-pairs:]
    return memory, kept


def test_against_dense_updates():
    """Before the memory is full, when it is, and after slots were used again; damped or not."""
    A, generator = quadratic(), torch.Generator().manual_seed(2)
    q, g = torch.randn(2, 3, 12, generator=generator, dtype=A.dtype)
    for steps in (1, 3, 4, 5, 9):
        memory, kept = updated(A, steps, 4)
        for t in (torch.zeros(3), torch.tensor([0.0, 0.5, 40.0])):
            Hq, Hg = memory.solve(memory.products(q, g), t.double()).unbind(1)
            for row in range(3):
                H = dense(kept[row], float(t[row]), 12)
                torch.testing.assert_close(Hq[row], H @ q[row], rtol=1e-8, atol=1e-10)
                torch.testing.assert_close(Hg[row], H @ g[row], rtol=1e-8, atol=1e-10)


def test_the_secant_equation_holds_for_the_newest_pair():
    A = quadratic()
    memory, kept = updated(A, 6, 4)
    s, y = (torch.stack([kept[row][-1][i] for row in range(3)]) for i in (0, 1))
    t = torch.tensor([0.0, 1.0, 7.0], dtype=A.dtype)
    found = memory.solve(memory.products(y + t[:, None] * s), t)
    torch.testing.assert_close(found[:, 0], s, rtol=1e-8, atol=1e-10)


def test_without_pairs_it_is_the_identity_and_pairs_without_curvature_are_not_updated():
    memory = DampedLBFGS.start(2, torch.zeros(2, 5, dtype=torch.float64), 3)
    q = torch.arange(10, dtype=torch.float64).view(2, 5)
    s = torch.ones(2, 5, dtype=torch.float64)
    memory.update(s, torch.stack([-s[0], torch.full((5,), torch.nan).double()]))
    assert (memory.pairs.count == 0).all()
    found = memory.solve(memory.products(q, 2 * q), torch.zeros(2).double())
    torch.testing.assert_close(found, torch.stack([q, 2 * q], 1))


def test_products_that_come_with_a_new_pair_are_those_of_all_pairs():
    A, generator = quadratic(), torch.Generator().manual_seed(4)
    memory, _ = updated(A, 5, 4)
    s, q = torch.randn(2, 3, 12, generator=generator, dtype=A.dtype)
    products = memory.update(s, (A @ s[:, :, None])[:, :, 0], q, s)
    for found, expected in zip(products, memory.products(q, s), strict=True):
        torch.testing.assert_close(found, expected)


def test_curvature_along_a_direction():
    """The change y of the gradient is what the newest step s has brought: H y = s."""
    memory, kept = updated(quadratic(), 6, 4)
    s, y = (torch.stack([kept[row][-1][i] for row in range(3)]) for i in (0, 1))
    torch.testing.assert_close(memory.along(y), dot(y, y) / dot(y, s))
