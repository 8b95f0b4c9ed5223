"""The points of a part. Only points that differ from their image are stored: if no point was found, or the image is
misclassified without a perturbation, the point is the image, which the run contains already."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from plica.runs.check.tables import read_samples
from plica.runs.encode import unpack

Tensors = dict[str, Tensor]


def moved(x: Float[Tensor, "b *image"], x_adv: Float[Tensor, "b *image"]) -> Bool[Tensor, " b"]:
    """Whether a point differs from its image."""
    return (x_adv != x.to(x_adv)).flatten(1).any(1)


def point_tensors(
    x_adv: Float[Tensor, "b *image"], theta: Float[Tensor, "b k"] | None, ids: Int64[Tensor, " b"] | None
) -> Tensors:
    """The tensors of a file of points, by name; theta and ids are left out where they are None."""
    tensors = {"x_adv": x_adv, "theta": theta, "id": ids}
    return {name: value.detach().cpu().contiguous() for name, value in tensors.items() if value is not None}


def unmoved_ids(table: Path) -> Int64[Tensor, " u"]:
    """ids of the images whose point is the image itself, from the samples of a part.

    Raises:
        ValueError: the file is broken.
    """
    samples = read_samples(table, ["id", "success", "distance"])
    unmoved = ~samples["success"].to_numpy() | (samples["distance"].to_numpy() == 0)
    return torch.from_numpy(np.asarray(samples["id"].to_numpy()[unmoved]))


def with_unmoved(points: Tensors, unmoved: Int64[Tensor, " u"], images: Tensors) -> Tensors:
    """id, x_adv and theta of all images of a part, by id: the stored points, and the images of all others.

    Args:
        points: the tensors of the file of points.
        unmoved: ids of images whose point is the image itself.
        images: x and id of the chunk; theta is nan for images that are their own point.
    """
    missing = unmoved[~torch.isin(unmoved, points["id"])]
    rows = torch.isin(images["id"], missing).nonzero()[:, 0]
    if not len(rows):
        return points
    added = {"id": images["id"][rows], "x_adv": unpack(images["x"][rows]).to(points["x_adv"])}
    if "theta" in points:
        added["theta"] = points["theta"].new_full((len(rows), points["theta"].shape[1]), torch.nan)
    joined = {name: torch.cat([points[name], added[name]]) for name in added}
    order = joined["id"].argsort()
    return {name: tensor[order] for name, tensor in joined.items()}
