"""Small random networks of every operation that has bounds."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

IMAGE = (2, 6, 6)
FLAT = 72


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 4, 3, stride=2, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.short = nn.Conv2d(2, 4, 1, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return (self.second(self.first(x).relu()) - 0.5 * self.short(x)).relu()


class Pieces(nn.Module):
    """Slices, concatenation, permutation, padding, constants, in-place operations."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.3, 0.6]).view(1, 2, 1, 1))
        self.inner, self.out = nn.Conv2d(4, 3, 2), nn.Linear(3 * 7 * 7, 3)
        self.act = nn.LeakyReLU(0.1, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        z = (x - self.mean) / torch.tensor([0.5, 0.25], dtype=x.dtype).view(2, 1, 1)
        z = torch.cat([z[:, :1], 1 - z, -z[:, 1:] * 2], 1)
        z = functional.pad(z, (1, 1, 1, 1), value=0.2)
        z = self.inner(z)
        z += 0.1
        return self.out(self.act(z).permute(0, 2, 3, 1).flatten(1))


class Left(nn.Module):
    """A matrix on the left of a column of pixels, as some converters write a linear layer."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Parameter(torch.randn(8, FLAT) / 8), nn.Parameter(torch.randn(3, 8) / 3)

    def forward(self, x: Tensor) -> Tensor:
        column = x.reshape(len(x), FLAT, 1)
        return (self.second @ (self.first @ column + 0.1).relu()).squeeze(-1)


class Clamped(nn.Module):
    """Piecewise linear functions of values, and of values and constants."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.out = nn.Linear(FLAT, 8), nn.Linear(16, 8), nn.Linear(8, 3)
        self.slopes = nn.PReLU(8, 0.3)
        self.register_buffer("limits", torch.tensor([-0.25, -0.125, 0, 0.125]).repeat(2))

    def forward(self, x: Tensor) -> Tensor:
        z = self.first(x.flatten(1))
        z = torch.cat([functional.relu6(4 * z) - 1, torch.maximum(self.limits, z).abs()], 1)
        z = self.slopes(self.second(z))
        return self.out(torch.minimum(z.clamp(max=0.4), functional.hardsigmoid(z.flip(1)) - 0.3))


class Smooth(nn.Module):
    """Curved activations: one that is not monotone, one with a kink."""

    def __init__(self):
        super().__init__()
        self.first, self.out = nn.Linear(FLAT, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        z = self.first(x.flatten(1))
        return self.out(torch.cat([functional.gelu(z[:, :4]), functional.selu(z[:, 4:])], 1))


class Copied(nn.Module):
    """Reflected borders, copies of pixels, channels as pixels and back, turned and repeated rows, largest pixels."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 4, 3, padding=1, padding_mode="reflect"), nn.Conv2d(2, 4, 3)
        self.row, self.out = nn.Conv1d(4, 3, 3, stride=2, padding=1), nn.Linear(13, 3)

    def forward(self, x: Tensor) -> Tensor:
        z = functional.interpolate(self.first(x).relu()[:, :, ::2, ::2], scale_factor=2)
        z = functional.pixel_unshuffle(functional.pixel_shuffle(z, 2), 2).flip(2).roll(1, 3)
        z = functional.pad(z[:, 1:3], (1, 1, 0, 1), mode="replicate")
        z = self.second(z)
        top = torch.cat([z.amax((2, 3)), functional.adaptive_max_pool2d(z[:, :, 1:, :4], 1).flatten(1)], 1)
        row = functional.max_pool1d(self.row(z.flatten(2)[:, :, :13]).relu(), 3, ceil_mode=False)
        return self.out(torch.cat([top, top[:, :1].repeat(1, 2), row.flatten(1)[:, :3]], 1))


class Decoder(nn.Module):
    """A code of a few numbers, blown up to an image and to a row."""

    def __init__(self):
        super().__init__()
        self.code = nn.Conv2d(2, 4, 3, stride=3)
        self.image = nn.ConvTranspose2d(4, 4, 3, stride=(2, 1), padding=1, output_padding=(1, 0), groups=2)
        self.row = nn.ConvTranspose1d(4, 2, 3, padding=2, output_padding=1, dilation=2, bias=False)
        self.out = nn.Linear(4 * 4 * 2 + 2 * 5, 3)

    def forward(self, x: Tensor) -> Tensor:
        z = self.code(x).relu()
        return self.out(torch.cat([self.image(z).flatten(1), self.row(z.flatten(2)).flatten(1)], 1).relu())


class Wrapped(nn.Module):
    """Circular borders, a slope above 1, means that are taken off and repeated, windows that end beyond the image."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(2, 3, 3, stride=2, padding=(1, 2), padding_mode="circular")
        self.act, self.out = nn.LeakyReLU(1.5), nn.Linear(24, 3)
        self.register_buffer("gates", torch.tensor([1.0, -0.5]).view(2, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        z = self.act(self.first(x))
        z = functional.max_pool2d(z - z.mean((2, 3), keepdim=True), 2, ceil_mode=True)  # 3 x 4 pixels
        both = z[:, :1] * self.gates + z[:, 1:2].expand(-1, 2, -1, -1)
        z = torch.cat([both, z.mean(1, keepdim=True) + self.gates, z.index_select(1, torch.tensor([2, 0]))], 1)
        z = functional.pad(functional.pad(z, pad=(0, 1, 0, 0), mode="circular"), (0, 0, 1, 0), "circular")
        return self.out(functional.avg_pool2d(z, 2, ceil_mode=True).relu().flatten(1))


class Mixer(nn.Module):
    """Linear layers of several vectors of each image, along either axis, and vectors that are stacked."""

    def __init__(self):
        super().__init__()
        self.along, self.across, self.out = nn.Linear(6, 4), nn.Linear(6, 3, bias=False), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        z = self.along(x).relu()[:, 0].transpose(1, 2)  # of 2 x 6 vectors
        z = torch.stack([self.across(z), -z[..., :3], torch.ones_like(z[..., :3])], 2)
        return self.out(z.sum(2).transpose(1, 2).relu().flatten(1))


class Columns(nn.Module):
    """Single numbers of each image, which have no axis of their own, and are stacked."""

    def __init__(self):
        super().__init__()
        self.first, self.out = nn.Linear(FLAT, 4), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        z = self.first(x.flatten(1))
        a, b, c, d = z.unbind(1)
        numbers = torch.stack([2 * a, b.relu() - a, -c], -1)
        others = [d.sigmoid().unsqueeze(-1), z[:, 3, None] + b.maximum(c)[:, None]]
        return self.out(torch.cat([numbers, *others], 1).relu())


def _norm() -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(3)
    with torch.no_grad():
        norm.running_mean.uniform_(-1, 1)
        norm.running_var.uniform_(0.5, 2)
        norm.weight.uniform_(-2, 2)
        norm.bias.uniform_(-1, 1)
    return norm


def dense(act: nn.Module, *sizes: int) -> nn.Module:
    layers: list[nn.Module] = [nn.Flatten()]
    for m, n in pairwise(sizes):
        layers += [nn.Linear(m, n), act]
    return nn.Sequential(*layers[:-1])


BUILDERS = {
    "relu": lambda: dense(nn.ReLU(), FLAT, 10, 10, 3),
    "leaky": lambda: dense(nn.LeakyReLU(0.2), FLAT, 10, 10, 3),
    "negative slope below 0": lambda: dense(nn.LeakyReLU(-0.3), FLAT, 10, 10, 3),
    "sigmoid": lambda: dense(nn.Sigmoid(), FLAT, 10, 10, 10, 3),
    "tanh": lambda: dense(nn.Tanh(), FLAT, 10, 10, 10, 3),
    "relu after the logits": lambda: nn.Sequential(dense(nn.ReLU(), FLAT, 8, 3), nn.ReLU()),
    "strides": lambda: nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 2, dilation=2, groups=2), nn.ReLU(),
        nn.Flatten(), nn.Linear(4, 3),
    ),
    "rows left over": lambda: nn.Sequential(
        nn.Conv2d(2, 4, (2, 3), stride=(3, 2), padding=(0, 1)), nn.ReLU(), nn.Flatten(), nn.Linear(24, 3)
    ),
    "batch norm": lambda: nn.Sequential(
        nn.Conv2d(2, 3, 3), _norm(), nn.ReLU(), nn.Dropout(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 3)
    ),
    "average pool": lambda: nn.Sequential(
        nn.Conv2d(2, 3, 2), nn.ReLU(), nn.AvgPool2d(3, stride=2, padding=1), nn.Flatten(), nn.Linear(27, 3)
    ),
    "max pool": lambda: nn.Sequential(
        nn.Conv2d(2, 3, 2), nn.ReLU(), nn.MaxPool2d(3, stride=2, padding=1), nn.Conv2d(3, 4, 2), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(4, 3),
    ),
    "residual": lambda: nn.Sequential(Residual(), nn.Flatten(), nn.Linear(36, 8), nn.Tanh(), nn.Linear(8, 3)),
    "pieces": Pieces,
    "left": Left,
    "clamped": Clamped,
    "copied": Copied,
    "smooth": Smooth,
    "decoder": Decoder,
    "wrapped": Wrapped,
    "mixer": Mixer,
    "columns": Columns,
}  # fmt: skip


def network(name: str, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    net = BUILDERS[name]()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter *= 1.5  # so that neurons are unstable and the bounds not trivial
    return net.eval().requires_grad_(False)


def images(b: int = 4, seed: int = 0, shape: tuple[int, ...] = IMAGE) -> Tensor:
    """Some pixels lie on the walls of [0, 1]."""
    return (1.4 * torch.rand(b, *shape, generator=torch.Generator().manual_seed(seed)) - 0.2).clamp(0, 1)
