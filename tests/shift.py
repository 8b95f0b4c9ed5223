"""The simplest perturbation: theta is added to the first feature."""

from __future__ import annotations

import torch
from torch import Tensor


class Shift:
    """x + theta in the first feature, theta (b, 1); its distance is 2 |theta|."""

    unit = 1.0

    def start(self, x: Tensor) -> Tensor:
        return x.new_zeros(len(x), 1)

    def __call__(self, x: Tensor, theta: Tensor) -> Tensor:
        return x + torch.cat([theta, theta.new_zeros(len(theta), x.shape[1] - 1)], 1)

    def distance(self, x: Tensor, theta: Tensor) -> Tensor:
        assert theta.shape == (len(x), 1)  # not a point
        return 2 * theta.abs()[:, 0]
