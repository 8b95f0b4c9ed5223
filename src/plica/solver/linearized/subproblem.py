"""The subproblem of proximal SQP: the multiplier lam >= 0 at which plane . z(lam) = goal, and z there, with

    z(lam) = argmin_z ||z|| + |z - u - eta lam plane|^2 / (2 eta)   s.t.  low <= z <= high.

It needs no model call. The number of trials is fixed, so that no row waits for another. The next step starts from the
multiplier found here and corrects the remaining error.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from plica.solver.linearized.prox import Prox, clip
from plica.solver.linearized.state import ProximalState

NEWTON = 2  # iterations on numbers, not vectors, from the last multiplier
TINY = 1e-30
# Least multiplier to start from, over that of a linear model: where the constraint was slack for some steps it is so
# small that it would take as many steps to rise again.
LEAST = 0.05


def solve(
    prox: Prox, block: ProximalState, goal: Float[Tensor, " r"], along: Float[Tensor, " r"], trials: int, work: Tensor
) -> Tensor:
    """z (r, n), stored in a part of work (4, r, n). along: plane . u. Updates lam, slope and level of the block."""
    if prox.kind == "l2":
        return _l2(block, goal, along, trials, work)
    if prox.kind == "linf":
        return _linf(block, goal, trials, work)
    return _secant(prox, block, goal, trials, work)


def _l2(block: ProximalState, goal: Tensor, along: Tensor, trials: int, work: Tensor) -> Tensor:
    """l_2. Without the box z is v = u + c plane, c = eta lam, shortened by eta, so that with |v|^2 from three inner
    products

        plane . z = (1 - eta / |v|) (plane . u + level c |plane|^2)

    is a function of c alone, which Newton's method sets to goal. level is the share of the increment that clipping at
    the box left in the last trial; one trial is enough, as a rule.
    """
    z, spare = work[:2]
    dual = torch.linalg.vector_norm(block.plane, dim=1).clamp_(min=TINY**0.5)
    plane_square, u_square = dual.square(), block.size.square()
    c = torch.maximum(block.eta * block.lam, torch.div(block.eta, dual).mul_(LEAST))
    for _ in range(trials):
        free_square = plane_square * block.level
        for _ in range(NEWTON):
            plane_v = torch.addcmul(along, c, plane_square)
            square = torch.addcmul(u_square, c, along + plane_v).clamp_(min=TINY)
            shortened = block.eta / square.sqrt()
            keep = (1 - shortened).clamp_(min=1e-6)
            free_v = torch.addcmul(along, c, free_square)
            slope = torch.addcmul(keep * free_square, shortened, plane_v / square * free_v)
            missing = torch.addcmul(goal, keep, free_v, value=-1)
            c = torch.addcdiv(c, missing, slope.clamp_(min=TINY)).clamp_(0.25 * c, 4 * c)
        plane_v = torch.addcmul(along, c, plane_square)
        length = torch.addcmul(u_square, c, along + plane_v).clamp_(min=TINY).sqrt_()
        keep = (1 - block.eta / length).clamp_(min=0)
        torch.mul(block.u, keep[:, None], out=z)
        z.addcmul_(block.plane, (keep * c)[:, None])
        clip(z, block.low, block.high)
        free = (torch.mul(z, block.plane, out=spare).sum(1) / keep - along) / (c * plane_square)
        torch.clamp(free.nan_to_num_(1.0, 1.0, 1.0), 0.05, 1.0, out=block.level)
    torch.div(c, block.eta, out=block.lam)
    return z


def _linf(block: ProximalState, goal: Tensor, trials: int, work: Tensor) -> Tensor:
    """l_inf: z = u + c plane, c = eta lam, clipped at the box and at a threshold theta (level), with

    plane . z = goal   and   sum (|u + c plane| - theta) = eta over the entries that theta holds and the box does not:
    two equations, piecewise linear in c and theta, by Newton's method in both.
    """
    z, w, cut, spare = work
    c, theta = (block.eta * block.lam).clamp_(min=TINY), block.level
    for _ in range(trials):
        torch.addcmul(block.u, block.plane, c[:, None], out=w)
        torch.clamp(w, block.low, block.high, out=cut)
        # on a CPU clamp takes four times as long if its bounds are one number for each row
        torch.minimum(cut, theta[:, None], out=z)
        torch.maximum(z, -theta[:, None], out=z)
        cut.sub_(z).sign_()
        short = goal - torch.mul(z, block.plane, out=spare).sum(1)
        count = torch.linalg.vector_norm(cut, dim=1).square_().clamp_(min=1e-3)
        over = torch.addcmul(block.eta - torch.mul(cut, w, out=spare).sum(1), theta, count)
        pull = torch.mul(cut, block.plane, out=spare).sum(1)
        torch.eq(w, z, out=spare)
        free = torch.linalg.vector_norm(spare.mul_(block.plane), dim=1).square_()
        det = torch.addcmul(free * count, pull, pull).clamp_(min=TINY)
        c = torch.addcdiv(c, torch.addcmul(count * short, pull, over), det).clamp_(0.25 * c, 4 * c)
        theta = torch.addcdiv(theta, torch.addcmul(pull * short, free, over, value=-1), det).clamp_(
            0.5 * theta, 2 * theta
        )
    block.level.copy_(theta)
    torch.div(c, block.eta, out=block.lam)
    return z


def _secant(prox: Prox, block: ProximalState, goal: Tensor, trials: int, work: Tensor) -> Tensor:
    """Any prox: a secant in lam kept inside its bracket."""
    z, spare = work[0], (work[1], work[2])
    lam, slope = block.lam.clamp(min=TINY), block.slope
    low, high = torch.zeros_like(lam), torch.full_like(lam, torch.inf)
    lam_old = f_old = lam
    for trial in range(trials):
        torch.addcmul(block.u, block.plane, (block.eta * lam)[:, None], out=z)
        prox.apply(z, block.eta, block.level, block.low, block.high, spare)
        f = torch.mul(z, block.plane, out=spare[0]).sum(1) - goal
        if trial:
            secant = (f - f_old) / (lam - lam_old)
            usable = secant == secant.clamp(1e-3 * slope, 1e3 * slope)
            slope = torch.where(usable, secant, torch.where(lam == lam_old, slope, 0.5 * slope))
        if trial == trials - 1:
            break
        short = f < 0
        low, high = torch.where(short, lam, low), torch.where(short, high, lam)
        lam_old, f_old = lam, f
        newton = torch.minimum(torch.addcdiv(lam, f, slope, value=-1), 4 * lam)
        lam = torch.where(newton == newton.clamp(low, high), newton, 0.5 * (low + high))
    block.lam.copy_(lam)
    block.slope.copy_(slope)
    return z
