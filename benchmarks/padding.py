"""Whether the bits of a row of logits and gradients are the same in every batch, which core/model/batching.py needs.

    python benchmarks/padding.py [--threads 1 2] [--pixels 32 64] [--rows 96]

Each architecture of torchvision (random weights) and a few of our own are asked about batches of 8, 16, 24, ... rows
out of --rows; printed are the sizes at which a row's logits or gradient differ from those in the whole batch, and the
multiple of rows that plica pads to. From 16 rows on, multiples of that should differ nowhere.
"""

import argparse

import torch
import torchvision
from torch import nn

from plica.core.model.batching import MIN_ROWS, Arithmetic, observe

TORCHVISION = ("resnet18", "resnet50", "densenet121", "mobilenet_v3_small", "efficientnet_b0", "regnet_y_400mf",
               "shufflenet_v2_x0_5", "vgg11", "convnext_tiny", "swin_t")  # fmt: skip


def networks(pixels: int):
    """Names and networks of images of 3 channels."""
    for name in TORCHVISION:
        yield name, torchvision.models.get_model(name)
    yield "vit, patches of 8", torchvision.models.VisionTransformer(pixels, 8, 2, 4, 64, 128)
    for act in (nn.ReLU(), nn.SiLU(), nn.ELU(), nn.GELU("tanh"), nn.Sigmoid()):
        for width in (33, 34, 36):
            layers = nn.Flatten(), nn.Linear(3 * pixels**2, width), act, nn.Linear(width, 16)
            yield f"perceptron, {width} x {type(act).__name__}", nn.Sequential(*layers)


def bits(net, x):
    """Logits and gradients of the first one."""
    x = x.clone().requires_grad_(True)
    logits = net(x)
    return logits.detach(), torch.autograd.grad(logits[:, 0].sum(), x)[0]


def differing(net, x) -> list[int]:
    """The sizes of batches in which some row has other bits than in the whole."""
    whole, found = bits(net, x), []
    for size in range(8, len(x), 8):
        for start in {0, (len(x) - size) // 2, len(x) - size}:
            some = slice(start, start + size)
            if not all(torch.equal(a, b[some]) for a, b in zip(bits(net, x[some]), whole, strict=True)):
                found.append(size)
                break
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--pixels", type=int, nargs="+", default=[32, 64])
    parser.add_argument("--rows", type=int, default=96)
    given = parser.parse_args()
    print("| pixels | threads | network | multiple | differs at sizes of | at those it is called with |")
    print("|---:|---:|---|---:|---|---|")
    for pixels in given.pixels:
        x = torch.rand(given.rows, 3, pixels, pixels, generator=torch.Generator().manual_seed(0))
        for threads in given.threads:
            torch.set_num_threads(threads)
            torch.manual_seed(0)
            for name, net in networks(pixels):
                arithmetic = Arithmetic()
                observe(net.eval(), x[:32], arithmetic)
                multiple = arithmetic.multiple
                sizes = differing(net, x)
                called = [size for size in sizes if size >= MIN_ROWS and size % multiple == 0]
                told = [", ".join(map(str, some)) or "none" for some in (sizes, called)]
                print(f"| {pixels} | {threads} | {name} | {multiple} | {told[0]} | {told[1]} |", flush=True)


if __name__ == "__main__":
    main()
