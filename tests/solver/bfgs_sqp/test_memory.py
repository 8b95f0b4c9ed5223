"""The inverse Hessian against a dense product of BFGS updates."""

import pytest
import torch

from plica.solver.bfgs_sqp.memory import Dense
from plica.solver.lbfgs import LBFGS

N, ROWS = 7, 5
EYE = torch.eye(N, dtype=torch.float64)


def updated(H, s, y):
    """H after one BFGS update: (I - s y'/s.y) H (I - y s'/s.y) + s s'/s.y."""
    V = EYE - torch.outer(y, s) / (s @ y)
    return V.T @ H @ V + torch.outer(s, s) / (s @ y)


def expected(kind, pairs):
    """H from the pairs of one row: all of them, from s.y/y.y of the first; or the last five, from that of the last."""
    if not pairs:
        return EYE
    if kind == "limited":
        pairs = pairs[-5:]
    s, y = pairs[0 if kind == "dense" else -1]
    H = (s @ y) / (y @ y) * EYE
    for s, y in pairs:
        H = updated(H, s, y)
    return H


def start(kind):
    like = torch.zeros(1, N, dtype=torch.float64)
    return Dense.start(ROWS, like) if kind == "dense" else LBFGS.start(ROWS, like, 5)


def combined(memory, rows, w, G, parts):
    """H (w G).  (s, n)"""
    return memory.combine(rows, w, (w[:, None] @ G)[:, 0], parts)


def matrix(memory, rows):
    """H itself, asked for through its two questions.  (s, n, n)"""
    G = EYE.expand(len(rows), N, N).contiguous()
    P, parts = memory.products(rows, G)
    columns = torch.stack([combined(memory, rows, EYE[i].expand(len(rows), N), G, parts) for i in range(N)], 2)
    torch.testing.assert_close(P, columns)  # both questions have one answer
    return P


def pair(generator, rows, curved=True):
    """s and y = B s with B positive definite, so that s.y > 0; or with s.y < 0."""
    s = torch.randn(rows, N, generator=generator, dtype=torch.float64)
    A = torch.randn(N, N, generator=generator, dtype=torch.float64)
    y = s @ (A @ A.T + 0.1 * EYE)
    return s, y if curved else -y


KINDS = pytest.mark.parametrize("kind", ["dense", "limited"])
# float64; products of up to 13 updates whose condition numbers are about 1e3
CLOSE = {"rtol": 1e-6, "atol": 1e-6}


@KINDS
@pytest.mark.parametrize("length", [0, 1, 2, 4, 5, 6, 9, 13])
def test_against_a_product_of_updates(kind, length):
    """Fewer pairs than slots, as many, and more."""
    generator, memory, every = torch.Generator().manual_seed(0), start(kind), torch.arange(ROWS)
    history = [[] for _ in range(ROWS)]
    G = torch.randn(ROWS, 3, N, generator=generator, dtype=torch.float64)
    for _ in range(length):
        s, y = pair(generator, ROWS)
        P, _ = memory.update(every, s, y, G)
        for i in range(ROWS):
            history[i].append((s[i], y[i]))
    H = torch.stack([expected(kind, pairs) for pairs in history])
    torch.testing.assert_close(matrix(memory, every), H, **CLOSE)
    if length:  # what update returns is the products after the pair
        torch.testing.assert_close(P, G @ H @ G.transpose(1, 2), **CLOSE)


@KINDS
def test_rows_are_updated_by_themselves_in_any_order_and_number(kind):
    """Subsets of rows, out of order, pairs without curvature among them, and a row that is reset."""
    generator, memory = torch.Generator().manual_seed(1), start(kind)
    history = [[] for _ in range(ROWS)]
    for tick, some in enumerate(([4, 0], [1], [2, 1, 0, 3], [3], [0, 4, 2], [2], [2, 0], [0, 1, 2, 3, 4], [0], [0, 2])):
        rows = torch.tensor(some)
        s, y = pair(generator, len(some))
        if tick % 3 == 2:
            y[0] = -y[0]  # no curvature: nothing changes
        G = torch.randn(len(some), 2, N, generator=generator, dtype=torch.float64)
        P, parts = memory.update(rows, s, y, G)
        for j, row in enumerate(some):
            if s[j] @ y[j] > 0:
                history[row].append((s[j], y[j]))
        if tick == 6:
            memory.reset(torch.tensor([2]))
            history[2] = []
            continue
        H = torch.stack([expected(kind, history[row]) for row in some])
        torch.testing.assert_close(P, G @ H @ G.transpose(1, 2), **CLOSE)
        w = torch.randn(len(some), 2, generator=generator, dtype=torch.float64)
        direction = (w[:, None] @ G @ H)[:, 0]
        torch.testing.assert_close(combined(memory, rows, w, G, parts), direction, **CLOSE)
    order = torch.tensor([3, 1, 4, 0])
    torch.testing.assert_close(matrix(memory, order), torch.stack([expected(kind, history[i]) for i in order]), **CLOSE)


@KINDS
def test_resetting_leads_back_to_the_identity(kind):
    generator, memory = torch.Generator().manual_seed(2), start(kind)
    for _ in range(7):
        memory.update(torch.arange(ROWS), *pair(generator, ROWS), torch.zeros(ROWS, 1, N, dtype=torch.float64))
    kept = matrix(memory, torch.tensor([0, 2, 4]))
    memory.reset(torch.tensor([3, 1]))
    assert torch.equal(matrix(memory, torch.tensor([1, 3])), EYE.expand(2, N, N))
    torch.testing.assert_close(matrix(memory, torch.tensor([0, 2, 4])), kept)


@KINDS
def test_positive_definite_whatever_the_pairs(kind):
    generator, memory, every = torch.Generator().manual_seed(3), start(kind), torch.arange(ROWS)
    for _ in range(30):
        s, y = torch.randn(2, ROWS, N, generator=generator, dtype=torch.float64)
        memory.update(every, s, y, torch.zeros(ROWS, 1, N, dtype=torch.float64))
        H = matrix(memory, every)
        values = torch.linalg.eigvalsh((H + H.transpose(1, 2)) / 2)
        assert (values > -1e-12 * values.amax()).all()  # float64; condition numbers of 1e8 and more come up


@KINDS
def test_the_secant_equation(kind):
    generator, memory, every = torch.Generator().manual_seed(4), start(kind), torch.arange(ROWS)
    for _ in range(8):
        s, y = pair(generator, ROWS)
        memory.update(every, s, y, torch.zeros(ROWS, 1, N, dtype=torch.float64))
        torch.testing.assert_close((matrix(memory, every) @ y[:, :, None])[:, :, 0], s, **CLOSE)


@KINDS
def test_a_pair_that_says_nothing_changes_nothing(kind):
    generator, memory, every = torch.Generator().manual_seed(5), start(kind), torch.arange(ROWS)
    G = torch.zeros(ROWS, 1, N, dtype=torch.float64)
    memory.update(every, *pair(generator, ROWS), G)
    before = matrix(memory, every)
    s, y = pair(generator, ROWS, curved=False)
    for step, change in ((s, y), (torch.zeros_like(s), torch.zeros_like(s)), (s, torch.zeros_like(s))):
        memory.update(every, step, change, G)
    assert torch.equal(matrix(memory, every), before)
