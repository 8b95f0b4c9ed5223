"""Patterns of perturbations: how sparse, how even, how smooth, and how much two methods agree.

Every measure takes delta = x_adv - x (b, *image), returns one float64 per image, and is nan where delta is 0. None but
`changed` depends on the scale of delta. The first is the papers' measure ||delta||_1 / ||delta||_2, from 1 (one nonzero
entry) to sqrt(n) (all entries of equal size), "Implications of Solution Patterns" section 3.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

if TYPE_CHECKING:
    import pyarrow as pa

    from plica.runs import Run, Task

VISIBLE = 0.5 / 255  # less than half a grey level vanishes in an 8-bit image
COARSE = 0.25  # cycles per pixel: half of the highest frequency that pixels can represent


def l1_over_l2(delta: Float[Tensor, "b *image"]) -> Float64[Tensor, " b"]:
    """||delta||_1 / ||delta||_2, in [1, sqrt(n)]: the larger the denser."""
    flat = _flat(delta)
    return _nan_where_zero(flat.sum(1) / torch.linalg.vector_norm(flat, dim=1), flat)


def hoyer(delta: Float[Tensor, "b *image"]) -> Float64[Tensor, " b"]:
    """(sqrt(n) - ||.||_1 / ||.||_2) / (sqrt(n) - 1), from 0 (all alike) to 1 (one entry): Hoyer 2004."""
    root = math.sqrt(delta[0].numel())
    return (root - l1_over_l2(delta)) / (root - 1) if root > 1 else torch.full_like(l1_over_l2(delta), torch.nan)


def gini(delta: Float[Tensor, "b *image"]) -> Float64[Tensor, " b"]:
    """1 - 2 sum_k |delta|_(k) (n - k + 1/2) / (n ||delta||_1), ascending, from 0 to 1 - 1/n: Hurley, Rickard 2009."""
    flat = _flat(delta).sort(dim=1).values
    n = flat.shape[1]
    rank = torch.arange(n, 0, -1, dtype=flat.dtype, device=flat.device) - 0.5
    return _nan_where_zero(1 - 2 * (flat @ rank) / (n * flat.sum(1)), flat)


def changed(delta: Float[Tensor, "b *image"], by: float = VISIBLE) -> Float64[Tensor, " b"]:
    """The share of pixels of which some channel moved by more than `by` (in units of delta; the default is half a grey
    level of pixels in [0, 1])."""
    moved = delta.detach().abs() > by
    moved = moved.any(1) if moved.ndim == 4 else moved
    return _nan_where_zero(moved.flatten(1).double().mean(1), _flat(delta))


def total_variation(delta: Float[Tensor, "b *image"]) -> Float64[Tensor, " b"]:
    """Mean |difference of neighbours| over mean |delta|: 0 for a constant, sqrt(2) for normal noise, 2 for a
    chessboard. Neighbours lie along the last two axes, or the last one where there is only one."""
    d = delta.detach().double()
    axes = [-1] if d.ndim < 3 else [-1, -2]
    steps = torch.cat([d.diff(dim=axis).abs().flatten(1) for axis in axes if d.shape[axis] > 1] or [d[:, :0]], 1)
    return _nan_where_zero(steps.mean(1) / _flat(delta).mean(1), _flat(delta))


def high_frequency(delta: Float[Tensor, "b *image"]) -> Float64[Tensor, " b"]:
    """The share of the energy ||delta||_2^2 at frequencies of more than a quarter cycle per pixel along either axis."""
    d = delta.detach().double()
    axes = [-1] if d.ndim < 3 else [-2, -1]
    power = torch.fft.fftn(d, dim=axes).abs() ** 2
    fine = torch.zeros((), dtype=torch.bool, device=d.device)
    for axis in axes:
        frequency = torch.fft.fftfreq(d.shape[axis], device=d.device).abs() > COARSE
        fine = fine | frequency.view([-1 if a == axis else 1 for a in axes])
    return _nan_where_zero((power * fine).flatten(1).sum(1) / power.flatten(1).sum(1), _flat(delta))


Measure = Callable[[Tensor], Tensor]
MEASURES: dict[str, Measure] = {
    "l1_over_l2": l1_over_l2,
    "hoyer": hoyer,
    "gini": gini,
    "changed": changed,
    "total_variation": total_variation,
    "high_frequency": high_frequency,
}


def measures(delta: Float[Tensor, "b *image"]) -> dict[str, Float64[Tensor, " b"]]:
    """All of MEASURES by name."""
    return {name: measure(delta) for name, measure in MEASURES.items()}


def magnitudes(delta: Float[Tensor, "b *image"], edges: Sequence[float]) -> Int[Tensor, "b bins"]:
    """How many entries of each image have |delta| in [edge, next edge), the last bin with its end."""
    bounds = torch.as_tensor(edges, dtype=torch.float64, device=delta.device)
    size = _flat(delta)
    bins = torch.bucketize(size, bounds, right=True) - 1
    bins = torch.where(size == bounds[-1], len(bounds) - 2, bins)
    inside = (bins >= 0) & (bins < len(bounds) - 1)
    counts = torch.zeros(len(size), len(bounds) - 1, dtype=torch.int64, device=delta.device)
    return counts.scatter_add(1, bins.clamp(0, len(bounds) - 2), inside.long())


def cosine(a: Float[Tensor, "b *image"], b: Float[Tensor, "b *image"]) -> Float64[Tensor, " b"]:
    """<a, b> / (||a||_2 ||b||_2) of each pair of perturbations: 1 where they point the same way."""
    a, b = a.detach().flatten(1).double(), b.detach().flatten(1).double()
    norms = torch.linalg.vector_norm(a, dim=1) * torch.linalg.vector_norm(b, dim=1)
    return torch.where(norms > 0, (a * b).sum(1) / norms, torch.nan)


def pairs(run: Run, task: Task) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """(ids, x, x_adv) of a run's task, chunk by chunk; nothing where the run contains no images."""
    images = run.inputs()
    ids, x = torch.empty(0, dtype=torch.int64), None
    for point_ids, x_adv in run.points(task):
        if not len(point_ids):  # other methods broke all images of the chunk before
            continue
        while not torch.isin(point_ids, ids).all():
            chunk = next(images, None)
            if chunk is None:
                return
            x = chunk[1] if x is None else torch.cat([x, chunk[1]])
            ids = torch.cat([ids, chunk[0]])
        assert x is not None
        order = ids.argsort()
        yield point_ids, x[order[torch.searchsorted(ids[order], point_ids)]], x_adv
        later = ids > point_ids.max()
        ids, x = ids[later], x[later]


