"""Appendix A of "Optimizers Matter": sequential against exact projections, and what that costs projected gradients.

    python benchmarks/papers/appendix_a.py             two networks, 500 images: four minutes of one core
    python benchmarks/papers/appendix_a.py --n 50      half a minute

Counter-examples: at CIFAR-10 images, the point of the ball and the box that is nearest to the image plus noise of twice
and of twenty times the radius, against the box first and then the ball, and the ball first and then the box. Different:
by more than a thousandth of the radius. Too far: the distance to what is projected, over that of the exact projection,
less one.
Cost: projected gradient ascent on the cross-entropy, 100 steps that sum to 2.5 radii, from the image, with each of the
three; robust accuracy that it leaves. Steps are along the gradient, for l1 along a hundredth of its entries.
"""

from __future__ import annotations

import numpy as np
import torch
from common import NORMS, SMALL, USUAL, Answers, arguments, begin, publish, setting, share, table
from torch.nn.functional import cross_entropy

from plica.attacks.pgd import SETTINGS, steepest
from plica.attacks.projections import project
from plica.core.losses import margin
from plica.metrics import plain_p

ORDERS = ("exact", "box, then ball", "ball, then box")
NOISE = (2, 20)
SLACK = 1 - 1e-5  # of a radius, so that roundings of float32 do not put a point outside
FAR = "norm, radius | noise, radii | order | images | different, % | too far, median % | outside the ball or the box"
COST = (
    "network | norm, radius | exact | box, then ball | ball, then box | broken with exact alone | without exact alone"
)
BOUNDS = (0.0, 1.0)


def main() -> None:
    given = begin(arguments(__doc__ or "", ["resnet_2b", "cifar_wide_kw"], 500, steps=100))
    answers, far, cost = Answers(given, "appendix_a"), [], []
    for number, name in enumerate(given.nets):
        chosen = setting(name, given)
        for norm, radius in USUAL.items():
            if number == 0:
                for times in NOISE:
                    far += counted(chosen.x[: given.n], norm, radius, times, given.seed)
            for size in (radius, SMALL[norm]):
                found = {order: ascended(answers, given, chosen, norm, size, order) for order in ORDERS}
                sequential = found[ORDERS[1]] | found[ORDERS[2]]
                alone = [int((found["exact"] & ~sequential).sum()), int((sequential & ~found["exact"]).sum())]
                cost.append([name, f"{norm} {size:.3g}", *(share(~broken) for broken in found.values()), *alone])
    publish(given, {"appendix-a": table(FAR, far), "appendix-a-pgd": table(COST, cost)})


def projected(z, x, radius, p, order: str):
    """The point on the way of the given order."""
    if order == "exact":
        return project(z, x, radius, p)
    if order == "box, then ball":
        return x + onto_ball(z.clamp(*BOUNDS) - x, radius, p)
    return (x + onto_ball(z - x, radius, p)).clamp(*BOUNDS)


def onto_ball(delta, radius, p):
    """The Euclidean projection onto the ball alone: in a box that is nowhere met."""
    return project(delta, torch.zeros_like(delta), radius, p, (-1e6, 1e6))


def counted(x, norm: str, radius: float, times: int, seed: int) -> list[list]:
    """How often and how far the sequential projections miss the exact one."""
    p = float(plain_p(NORMS[norm]) or 0)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x = x.double()
    noise = noise * (times * radius / torch.linalg.vector_norm(noise.flatten(1), p, dim=1)).view(-1, 1, 1, 1)
    z, reach = x + noise, torch.full((len(x),), radius, dtype=torch.float64)
    best = projected(z, x, reach, p, "exact")
    rows = []
    for order in ORDERS[1:]:
        point = projected(z, x, reach, p, order)
        apart = torch.linalg.vector_norm((point - best).flatten(1), p, dim=1)
        long, short = (torch.linalg.vector_norm((q - z).flatten(1), dim=1) for q in (point, best))
        size = torch.linalg.vector_norm((point - x).flatten(1), p, dim=1)
        outside = (size > radius * (1 + 1e-9)) | (point != point.clamp(*BOUNDS)).flatten(1).any(1)
        too_far = f"{100 * float((long / short - 1).median()):.2g}"
        rows.append([f"{norm} {radius:.3g}", times, order, len(x), share((apart > 1e-3 * radius).numpy()), too_far, int(outside.sum())])  # fmt: skip # noqa: E501
    return rows


def ascended(answers, given, chosen, norm: str, radius: float, order: str) -> np.ndarray:
    """Of each image, whether the ascent meets a misclassified point; misclassified images have one."""
    x, y = chosen.first(given.n)
    p = float(plain_p(NORMS[norm]) or 0)

    def ask() -> dict:
        broken, right = ~chosen.right[: given.n], chosen.right[: given.n].nonzero()[:, 0]
        for rows in right.split(100):
            broken[rows] = _ascend(chosen.net, x[rows], y[rows], p, SLACK * radius, order, given.steps)
        return {"broken": broken.tolist()}

    key = f"{chosen.name} {norm} {radius:.4g} {order} n={given.n} steps={given.steps}"
    return np.array(answers(key, ask)["broken"])


def _ascend(net, x, y, p, radius: float, order: str, steps: int):
    z, reach = x, torch.full((len(x),), radius)
    broken = torch.zeros(len(x), dtype=torch.bool)
    for _ in range(steps):
        z = z.detach().requires_grad_(True)
        (grad,) = torch.autograd.grad(cross_entropy(net(z), y, reduction="sum"), z)
        z = z.detach()
        length = SETTINGS.total_length / steps * reach
        step = (
            sparse_step(grad.flatten(1), length)
            if p == 1
            else steepest(grad.flatten(1), z.flatten(1), length, p, BOUNDS)
        )
        z = projected(z + step.view_as(z), x, reach, p, order)
        with torch.no_grad():
            inside = torch.linalg.vector_norm((z - x).double().flatten(1), p, dim=1) <= radius / SLACK
            broken |= (margin(net(z), y) > 0) & inside & (z == z.clamp(*BOUNDS)).flatten(1).all(1)
    return broken


def sparse_step(grad, length):
    """A step of that l1 length with the sign of the gradient at the hundredth of the entries where it is largest
    (Tramer, Boneh 2019). It knows nothing of the box: what the projections do with that is the question."""
    k = max(1, grad.shape[1] // 100)
    top = grad.abs().topk(k, dim=1).indices
    return torch.zeros_like(grad).scatter(1, top, grad.sign().gather(1, top)) * (length / k)[:, None]


if __name__ == "__main__":
    main()
