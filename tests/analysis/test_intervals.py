"""Intervals beside published values."""

import numpy as np
import pytest

from plica.analysis.intervals import accuracy, band, wilson


def test_wilson_intervals_of_newcombe_1998():
    """Two-sided confidence intervals for the single proportion, Statistics in Medicine 17, table I, method 3."""
    for hits, total, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0, 0.1611),
                                   (1, 29, 0.0061, 0.1718)):  # fmt: skip
        assert wilson(np.array(hits / total), total) == pytest.approx((low, high), abs=5e-5)
    assert wilson(np.array(1.0), 20)[1] == 1
    assert wilson(np.array(0.0), 0) == (0, 1)


def test_the_band_of_an_accuracy_curve_is_wilsons_at_each_distance():
    radius, at = np.array([0.0, 0.1, 0.2, np.inf]), np.array([0.0, 0.15, 9.0])
    assert accuracy(radius, at).tolist() == [0.75, 0.5, 0.25]
    low, high = band(radius, at)
    for k, share in enumerate((0.75, 0.5, 0.25)):
        assert (low[k], high[k]) == wilson(np.array(share), 4)
