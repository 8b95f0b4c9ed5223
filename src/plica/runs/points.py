"""The points of a part. Kept are those that moved: where an attack found nothing, and where the model was wrong from
the start, the point is the image itself, which the run has already."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from plica.runs.encode import unpack

Tensors = dict[str, Tensor]


def moved(x: Float[Tensor, "b *image"], x_adv: Float[Tensor, "b *image"]) -> Bool[Tensor, " b"]:
    """Whether a point is another than its image."""
    return (x_adv != x.to(x_adv)).flatten(1).any(1)


def unmoved(table: Path) -> Int64[Tensor, " u"]:
    """The ids whose point is the image, by what the samples say."""
    try:
        told = pq.read_table(table, columns=["id", "success", "distance"])
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"{table} cannot be read ({error}); make the run anew.") from error
    still = ~told["success"].to_numpy() | (told["distance"].to_numpy() == 0)
    return torch.from_numpy(np.asarray(told["id"].to_numpy()[still]))


def filled(held: Tensors, still: Int64[Tensor, " u"], inputs: Tensors) -> Tensors:
    """id, x_adv and theta with the points that did not move among them, by id, their theta nan; `inputs` is the chunk
    of images."""
    lacking = still[~torch.isin(still, held["id"])]
    places = torch.isin(inputs["id"], lacking).nonzero()[:, 0]
    if not len(places):
        return held
    more = {"id": inputs["id"][places], "x_adv": unpack(inputs["x"][places]).to(held["x_adv"])}
    if "theta" in held:
        more["theta"] = held["theta"].new_full((len(places), held["theta"].shape[1]), torch.nan)
    both = {name: torch.cat([held[name], more[name]]) for name in more}
    order = both["id"].argsort(stable=True)
    return {name: tensor[order] for name, tensor in both.items()}
