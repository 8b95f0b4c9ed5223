"""Rows of records: taken, put back, joined; products that do not see how many rows there are."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from plica.solver.rows import ALIGN, aligned, bmm, dot, join, put, refill, take, write


@dataclass(frozen=True)
class Inner:
    y: Tensor
    name: str = "inner"


@dataclass(frozen=True)
class Outer:
    x: Tensor
    inner: Inner
    count: int = 3
    nothing: None = None


def outer(r=5):
    return Outer(torch.arange(2.0 * r).view(r, 2), Inner(10 * torch.arange(r)))


def test_take():
    rows = torch.tensor([4, 0, 0])
    part = take(outer(), rows)
    assert part.x.tolist() == [[8, 9], [0, 1], [0, 1]]
    assert part.inner.y.tolist() == [40, 0, 0]
    assert (part.count, part.inner.name, part.nothing) == (3, "inner", None)


def test_what_is_taken_is_a_copy():
    whole = outer()
    part = take(whole, torch.tensor([1, 2]))
    part.x.zero_()
    assert whole.x[1].tolist() == [2, 3]


def test_put_is_the_inverse_of_take():
    whole, rows = outer(), torch.tensor([3, 1])
    part = take(whole, rows)
    part.x.add_(100)
    part.inner.y.add_(1)
    put(whole, rows, part)
    assert whole.x.tolist() == [[0, 1], [102, 103], [4, 5], [106, 107], [8, 9]]
    assert whole.inner.y.tolist() == [0, 11, 20, 31, 40]


def test_put_all_rows():
    whole = outer()
    put(whole, slice(None), Outer(-whole.x, whole.inner))
    assert torch.equal(whole.x, -outer().x)
    assert torch.equal(whole.inner.y, outer().inner.y)


def test_join():
    both = join(take(outer(), torch.tensor([1])), take(outer(), torch.tensor([0, 4])))
    assert both.inner.y.tolist() == [10, 0, 40]
    assert both.x.shape == (3, 2)
    assert both.count == 3


@pytest.mark.parametrize("fresh", [0, 1, 3])
def test_refill_keeps_the_rows_that_are_not_done(fresh):
    """Whatever their order: fresh rows stand where others were done, and the rest close the gaps."""
    done = torch.tensor([True, False, False, True, True])
    new = Outer(torch.arange(100.0, 100 + 2 * fresh).view(fresh, 2), Inner(1000 + 10 * torch.arange(fresh)))
    live = refill(outer(), done, new if fresh else None, fresh)
    assert sorted(live.inner.y.tolist()) == [10, 20, *new.inner.y.tolist()]
    for x, y in zip(live.x.tolist(), live.inner.y.tolist(), strict=True):
        assert x[0] == (y / 5 if y < 1000 else 100 + (y - 1000) / 5)


@pytest.mark.parametrize("n", [1, 3, 4, 16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.long])
def test_write(n, dtype):
    t, expected = torch.zeros(5, 2, n, dtype=dtype), torch.zeros(5, 2, n, dtype=dtype)
    rows, values = torch.tensor([4, 1]), torch.arange(4 * n).view(2, 2, n).to(dtype)
    write(t, rows, values)
    expected[rows] = values
    assert torch.equal(t, expected)


def test_write_keeps_nan():
    t = torch.zeros(2, 4)
    write(t, torch.tensor([1]), torch.full((1, 4), torch.nan))
    assert t.isnan().sum(1).tolist() == [0, 4]


@pytest.mark.parametrize("n", [5, 16, 75])
def test_aligned(n):
    t = torch.randn(3, 2, n)
    wide = aligned(t)
    assert wide.shape[-1] % ALIGN == 0
    assert torch.equal(wide[..., :n], t)
    assert not wide[..., n:].any()


# as the solver multiplies: few weights by tall vectors, and tall vectors by tall vectors, of aligned length
COMPANY = ([7], [0, 39], [5, 4, 3], [1, 2, 3, 4, 6], range(8), range(17), range(33))


@pytest.mark.parametrize("n", [16, 48, 192, 3072, 3088])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("k", "p"), [(1, 1), (1, 2), (1, 3), (1, 8), (1, 20), (2, 2), (2, 8), (3, 8), (4, 20)])
def test_products_do_not_see_how_many_rows_there_are(n, dtype, k, p):
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(40, *shape, generator=generator, dtype=dtype)

    w, kept, V = draw(k, p), draw(p, n), draw(k, n)
    mixed, products = bmm(w, kept), bmm(V, kept.transpose(1, 2))
    torch.testing.assert_close(mixed, torch.einsum("rkp,rpn->rkn", w, kept), rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(products, torch.einsum("rkn,rpn->rkp", V, kept), rtol=1e-4, atol=1e-3)
    for rows in map(list, COMPANY):
        assert torch.equal(bmm(w[rows], kept[rows]), mixed[rows]), rows
        assert torch.equal(bmm(V[rows], kept[rows].transpose(1, 2)), products[rows]), rows


@pytest.mark.parametrize("n", [1, 5, 48, 1000, 3072])
def test_inner_products(n):
    a, b = torch.randn(2, 40, n, generator=torch.Generator().manual_seed(1))
    together = dot(a, b)
    torch.testing.assert_close(together.double(), (a.double() * b.double()).sum(1), rtol=1e-4, atol=1e-3)
    for rows in ([7], [0, 39], list(range(17))):
        assert torch.equal(dot(a[rows], b[rows]), together[rows])
