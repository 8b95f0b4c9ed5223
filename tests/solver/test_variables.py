"""Named unknowns: there and back, several problems at once, and a problem whose answer is known."""

from __future__ import annotations

import pytest
import torch

import plica
from plica.solver import Variables

VARIABLES = Variables.shaped(W=(2, 3), t=())


def test_flat_and_split_are_inverse():
    W, t = torch.randn(5, 2, 3), torch.randn(5)
    x = VARIABLES.flat(W=W, t=t)
    assert x.shape == (5, 7)
    back = VARIABLES.split(x)
    assert torch.equal(back["W"], W)
    assert torch.equal(back["t"], t)
    assert torch.equal(VARIABLES.flat(W=W[0], t=t[0]), x[0])


def test_the_smallest_bound_on_a_matrix_of_given_sum():
    # max |W_ij| = t is least where all entries are equal: t = 12 / 6
    def bound(W, t):
        entries = W.flatten(1)
        return t, torch.cat([entries - t[:, None], -entries - t[:, None]], 1), entries.sum(1, keepdim=True) - 12

    start = VARIABLES.flat(
        W=torch.arange(6.0, dtype=torch.float64).view(2, 3), t=torch.tensor(9.0, dtype=torch.float64)
    )
    solution = plica.minimize(VARIABLES.wrap(bound), start)
    found = VARIABLES.split(solution.x)
    assert abs(float(found["t"]) - 2) < 1e-5
    assert torch.allclose(found["W"], torch.full((2, 3), 2.0, dtype=torch.float64), atol=1e-4)


@pytest.mark.parametrize("values", [{"W": torch.zeros(2, 3)}, {"W": torch.zeros(3, 2), "t": torch.zeros(())}])
def test_wrong_names_and_shapes_are_refused(values):
    with pytest.raises(ValueError, match="Values"):
        VARIABLES.flat(**values)
