"""The tests check shapes and types at all: a shape that an annotation excludes is an error, in each test anew."""

import pytest
import torch
from jaxtyping import TypeCheckError

from plica.core.model.rounding import has_offset
from plica.solver.bfgs_sqp.state import Best


@pytest.mark.parametrize("again", range(2))
def test_a_wrong_shape_is_noticed_at_the_first_call_of_each_test(again):
    with pytest.raises(TypeCheckError, match=r"the parameters of .*has_offset"):
        has_offset(torch.zeros(()))
    with pytest.raises(TypeCheckError, match="has_offset"):
        has_offset("logits")
    with pytest.raises(TypeCheckError, match=r"the parameters of .*Best"):
        Best(x=1, f=2, violation=3)
