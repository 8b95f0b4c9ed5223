"""The points of a part. Only those are kept that are not the image itself: where an attack found nothing, and where the
model was wrong from the start, the run has the point already, among its images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from plica.runs.encode import unpack
from plica.utils.messages import one_line

Tensors = dict[str, Tensor]


def moved(x: Float[Tensor, "b *image"], x_adv: Float[Tensor, "b *image"]) -> Bool[Tensor, " b"]:
    """Whether a point is another than its image."""
    return (x_adv != x.to(x_adv)).flatten(1).any(1)


def point_tensors(
    x_adv: Float[Tensor, "b *image"], theta: Float[Tensor, "b k"] | None, ids: Int64[Tensor, " b"] | None
) -> Tensors:
    """What a file of points holds, by name; theta and ids are left out where they are None."""
    tensors = {"x_adv": x_adv, "theta": theta, "id": ids}
    return {name: value.detach().cpu().contiguous() for name, value in tensors.items() if value is not None}


def unmoved_ids(table: Path) -> Int64[Tensor, " u"]:
    """The images whose point is the image itself, as the samples of a part say.

    Raises:
        ValueError: the file is broken.
    """
    try:
        samples = pq.read_table(table, columns=["id", "success", "distance"])
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"{table} cannot be read ({one_line(error)}); make the run anew.") from error
    unmoved = ~samples["success"].to_numpy() | (samples["distance"].to_numpy() == 0)
    return torch.from_numpy(np.asarray(samples["id"].to_numpy()[unmoved]))


def with_unmoved(points: Tensors, unmoved: Int64[Tensor, " u"], images: Tensors) -> Tensors:
    """id, x_adv and theta of all images of a part, by id: the points that were kept, and images for the others.

    Args:
        points: what the file of points holds.
        unmoved: ids of images whose point is the image itself.
        images: x and id of the chunk. The theta of an image that is its own point is nan.
    """
    missing = unmoved[~torch.isin(unmoved, points["id"])]
    rows = torch.isin(images["id"], missing).nonzero()[:, 0]
    if not len(rows):
        return points
    added = {"id": images["id"][rows], "x_adv": unpack(images["x"][rows]).to(points["x_adv"])}
    if "theta" in points:
        added["theta"] = points["theta"].new_full((len(rows), points["theta"].shape[1]), torch.nan)
    joined = {name: torch.cat([points[name], added[name]]) for name in added}
    order = joined["id"].argsort(stable=True)
    return {name: tensor[order] for name, tensor in joined.items()}
