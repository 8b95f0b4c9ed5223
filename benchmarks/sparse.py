"""The fewest changed entries of an image, Lp(0), beside the answers of other norms and, where adv-lib is, sigma-zero.

    python benchmarks/sparse.py --data ../shared/data [--n 30] [--gradients 30 100 300] [--models NAME ...] [--seed 0]

For each network and budget: geometric mean over the images of the entries that differ, counted by numpy, and CPU
seconds. A point counts if the network is wrong about it; images without one are counted apart. The last rows are
changed pixels, Lp(0, group="pixel"). --seed draws the images; without it they are the first of the test set.
"""

import argparse
import importlib.util
import time
from pathlib import Path

import numpy as np
import torch

import plica


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--n", type=int, default=30)
    parser.add_argument("--gradients", type=int, nargs="+", default=[30, 100, 300])
    parser.add_argument("--models", nargs="+", default=["resnet_2b", "cifar_wide_kw"])
    parser.add_argument("--seed", type=int)
    args = parser.parse_args()
    torch.set_num_threads(1)
    spec = importlib.util.spec_from_file_location("load", args.data / "load.py")
    load = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(load)
    print("| network | search | " + " | ".join(f"{g} gradients" for g in args.gradients) + " |")
    print("|---|---|" + "---|" * len(args.gradients))
    for name in args.models:
        net = load.load_net(name)
        x, y = (torch.from_numpy(a) for a in load.cifar10(n=4 * args.n, seed=args.seed))
        x = x.float() / 255
        right = (net(x).argmax(1) == y).nonzero()[: args.n, 0]
        for words, search in searches().items():
            cells = [cell(net, x[right], y[right], search, gradients, "pixel" in words) for gradients in args.gradients]
            print(f"| {name} | {words} | " + " | ".join(cells) + " |", flush=True)


def searches() -> dict:
    """By name, (net, x, y, gradients) -> points."""

    def asked(metric):
        question = plica.MinRadius(metric)
        return lambda net, x, y, gradients: plica.attack(net, x, y, question, gradients=gradients).x_adv

    norms = {f"`{metric!r}`": asked(metric) for metric in (plica.Lp(0), plica.Lp(0.5), plica.Lp(1))}
    norms["`Lp(0, group='pixel')`, pixels"] = asked(plica.Lp(0, group="pixel"))
    if importlib.util.find_spec("adv_lib") is None:
        return norms
    from adv_lib.attacks import sigma_zero

    return {"sigma-zero": lambda net, x, y, gradients: sigma_zero(net, x, y, num_steps=gradients), **norms}


def cell(net, x, y, search, gradients, pixels) -> str:
    """Geometric mean of the counts, images without a point, and CPU seconds."""
    start = time.process_time()
    points = search(net, x, y, gradients)
    seconds = time.process_time() - start
    differs = points.numpy() != x.numpy()
    counts = (differs.any(1) if pixels else differs).reshape(len(x), -1).sum(1)
    wrong = (net(points).argmax(1) != y).numpy()
    mean = np.exp(np.log(counts[wrong]).mean()) if wrong.any() else np.nan
    return f"{mean:.2f}{'' if wrong.all() else f' ({(~wrong).sum()} without)'}, {seconds:.1f} s"


if __name__ == "__main__":
    main()
