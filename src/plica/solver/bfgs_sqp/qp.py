"""Small quadratic programs over a box, solved for many rows at once.

    max  q.z - z.Q z / 2   s.t.  lo <= z <= hi        (the dual (25) of the direction's QP: one to a few unknowns)

Up to three unknowns are solved exactly, by trying every face of the box; more by an interior point method, which also
takes the simplex that the stationarity QP (29) adds.
"""

from __future__ import annotations

from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

SCREENED = 128  # most unknowns for which all are solved for at once
ADDED = 64  # unknowns that are added at a time if there are more
EXACT = 3  # most unknowns for which every face is tried: 1, 5, 31 candidates
TOLERANCE = 1e-10  # of a slope relative to the size of the problem, as in interior_point
VECTOR = 8  # most float64 numbers in a vector register of the processor


def box_qp(
    Q: Float[Tensor, "r m m"], q: Float[Tensor, "r m"], lo: Float[Tensor, " m"], hi: Float[Tensor, " m"]
) -> Float[Tensor, "r m"]:
    """The maximiser of q.z - z.Q z / 2 over lo <= z <= hi, for a positive semidefinite Q."""
    if q.shape[1] > EXACT:
        return screened(Q, q, lo.expand_as(q), hi.expand_as(q))
    return _faces(Q, q, lo, hi)


def _objective(Q: Tensor, q: Tensor, z: Tensor) -> Tensor:
    return (q * z).sum(1) - (z * (Q * z[:, None]).sum(2)).sum(1) / 2


def _faces(Q: Tensor, q: Tensor, lo: Tensor, hi: Tensor) -> Tensor:
    """The best of: the stationary point clipped into the box, and the optimum of each face (by recursion)."""
    m = q.shape[1]
    if m == 0:
        return q
    tiny = torch.finfo(Q.dtype).tiny
    if m == 1:
        return (q / Q[:, 0].clamp(min=tiny)).clamp(lo, hi)
    ridge = torch.finfo(Q.dtype).eps * Q.diagonal(dim1=1, dim2=2).amax(1).clamp(min=tiny**0.5)
    inner = torch.linalg.solve_ex(Q + torch.diag_embed(ridge[:, None].expand_as(q)), q[:, :, None])[0][:, :, 0]
    best = inner.nan_to_num().clamp(lo, hi)
    height = _objective(Q, q, best)
    for i in range(m):
        rest = [j for j in range(m) if j != i]
        for end in (lo[i], hi[i]):
            z = torch.empty_like(q)
            z[:, i] = end
            z[:, rest] = _faces(Q[:, rest][:, :, rest], q[:, rest] - Q[:, rest, i] * end, lo[rest], hi[rest])
            h = _objective(Q, q, z)
            better = h > height
            best, height = torch.where(better[:, None], z, best), torch.where(better, h, height)
    return best


def screened(
    Q: Float[Tensor, "r m m"],
    q: Float[Tensor, "r m"],
    lo: Float[Tensor, "r m"],
    hi: Float[Tensor, "r m"],
    simplex: Float[Tensor, " m"] | None = None,
) -> Float[Tensor, "r m"]:
    """The same as `interior_point`, faster for many unknowns, of which most are 0: those of inactive constraints.

    The program is solved for the unknowns with the largest q alone. Unknowns that would grow from 0 at this solution
    are then added, and it is solved again, until there is none left: then it is the solution for all unknowns. Rows
    that are finished do not change any more.
    """
    m = q.shape[1]
    if m <= SCREENED:
        return interior_point(Q, q, lo, hi, simplex)
    needed = (lo < 0).any(0) if simplex is None else (lo < 0).any(0) | (simplex > 0)
    gain = torch.where(needed, torch.inf, q)
    chosen = gain.topk(min(m, int(needed.sum()) + ADDED), 1).indices
    scale = torch.maximum(Q.diagonal(dim1=1, dim2=2).amax(1), q.abs().amax(1)).clamp(min=1e-300)
    z, done = torch.zeros_like(q), torch.zeros_like(q[:, 0], dtype=torch.bool)
    while True:
        # the same order in all rows: `simplex` marks columns
        chosen = chosen.sort(dim=1).values
        part = Q.gather(1, chosen[:, :, None].expand(-1, -1, m)).gather(
            2, chosen[:, None].expand(-1, chosen.shape[1], -1)
        )
        marks = None if simplex is None else simplex[chosen]
        solution = interior_point(part, q.gather(1, chosen), lo.gather(1, chosen), hi.gather(1, chosen), marks)
        z = torch.where(done[:, None], z, torch.zeros_like(q).scatter(1, chosen, solution))
        slope = (q - (Q * z[:, None]).sum(2)).scatter(1, chosen, -torch.inf)
        done |= slope.amax(1) <= TOLERANCE * scale
        if bool(done.all()) or chosen.shape[1] == m:
            return z
        chosen = torch.cat([chosen, slope.topk(min(ADDED, m - chosen.shape[1]), 1).indices], 1)


