"""Converts a result for storage: a table of its samples, and images as uint8 if that is exact."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

from plica.core.result import Result
from plica.runs.schema import INNER, LEAVES, MEASURED, NEURON, arrow_schema, names


def sample_table(result: Result, ids: Int64[Tensor, " b"], y: Shaped[Tensor, "b *label"]) -> pa.Table:
    """Result.to_arrow, a row per image, with `id`, its row in the data, and `label`, -1 where y is no class."""
    label = y if y.ndim == 1 and y.dtype == torch.int64 else torch.full((len(y),), -1)
    columns = result.to_arrow().to_pydict() | {"id": ids.tolist(), "label": label.tolist()}
    columns = {"share": [math.nan] * len(y)} | columns
    return pa.table({name: columns[name] for name in names(MEASURED)}, schema=arrow_schema(MEASURED))


def leaf_table(evidence: Sequence[Any], ids: Int64[Tensor, " b"]) -> pa.Table:
    """The proofs of lower bounds, plica.certify.Evidence or None for each image, as rows of schema.LEAVES."""
    rows = []
    for number, proof in zip(ids.tolist(), evidence, strict=True):
        if proof is None:
            continue
        first = dict(
            rival=INNER, activation=[], neuron=[], sign=[], multiplier=[], slopes=proof.slopes.numpy().tobytes()
        )
        rows.append({"id": number} | first)
        for lemma in proof.lemmas:
            name = (lemma.activation, lemma.neuron, lemma.sign)
            for leaf in lemma.leaves:
                rows.append({"id": number} | _row(NEURON, [name, *leaf.splits], [0.0, *leaf.multipliers], leaf))
        rows += [{"id": number} | _row(leaf.rival, leaf.splits, leaf.multipliers, leaf) for leaf in proof.leaves]
    return pa.Table.from_pylist(rows, schema=arrow_schema(LEAVES))


def _row(rival: int, splits: Sequence[Any], multipliers: Sequence[float], leaf: Any) -> dict[str, Any]:
    columns = zip(*splits, strict=True) if splits else ((), (), ())
    named = {name: list(column) for name, column in zip(("activation", "neuron", "sign"), columns, strict=True)}
    return dict(rival=rival, multiplier=list(multipliers), slopes=leaf.slopes.numpy().tobytes()) | named


def pack(x: Float[Tensor, "b *image"]) -> Shaped[Tensor, "b *image"]:
    """x as uint8 where unpack restores it exactly, else x itself."""
    if x.dtype != torch.float32 or not bool(((x >= 0) & (x <= 1)).all()):
        return x
    small = (x * 255).round().to(torch.uint8)
    return small if torch.equal(unpack(small), x) else x


def unpack(x: Shaped[Tensor, "b *image"]) -> Float[Tensor, "b *image"]:
    """The inverse of pack: pixels in [0, 1]."""
    return x.float() / 255 if x.dtype == torch.uint8 else x
