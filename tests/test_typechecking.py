"""The tests check shapes and types at all: a shape that an annotation excludes is an error, in each test anew."""

import typing

import pytest
import torch
from jaxtyping import Float, TypeCheckError
from torch import Tensor

import typechecking
from plica.core.model.rounding import has_offset
from plica.solver.bfgs_sqp.state import Best

if typing.TYPE_CHECKING:
    from nowhere import Nothing  # type: ignore[import-not-found]


@pytest.mark.parametrize("again", range(2))
def test_a_wrong_shape_is_noticed_at_the_first_call_of_each_test(again):
    with pytest.raises(TypeCheckError, match=r"has_offset\(\) parameter logits"):
        has_offset(torch.zeros(()))
    with pytest.raises(TypeCheckError, match="has_offset"):
        has_offset("logits")
    with pytest.raises(TypeCheckError, match=r"Best.__init__\(\) parameter x"):
        Best(x=1, f=2, violation=3)


def test_a_wrong_kind_is_noticed_however_often_another_was_right():
    for _ in range(2 * typechecking.ENOUGH):
        typechecking.next_test()
        has_offset(torch.zeros(1, 2))
    typechecking.next_test()
    with pytest.raises(TypeCheckError, match="has_offset"):
        has_offset(torch.zeros(1, 2).int())


def products(
    a: Float[Tensor, "r n"], b: Float[Tensor, " n"], *, rows: "int | None" = None, other: "Nothing" = 0
) -> "Float[Tensor, ' r']":
    return (a @ b)[:rows]


def test_a_letter_is_one_size_in_arguments_and_answer():
    checked = typechecking.with_check(products)
    assert checked(torch.ones(2, 3), torch.ones(3), rows=9).tolist() == [3, 3]
    for arguments, words in (
        (dict(a=torch.ones(2, 1), b=torch.ones(3)), "parameter b"),
        (dict(a=torch.ones(2, 3), b=torch.ones(3), rows=1), "return"),
        (dict(a=torch.ones(2, 3).int(), b=torch.ones(3)), "parameter a"),
        (dict(a=torch.ones(2, 3), b=torch.ones(3), rows=1.5), "parameter rows"),
    ):
        with pytest.raises(TypeCheckError, match=words):
            checked(**arguments)
    assert checked(torch.ones(4, 5), torch.ones(5)).tolist() == [5] * 4  # other sizes in another call
