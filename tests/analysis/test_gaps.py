"""How far lower bounds and distances are apart."""

import numpy as np

from plica.analysis.gaps import Gap, closed, widest

LOWER = np.array([0.0, 1.0, 1.0, np.inf, 0.0, 0.5])
UPPER = np.array([0.0, 1.0005, 2.0, np.inf, 1.0, np.inf])


def test_a_gap_of_a_thousandth_is_closed():
    assert closed(LOWER, UPPER).tolist() == [True, True, False, True, False, False]


def test_the_widest_gaps_come_first_and_closed_ones_not_at_all():
    ids = np.arange(10, 16)
    assert widest(ids, LOWER, UPPER) == [Gap(14, 0, 1), Gap(15, 0.5, np.inf), Gap(12, 1, 2)]
    assert widest(ids, LOWER, UPPER, most=1) == [Gap(14, 0, 1)]
