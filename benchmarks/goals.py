"""Radii for goals other than misclassification: a regression, tags, a segmentation, each trained here in seconds.

    python benchmarks/goals.py [--rows 50] [--gradients 100 300]

Every point is judged again by lines that share nothing with the package: one input at a time, in float32 and float64.
The last lines put AnyLabel beside the least radius of one model for each tag.
"""

from __future__ import annotations

import argparse
import copy
import math

import torch
from torch import nn

import plica
from plica.goals import AnyLabel, Deviates, Pixels


def trained(net, sample, loss, steps=400):
    """The network after so many steps of Adam on fresh batches."""
    optimiser = torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(steps):
        x, y = sample(128)
        optimiser.zero_grad()
        loss(net(x), y).backward()
        optimiser.step()
    return net.eval().requires_grad_(False)


def functions(n):
    """Three smooth functions of 8 features."""
    x = torch.rand(n, 8)
    third = torch.cos(4 * x[:, 5] * x[:, 6]) + x[:, 7]
    return x, torch.stack([torch.sin(3 * x[:, 0]) * x[:, 1], (x[:, 2:5] ** 2).sum(1), third], 1)


def tags(n):
    """Pictures with up to four bright things, and which of them there are."""
    x, y = 0.3 * torch.rand(n, 1, 12, 12), (torch.rand(n, 4) < 0.5).float()
    places = (
        (slice(2, 5), slice(2, 5)),
        (slice(8, 10), slice(None)),
        (slice(None), slice(10, None)),
        (slice(5, 8),) * 2,
    )
    for j, (rows, columns) in enumerate(places):
        x[:, 0, rows, columns] += 0.45 * y[:, j, None, None]
    return x.clamp(0, 1), y


def pictures(n):
    """Noisy pictures of a disc and a bar, and the class of each pixel."""
    centre, row = torch.rand(n, 2) * 8 + 2, (torch.rand(n) * 10).long()
    places = torch.stack(torch.meshgrid(torch.arange(12.0), torch.arange(12.0), indexing="ij"))
    disc = ((places - centre[:, :, None, None]) ** 2).sum(1) < 9
    bar = ((torch.arange(12)[None, :, None] - row[:, None, None]).abs() < 2).expand(n, 12, 12)
    y = torch.where(disc, 1, torch.where(bar, 2, 0))
    return (torch.tensor([0.2, 0.8, 0.5])[y] + 0.1 * torch.randn(n, 12, 12)).clamp(0, 1)[:, None], y


def differences(net, x, y, result, reached, p):
    """How many points are not what the result says of them."""
    count = 0
    for i in result.success.nonzero()[:, 0].tolist():
        z, delta = result.x_adv[i], (result.x_adv[i].double() - x[i].double()).abs().flatten()
        distance = float(delta.max() if p == math.inf else (delta**p).sum() ** (1 / p))
        outputs = net(z[None])[0], copy.deepcopy(net).double()(z[None].double())[0]
        right = all(reached(output, y[i]) for output in outputs) and bool(((z >= 0) & (z <= 1)).all())
        count += not right or abs(distance - float(result.distance[i])) > 1e-9 * distance
    return count


def main():
    parser = argparse.ArgumentParser(description="Radii for goals.")
    parser.add_argument("--rows", type=int, default=50)
    parser.add_argument("--gradients", type=int, nargs="+", default=[100])
    given = parser.parse_args()
    torch.manual_seed(0)
    regression = nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 3))
    tagger = nn.Sequential(
        nn.Conv2d(1, 12, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(12, 16, 3, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(576, 4),
    )  # fmt: skip
    dense = nn.Sequential(
        nn.Conv2d(1, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 12, 3, padding=1), nn.ReLU(),
        nn.Conv2d(12, 3, 3, padding=1),
    )  # fmt: skip
    trained(regression, functions, nn.functional.mse_loss)
    trained(tagger, tags, nn.functional.binary_cross_entropy_with_logits)
    trained(dense, pictures, nn.functional.cross_entropy)
    inputs, (images, there), (scenes, _) = functions(given.rows)[0], tags(given.rows), pictures(given.rows)
    cases = {
        "regression": (regression, inputs, regression(inputs), Deviates(0.1),
                       lambda o, t: bool((o - t).abs().max() > 0.1)),
        "tags": (tagger, images, there, AnyLabel(), lambda o, t: bool(((o > 0) != (t > 0.5)).any())),
        "dense": (dense, scenes, dense(scenes).argmax(1), Pixels(0.2),
                  lambda o, t: float((o.argmax(0) != t).double().mean()) >= 0.2),
    }  # fmt: skip
    for name, (net, x, y, goal, reached) in cases.items():
        for p in (2.0, math.inf):
            for method in ("auto", "pwcf", "curved"):
                for budget in given.gradients:
                    question = plica.MinRadius(plica.Lp(p))
                    result = plica.attack(net, x, y, question, goal=goal, method=method, gradients=budget)
                    wrong = differences(net, x, y, result, reached, p)
                    found, median = int(result.success.sum()), float(result.distance.median())
                    print(
                        f"{name} l{p:g} {method} {budget}: {found} found, median {median:.5g}, {wrong} differ",
                        flush=True,
                    )
    question, most = plica.MinRadius(plica.Lp(2)), max(given.gradients)
    single = [
        plica.attack(lambda z, j=j: tagger(z)[:, j], images, there[:, j].long(), question, gradients=most).distance
        for j in range(4)
    ]
    together = plica.attack(tagger, images, there, question, goal=AnyLabel(), gradients=most).distance
    ratio = together[together > 0] / torch.stack(single).amin(0)[together > 0]
    print(f"AnyLabel over the least of one model for each tag: {float(ratio.min()):.5f} to {float(ratio.max()):.5f}")


if __name__ == "__main__":
    main()
