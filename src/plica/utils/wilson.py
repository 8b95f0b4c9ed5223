"""Wilson's 95 % interval of a share."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

Z = 1.959964  # 97.5 % quantile of the normal distribution: two-sided 95 %


def wilson(share: Float64[np.ndarray, "*k"], total: int) -> tuple[Float64[np.ndarray, "*k"], Float64[np.ndarray, "*k"]]:
    """Low and high end of the score interval of shares of `total` images; [0, 1] where there is none.

    (p + z^2 / 2n -+ z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n): Wilson, J. Am. Stat. Assoc. 22 (1927), 209.
    """
    if not total:
        return np.zeros_like(share), np.ones_like(share)
    p, q = share, Z * Z / total
    middle, half = p + q / 2, Z * np.sqrt(p * (1 - p) / total + q / (4 * total))
    # at shares of 0 and 1 the ends are 0 and 1, which rounding may miss
    low = np.where(p == 0, 0.0, np.maximum(0.0, (middle - half) / (1 + q)))
    return low, np.where(p == 1, 1.0, (middle + half) / (1 + q))
