"""Small QPs against enumeration: every assignment of unknowns to lower end, upper end or free, the best kept."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plica.solver.bfgs_sqp.qp import SCREENED, box_qp, interior_point, screened


def height(Q, q, z):
    """q.z - z.Q z / 2"""
    return (q * z).sum(1) - (z * (Q @ z[:, :, None])[:, :, 0]).sum(1) / 2


def best_height(Q, q, lo, hi, simplex=None):
    """The maximum over the box (and the simplex), by solving the KKT system of every assignment.  (r,)"""
    r, m = q.shape
    best = torch.full((r,), -torch.inf, dtype=q.dtype)
    for ends in itertools.product((0, 1, None), repeat=m):
        free = [i for i in range(m) if ends[i] is None]
        fixed = [i for i in range(m) if ends[i] is not None]
        z = torch.zeros_like(q)
        for i in fixed:
            z[:, i] = (lo, hi)[ends[i]][i]
        A, b = Q[:, free][:, :, free], q[:, free] - (Q[:, free] @ z[:, :, None])[:, :, 0]
        if simplex is not None:
            row = simplex[free].expand(r, 1, -1)
            corner = torch.zeros(r, 1, 1, dtype=q.dtype)
            A = torch.cat([torch.cat([A, row.transpose(1, 2)], 2), torch.cat([row, corner], 2)], 1)
            b = torch.cat([b, (1 - (simplex * z).sum(1))[:, None]], 1)
        if free:
            z[:, free] = (torch.linalg.pinv(A, hermitian=True) @ b[:, :, None])[:, : len(free), 0]
        inside = ((z >= lo - 1e-9) & (z <= hi + 1e-9)).all(1)
        if simplex is not None:
            inside &= ((simplex * z).sum(1) - 1).abs() < 1e-9
        best = torch.where(inside, torch.maximum(best, height(Q, q, z)), best)
    return best


def random(m, rank, r=40, seed=0, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    G = torch.randn(r, m, rank, generator=generator, dtype=torch.float64)
    return scale * G @ G.transpose(1, 2), scale * torch.randn(r, m, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("m", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("rank", [1, 5])
@pytest.mark.parametrize("equalities", [0, 1])
def test_solutions_in_a_box(m, rank, equalities):
    """As many as three unknowns are exact; more are as good as the interior point method is."""
    Q, q = random(m, rank)
    hi = torch.ones(m, dtype=torch.float64)
    lo = torch.zeros(m, dtype=torch.float64)
    lo[m - equalities :] = -1
    z = box_qp(Q, q, lo, hi)
    tol = 1e-12 if m <= 3 else 1e-9
    assert ((z >= lo - 1e-12) & (z <= hi + 1e-12)).all()
    torch.testing.assert_close(height(Q, q, z), best_height(Q, q, lo, hi), rtol=tol, atol=tol)


@pytest.mark.parametrize("scale", [1e-12, 1e12])
@pytest.mark.parametrize("m", [2, 4])
def test_scale(m, scale):
    Q, q = random(m, m, scale=scale)
    lo, hi = torch.zeros(m, dtype=torch.float64), torch.ones(m, dtype=torch.float64)
    z = box_qp(Q, q, lo, hi)
    torch.testing.assert_close(height(Q, q, z) / scale, best_height(Q, q, lo, hi) / scale, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("m", [1, 2, 3])
def test_without_curvature_the_ends_are_best(m):
    _, q = random(m, 1)
    lo, hi = torch.full((m,), -1, dtype=torch.float64), torch.ones(m, dtype=torch.float64)
    assert torch.equal(box_qp(torch.zeros(40, m, m, dtype=torch.float64), q, lo, hi), q.sign())


def test_nothing_to_choose():
    empty = torch.zeros(3, 0, dtype=torch.float64)
    assert box_qp(torch.zeros(3, 0, 0, dtype=torch.float64), empty, empty[0], empty[0]).shape == (3, 0)


@pytest.mark.parametrize("m", [3, 5])
@pytest.mark.parametrize("rank", [1, 2, 8])
@pytest.mark.parametrize("marked", [0, 2, 3])
def test_interior_point(m, rank, marked):
    """With and without a simplex over the first unknowns, as the stationarity QP has it; rank-deficient too."""
    Q, q = random(m, rank, seed=1)
    lo, hi = torch.zeros(m, dtype=torch.float64), torch.ones(m, dtype=torch.float64)
    simplex = (torch.arange(m) < marked).double() if marked else None
    if marked:
        hi[:marked] = 2
        q[:, :marked] = 0
    z = interior_point(Q, q, lo.expand_as(q), hi.expand_as(q), simplex)
    assert ((z >= lo) & (z <= hi)).all()
    if simplex is not None:
        torch.testing.assert_close((simplex * z).sum(1), torch.ones(40, dtype=torch.float64), rtol=0, atol=1e-9)
    found = best_height(Q, q, lo, hi, simplex)
    torch.testing.assert_close(
        height(Q, q, z), found, rtol=1e-8, atol=1e-8
    )  # float64, scaled by the largest entry of Q


def test_interior_point_rows_do_not_see_each_other():
    """To the bit, although some rows converge long before others."""
    Q, q = random(5, 2, seed=2)
    q[::3] *= 100
    lo, hi = torch.zeros_like(q), torch.ones_like(q)
    together = interior_point(Q, q, lo, hi)
    for rows in ([3], [7, 0], list(range(20, 40))):
        assert torch.equal(interior_point(Q[rows], q[rows], lo[rows], hi[rows]), together[rows])


@pytest.mark.parametrize("m", [1, 2, 3])
def test_box_rows_do_not_see_each_other(m):
    Q, q = random(m, 2, seed=3)
    lo, hi = torch.zeros(m, dtype=torch.float64), torch.ones(m, dtype=torch.float64)
    together = box_qp(Q, q, lo, hi)
    for rows in ([3], [7, 0], list(range(20, 40))):
        assert torch.equal(box_qp(Q[rows], q[rows], lo, hi), together[rows])


# small whole numbers: singular matrices, ties and gradients of zero are as likely as any others
whole = st.integers(-3, 3).map(float)


@st.composite
def programs(draw):
    """Q = G G^T, q, lo, hi of m unknowns, of which up to three may have no room: more are solved from the interior."""
    m = draw(st.integers(1, 5))
    rank = draw(st.integers(0, m))
    G = torch.tensor(draw(st.lists(whole, min_size=m * rank, max_size=m * rank)), dtype=torch.float64).view(m, rank)
    q = torch.tensor(draw(st.lists(whole, min_size=m, max_size=m)), dtype=torch.float64)
    lo = torch.tensor(draw(st.lists(whole, min_size=m, max_size=m)), dtype=torch.float64)
    room = torch.tensor(draw(st.lists(st.integers(0 if m <= 3 else 1, 3), min_size=m, max_size=m)), dtype=torch.float64)
    return (G @ G.T)[None], q[None], lo, lo + room


@settings(max_examples=60, deadline=None)
@given(programs())
def test_no_point_of_the_box_promises_more(program):
    """g.(v - z) <= 0 for every v of the box, g = q - Q z the gradient: necessary and sufficient, as the height is
    concave. The largest is taken at a corner, unknown by unknown."""
    Q, q, lo, hi = program
    z = box_qp(Q, q, lo, hi)
    assert ((z >= lo) & (z <= hi)).all()
    g = q - (Q @ z[:, :, None])[:, :, 0]
    promised = torch.maximum(g * (lo - z), g * (hi - z)).sum(1)
    assert promised <= 1e-6 * (1 + Q.abs().amax())  # the ridge of a singular face, and where the interior method ends


@pytest.mark.parametrize("marked", [0, 4])
def test_many_unknowns_are_screened_to_the_same_answer(marked):
    """Of rank 20, as from 20 unknowns of the problem; most of the 400 are 0. Also alone, to the bit."""
    generator = torch.Generator().manual_seed(0)
    m = 400
    assert m > SCREENED
    factor = torch.randn(3, m, 20, generator=generator, dtype=torch.float64)
    Q, q = factor @ factor.mT, torch.randn(3, m, generator=generator, dtype=torch.float64) - 1
    lo, hi = torch.zeros_like(q), torch.ones_like(q)
    lo[:, -2:] = -1
    simplex = torch.zeros(m, dtype=torch.float64)
    simplex[:marked], hi[:, :marked] = 1, 2
    marks = simplex if marked else None
    z, every = screened(Q, q, lo, hi, marks), interior_point(Q, q, lo, hi, marks)
    best, found = ((q * w).sum(1) - (w * (Q * w[:, None]).sum(2)).sum(1) / 2 for w in (every, z))
    torch.testing.assert_close(found, best, rtol=1e-8, atol=1e-8)  # of rank 20, so that z itself is not unique
    assert (z >= lo).all()
    assert (z <= hi).all()
    torch.testing.assert_close((z * simplex).sum(1), torch.full((3,), float(marked > 0), dtype=torch.float64))
    assert (z == 0).sum() > m
    for row in range(3):
        one = slice(row, row + 1)
        assert torch.equal(screened(Q[one], q[one], lo[one], hi[one], marks), z[one])
