"""Chooses images of a data set: the first ones, a sample, or given rows."""

from collections import Counter

import numpy as np
import torch
from jaxtyping import Int64, Shaped
from torch import Tensor


def select(
    labels: Shaped[Tensor, "n *label"], n: int | None, indices: list[int] | None, sample: str, seed: int
) -> Int64[Tensor, " m"]:
    """The ids to take, ascending: the `indices`; or of all (n=None) or `n` images the first, random ones, or random
    ones with equally many of each class, as `sample` says ("first", "random", "balanced").

    Raises:
        ValueError: there are fewer images than that, an index is repeated or outside of the data, or a balanced sample
            is asked for and the labels are not classes.
    """
    total = len(labels)
    if indices is not None:
        _check_indices(indices, total)
        return torch.tensor(sorted(indices), dtype=torch.long)
    count = count_images(n, total, "the data set")
    if sample == "first":
        return torch.arange(count)
    order = np.random.default_rng(seed).permutation(total)
    if sample == "balanced":
        if labels.ndim != 1 or labels.is_floating_point():
            raise ValueError("A balanced sample needs classes, one for each image; take a random one.")
        # the first image of every class, then the second of every class, ...
        y = labels.numpy()[order]
        rank_in_class = np.zeros(total, dtype=np.int64)
        for label in np.unique(y):
            rank_in_class[y == label] = np.arange((y == label).sum())
        order = order[np.argsort(rank_in_class, kind="stable")]
    return torch.from_numpy(np.sort(order[:count]))


def count_images(n: int | None, total: int, name: object) -> int:
    """n, or all images if n is None. Raises ValueError if there are fewer than n."""
    if n is not None and not 1 <= n <= total:
        raise ValueError(f"n={n} images were requested and {name} has {total}; choose n between 1 and {total}.")
    return total if n is None else n


def _check_indices(indices: list[int], total: int) -> None:
    outside = next((i for i in indices if not 0 <= i < total), None)
    if outside is not None:
        raise ValueError(f"The indices name image {outside}, but there are {total} images; count from 0.")
    repeated = next((i for i, times in Counter(indices).items() if times > 1), None)
    if repeated is not None:
        raise ValueError(f"The indices name image {repeated} twice; name each image once.")
