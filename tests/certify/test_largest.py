"""Which of the radii that float32 proves is the answer."""

import pytest
import torch

from plica.certify.certificate import Evidence
from plica.certify.prove import Prover
from plica.certify.radius import _Found, _largest


@pytest.mark.parametrize(
    ("least", "holds", "expected"),
    [(0.5, 1.0, 1.0), (0.5, 0.9999, 1 - 1e-3 / 4), (0.5, 0.995, 0.99), (0.5, 0.9, 0.6), (0.995, 0.995, None)],
)
def test_no_radius_below_the_one_that_is_proved_already(least, holds, expected):
    """Of 0.6 and 1, which float32 proves, what float64 confirms: radii up to `holds`."""
    proof, prover = Evidence(torch.zeros(0, dtype=torch.uint8), ()), object.__new__(Prover)
    prover.confirm = lambda radius, leaves: proof if radius <= holds else None  # type: ignore[method-assign]
    answer = _largest(prover, [_Found(0.6, [], None, {}), _Found(1.0, [], None, {})], least)
    assert answer == (None if expected is None else (expected, proof))
