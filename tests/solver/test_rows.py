"""Rows of records: taken, put back, joined; products that do not see how many rows there are."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from plica.solver.rows import bmm, dot, join, put, take


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


# as the solver multiplies: one or a few columns, tall or small, either factor transposed
SHAPES = [(1, 1), (1, 3), (2, 2), (3, 1), (6, 1), (6, 3), (10, 4)]


@pytest.mark.parametrize("n", [5, 48, 192, 3072])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_products_do_not_see_how_many_rows_there_are(n, dtype):
    generator = torch.Generator().manual_seed(0)
    for p, k in SHAPES:
        a = torch.randn(40, p, n, generator=generator, dtype=dtype)
        b = torch.randn(40, n, k, generator=generator, dtype=dtype)
        together = bmm(a, b)
        torch.testing.assert_close(together, torch.einsum("rpn,rnk->rpk", a, b), rtol=1e-4, atol=1e-3)
        for rows in ([7], [0, 39], [5, 4, 3], list(range(17)), list(range(33))):
            assert torch.equal(bmm(a[rows], b[rows]), together[rows]), (p, k, rows)


@pytest.mark.parametrize("n", [5, 48, 192, 3072])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_transposed_factors_do_not_see_how_many_rows_there_are(n, dtype):
    """A transposed factor takes another kernel, and must keep its layout when a single row gets company."""
    generator = torch.Generator().manual_seed(0)
    for p, k in SHAPES:
        a = torch.randn(40, p, n, generator=generator, dtype=dtype)
        b = torch.randn(40, k, n, generator=generator, dtype=dtype)
        together = bmm(a, b.transpose(1, 2))
        for rows in ([7], [0, 39], [5, 4, 3], list(range(17)), list(range(33))):
            assert torch.equal(bmm(a[rows], b[rows].transpose(1, 2)), together[rows]), (p, k, rows)


@pytest.mark.parametrize("n", [1, 5, 48, 1000, 3072])
def test_inner_products(n):
    a, b = torch.randn(2, 40, n, generator=torch.Generator().manual_seed(1))
    together = dot(a, b)
    torch.testing.assert_close(together.double(), (a.double() * b.double()).sum(1), rtol=1e-4, atol=1e-3)
    for rows in ([7], [0, 39], list(range(17))):
        assert torch.equal(dot(a[rows], b[rows]), together[rows])
