"""One definition of wrong, broken, missed and robust images: made-up radii whose counts are plain."""

import numpy as np

from plica.analysis.counts import Counts, broken, counts, robust, wrong

inf = np.inf


def test_counts_of_methods_that_attacked_all_images():
    radius = np.array([[0, 0.2, 0.3, inf, inf], [0, 0.1, inf, 0.4, inf]])
    assert counts(radius, np.ones((2, 5), dtype=bool)) == [
        Counts(attacked=5, broken=2, alone=1, missed=1, nearest=1, attacked_all=True),
        Counts(attacked=5, broken=2, alone=1, missed=1, nearest=2, attacked_all=True),
    ]
    assert wrong(radius).tolist() == [True, False, False, False, False]
    assert broken(radius).tolist() == [False, True, True, True, False]
    assert robust(radius).tolist() == [False, False, False, False, True]


def test_a_method_misses_nothing_that_it_did_not_attack():
    radius = np.array([[0, 0.2, inf, inf], [inf, inf, 0.1, inf]])
    attacked = np.array([[True, True, True, True], [False, False, True, True]])
    assert counts(radius, attacked) == [
        Counts(attacked=4, broken=1, alone=None, missed=1, nearest=1, attacked_all=True),
        Counts(attacked=2, broken=1, alone=None, missed=0, nearest=1, attacked_all=False),
    ]


def test_a_method_that_was_spared_wrong_images_alone_can_be_compared():
    radius = np.array([[0, inf, inf], [inf, 0.1, inf]])
    attacked = np.array([[True, True, True], [False, True, True]])
    first, second = counts(radius, attacked)
    assert (first.alone, second.alone, first.missed, second.attacked_all) == (0, 1, 1, True)