def interior_point(
    Q: Float[Tensor, "r m m"],
    q: Float[Tensor, "r m"],
    lo: Float[Tensor, "r m"],
    hi: Float[Tensor, "r m"],
    simplex: Float[Tensor, "*r m"] | None = None,
    steps: int = 40,
) -> Float[Tensor, "r m"]:
    """The maximiser of `box_qp` for any number of unknowns, by a primal-dual interior point method with predictor and
    corrector.

    A row that has converged does not change any more, and idle unknowns are added to fill vector registers, so that the
    result of a row does not depend on the others.

    simplex: 1 for unknowns whose sum is constrained to 1, 0 for the others. They start at equal shares, which must lie
        inside the box.
    """
    m = q.shape[1]
    if m % VECTOR:
        idle = (0, -m % VECTOR)
        size = Q.diagonal(dim1=1, dim2=2).amax(1, keepdim=True)
        Q, ones = pad(Q, (*idle, *idle)), size * pad(torch.zeros_like(q[0]), idle, value=1.0)
        ends = pad(q, idle), pad(lo, idle), pad(hi, idle, value=1.0)
        marks = None if simplex is None else pad(simplex, idle)
        return interior_point(Q + torch.diag_embed(ones), *ends, marks, steps)[:, :m]
    scale = torch.maximum(Q.diagonal(dim1=1, dim2=2).amax(1), q.abs().amax(1)).clamp(min=1e-300)
    Q, q = Q / scale[:, None, None], q / scale[:, None]
    z = (lo + hi) / 2
    if simplex is not None:
        z = torch.where(simplex > 0, 1 / simplex.sum(-1, keepdim=True), z)
    s, u = z - lo, hi - z
    a, b = torch.ones_like(q), torch.ones_like(q)  # multipliers of z >= lo and of z <= hi
    nu = torch.zeros_like(q[:, 0])
    normal = torch.zeros_like(q) if simplex is None else simplex.expand_as(q)
    for _ in range(steps):
        gap = ((a * s).sum(1) + (b * u).sum(1)) / (2 * q.shape[1])
        residual = (Q * z[:, None]).sum(2) - q - a + b - nu[:, None] * normal
        done = (gap < 1e-14) & (residual.abs().amax(1) < 1e-10)
        if bool(done.all()):
            break
        factor = torch.linalg.cholesky_ex(Q + torch.diag_embed(a / s + b / u))[0]

        newton = partial(_newton, factor, normal, simplex is not None, residual, s, u, a, b)
        dz, _, da, db = newton(0.0, 0.0, 0.0)
        t = _longest(s, dz, u, -dz, a, da, b, db)
        ahead = (((a + t * da) * (s + t * dz)).sum(1) + ((b + t * db) * (u - t * dz)).sum(1)) / (2 * q.shape[1])
        target = ((ahead / gap.clamp(min=1e-300)) ** 3 * gap)[:, None]
        dz, dnu, da, db = newton(target, da * dz, -db * dz)
        t = 0.995 * _longest(s, dz, u, -dz, a, da, b, db)
        # a row whose step is not finite has reached the limits of rounding
        halt = done | ~(dz.sum(1) + da.sum(1) + db.sum(1)).isfinite()
        z, s, u, a, b = (
            torch.where(halt[:, None], old, old + t * d) for old, d in ((z, dz), (s, dz), (u, -dz), (a, da), (b, db))
        )
        nu = torch.where(halt, nu, nu + t[:, 0] * dnu)
    return torch.minimum(torch.maximum(z, lo), hi)


def _newton(
    factor: Tensor, normal: Tensor, tied: bool, residual: Tensor, s: Tensor, u: Tensor, a: Tensor, b: Tensor,
    target: Tensor | float, da_ds: Tensor | float, db_du: Tensor | float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """The step (dz, dnu, da, db) towards a s = b u = target, with the second-order terms of a step already known."""
    right = -residual + (target - a * s - da_ds) / s - (target - b * u - db_du) / u
    both = torch.cholesky_solve(torch.stack([right, normal], 2), factor)
    dz, along = both[:, :, 0], both[:, :, 1]
    lift = (normal * dz).sum(1) / (normal * along).sum(1).clamp(min=1e-300)
    if tied:
        dz = dz - lift[:, None] * along
    return dz, -lift, (target - a * s - da_ds - a * dz) / s, (target - b * u - db_du + b * dz) / u


def _longest(*pairs: Tensor) -> Float[Tensor, "r 1"]:
    """The longest step in (0, 1] that keeps every value positive; pairs are value, change, value, change, ..."""
    longest = torch.ones_like(pairs[0][:, :1])
    for value, change in zip(pairs[::2], pairs[1::2], strict=True):
        ratio = torch.where(change < 0, -value / change, torch.inf)
        longest = torch.minimum(longest, ratio.nan_to_num(nan=0.0).amin(1, keepdim=True))
    return longest
