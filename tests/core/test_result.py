"""A result is printed in one line."""

import math

import torch

from byhand import made_up


def test_counts_and_the_median_are_printed_and_no_tensor():
    x = torch.zeros(4, 3, 8, 8)
    answer = made_up(x, x, [0.0, 0.25, 0.5, math.inf])
    counts = "1 misclassified without a perturbation, 2 broken, median distance 0.375, 1 not broken"
    assert str(answer) == f"Result(4 images of shape (3, 8, 8): {counts}; 100 gradients per image)"
    assert "median" not in str(made_up(x, x, [0.0, 0.0, 0.0, math.inf]))