def samples(run: Run) -> pa.Table:
    """run.samples with a column for each of MEASURES, null where there is no perturbation."""
    import pyarrow as pa

    by_task = [_in_order(of(run, task), run.rows(task)["id"].to_pylist()) for task in run.tasks]
    table = run.samples
    for name in MEASURES:
        values = torch.cat([columns[name] for columns in by_task] or [torch.empty(0)])
        table = table.append_column(name, pa.array(values.numpy(), pa.float64(), from_pandas=True))
    return table


def _in_order(by_id: dict[str, Tensor], ids: list[int]) -> dict[str, Tensor]:
    """The measures of these images, nan where there are none."""
    row = {image: number for number, image in enumerate(by_id["id"].tolist())}
    rows = torch.tensor([row.get(image, len(row)) for image in ids], dtype=torch.int64)
    nan = torch.full((1,), torch.nan, dtype=torch.float64)
    return {name: torch.cat([by_id[name], nan])[rows] for name in MEASURES}


def of(run: Run, task: Task) -> dict[str, Tensor]:
    """ "id" and each of MEASURES for one task of a run, one entry per image that the run contains."""
    parts = [(ids, measures(x_adv - x)) for ids, x, x_adv in pairs(run, task)]
    empty = {"id": torch.empty(0, dtype=torch.int64)} | {name: torch.empty(0).double() for name in MEASURES}
    if not parts:
        return empty
    joined = {name: torch.cat([columns[name] for _, columns in parts]) for name in MEASURES}
    return {"id": torch.cat([ids for ids, _ in parts])} | joined


def _flat(delta: Tensor) -> Float64[Tensor, "b n"]:
    return delta.detach().abs().flatten(1).double()


def _nan_where_zero(value: Tensor, flat: Tensor) -> Tensor:
    return torch.where(flat.amax(1) > 0, value, torch.nan)
