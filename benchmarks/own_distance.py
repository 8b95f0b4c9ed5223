"""A distance of one's own, and the same with a prox of three more lines: radii, gradients and seconds of both.

python benchmarks/own_distance.py --data ../shared/data [--n 100] [--gradients 30 100]
"""

import argparse
import sys
import time
from pathlib import Path

import torch

import plica

sys.path.insert(0, str(Path(__file__).parent))
from perceptual import setting


def pixels(x, x_adv):
    """How many pixels change, and how much: the sum over pixels of the length of the change of colour."""
    delta = (x_adv - x).flatten(2)
    return delta.norm(dim=1).sum(1)


class Pixels:
    """The same as a norm of the perturbation with its prox, a soft threshold for each pixel's colour as a whole."""

    def __call__(self, x, x_adv):
        return pixels(x, x_adv)

    def norm(self, u):
        return u.unflatten(1, (3, -1)).norm(dim=1).sum(1)

    def prox(self, u, eta):
        colour = u.unflatten(1, (3, -1))
        keep = 1 - eta[:, None, None] / colour.norm(dim=1, keepdim=True)
        return (colour * keep.clamp(min=0)).flatten(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--n", type=int, default=100)
    parser.add_argument("--gradients", type=int, nargs="+", default=[30, 100])
    args = parser.parse_args()
    torch.set_num_threads(1)
    net, x, y, _ = setting(args.data, args.n)
    for gradients in args.gradients:
        for name, metric in (("without a prox", pixels), ("with a prox", Pixels())):
            began = time.process_time()
            found = plica.attack(net, x, y, plica.MinRadius(metric), gradients=gradients)
            seconds = time.process_time() - began
            model, own = int(found.gradients.max()), int(found.metric_gradients.max())
            print(f"{name} | gradients {model} of the model, {own} of the metric | median radius "
                  f"{float(found.distance.median()):.4g} | failed {int((~found.success).sum())} | {seconds:.1f} s",
                  flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
