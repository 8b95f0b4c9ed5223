"""A sound little classifier, and the same with one defect each: what every check must find."""

from __future__ import annotations

import atexit
from collections.abc import Callable
from functools import cache
from pathlib import Path
from shutil import copytree, rmtree
from tempfile import mkdtemp

import torch
from torch import Tensor, nn
from torch.nn import functional

import plica
from plica.runs.single import save_run

CLASSES, SIDE = 6, 8


@cache
def images(count: int = 240) -> tuple[Tensor, Tensor]:
    """Noisy copies of CLASSES smooth random pictures (3, 8, 8)."""
    draw = torch.Generator().manual_seed(0)
    means = functional.interpolate(torch.rand(CLASSES, 3, 4, 4, generator=draw), SIDE, mode="bilinear")
    y = torch.arange(count) % CLASSES
    x = 0.5 + 0.4 * (means[y] - 0.5) + 0.08 * torch.randn(count, 3, SIDE, SIDE, generator=draw)
    return (x.clamp(0, 1) * 255).round() / 255, y


@cache
def trained() -> nn.Sequential:
    """Right on nearly all images, and broken at a few 255ths."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE**2, 64), nn.ReLU(), nn.Linear(64, CLASSES))
    x, y = images()
    best = torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(150):
        best.zero_grad()
        functional.cross_entropy(net((x - 0.5) / 0.25), y).backward()
        best.step()
    return net.requires_grad_(False).eval()


class Sound(nn.Module):
    """Pixels in, logits out."""

    def __init__(self):
        super().__init__()
        self.net = trained()

    def forward(self, x: Tensor) -> Tensor:
        return self.net((x - 0.5) / 0.25)


class Changed(Sound):
    """The sound model between a change of its input and a change of its output."""

    def __init__(
        self, before: Callable[[Tensor], Tensor] = lambda x: x, after: Callable[[Tensor], Tensor] = lambda z: z
    ):
        super().__init__()
        self.before, self.after = before, after

    def forward(self, x: Tensor) -> Tensor:
        return self.after(super().forward(self.before(x)))


class Backward(torch.autograd.Function):
    """The identity, with the gradient times -1."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return -grad


def shattered(x: Tensor) -> Tensor:
    """Pixels move by less than a fortieth of a 255th, and the sign of every derivative by chance."""
    return x + 1e-4 * torch.sin(5e5 * x)


def batch_dependent(x: Tensor) -> Tensor:
    """Batch statistics."""
    return x - 0.5 * (x.mean(0, keepdim=True) - 0.5)


def decoy(z: Tensor) -> Tensor:
    """A class that is always close behind the first and never ahead; its distance follows the sum of the others."""
    return torch.cat([z, z.amax(1, keepdim=True) - 0.5 - 0.1 * torch.sigmoid(z[:, :1])], 1)


def halved(x: Tensor) -> Tensor:
    """Half of the pixels without gradient."""
    return torch.cat([x[..., : SIDE // 2].detach(), x[..., SIDE // 2 :]], -1)


def through(x: Tensor) -> Tensor:
    """Eight grey values, with the gradient of the identity."""
    return x + (torch.round(x * 7) / 7 - x).detach()


def defects() -> dict[str, tuple[nn.Module, str]]:
    """For each defect its model and the check that must name it."""
    return {
        "half of the pixels detached": (Changed(halved), "finite differences"),
        "detached": (Changed(lambda x: x.detach()), "detached"),
        "rounded pixels": (Changed(lambda x: torch.round(x * 15) / 15), "zero gradient"),
        "saturated": (Changed(after=lambda z: torch.softmax(40 * z, 1)), "zero gradient"),
        "probabilities of 0": (Changed(after=lambda z: torch.softmax(1000 * z, 1)), "probabilities"),
        "random": (Changed(lambda x: x + 0.05 * torch.randn_like(x)), "random outputs"),
        "batch statistics": (Changed(batch_dependent), "batch dependence"),
        "gradient reversed": (Changed(Backward.apply), "loss does not rise"),
        "gradient shattered": (Changed(shattered), "black box"),
        "straight-through rounding": (Changed(through), "finite differences"),
        "normalisation forgotten": (Changed(lambda x: x * 0.25 + 0.5), "normalisation"),
        "never divided by 255": (Changed(lambda x: x * 255), "normalisation"),
        "red and blue exchanged": (Changed(lambda x: x.flip(1)), "normalisation"),
        "another order of classes": (Changed(after=lambda z: z.roll(1, 1)), "accuracy"),
        "decoy class": (Changed(after=decoy), "one target class"),
        "NaN on some images": (Changed(after=lambda z: torch.where(z[:, :1] > 2, torch.nan, z)), "not finite"),
    }


def saved_run(folder, metric="l2", radius=None, images=12):
    """The directory of a run of the sound model on its images, the first of them misclassified as it is."""
    copytree(_saved_run(metric, radius, images), folder / "run")
    return folder / "run"


@cache
def _saved_run(metric, radius, count):
    folder = Path(mkdtemp())
    atexit.register(rmtree, folder)
    x, y = (t[:count] for t in images())
    y = y.clone()
    y[0] = (y[0] + 1) % 6
    norm = plica.Lp(metric[1:])
    question = plica.MinRadius(norm) if radius is None else plica.MaxLoss(norm, radius)
    result = plica.attack(Sound().eval(), x, y, question, gradients=40)
    asked = dict(metric=metric, radius=None if radius is None else str(radius))
    save_run(folder / "run", x, y, result, dict(model="defects:Sound", method="auto") | asked, 1.0)
    return folder / "run"
