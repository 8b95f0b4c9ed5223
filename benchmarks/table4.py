"""Table 4 of "Optimizers Matter" on real networks: attacks inside a ball of a distance between features; and Figure 1.

    python benchmarks/table4.py --net resnet18 --metric self --images 96 --minutes 45
    python benchmarks/table4.py --net efficientnet --metric alex --images 16 --losses margin
    python benchmarks/table4.py --net trained --weights build/training/pat-0.05-0.safetensors --images 50

First the radii that PWCF finds for MinRadius (Figure 1); then every attack, 16 images at a time, no further ones once
so many minutes are gone. Radii are those given and quantiles of those found. Images that are misclassified as they are,
are left out.
Violated: share of images whose end point, as the attack left it, lies outside the ball. Succeeded: share whose end
point is misclassified and inside; judged: share for which plica's judge accepted a point, of all that were seen.
Breakable: share for which any method is known to have a point inside.

Needs a folder with `load.py` (`cifar10(n=)`, `imagenet(n=)`, `load_net(name)`, `efficientnet_lite(0)`) and
`models/lpips_alex.safetensors`.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import defaultdict
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: or CPU time counts threads that wait

import torch
from safetensors.torch import load_file

import plica
import plica.demo
from training import build_net

METHODS = {"fast-lpa": 20, "lpa": 200, "lpa-newton": 200, "ppgd": 40, "pwcf": 100}  # gradients of each
LAYERS = {
    "resnet18": ["layer1", "layer2", "layer3", "layer4"],
    "resnet_2b": ["net.r", "net.layer1"],
    "efficientnet": [],
    "trained": ["1", "3"],  # of benchmarks/training.py, as it trains perceptually
}
PART = 16  # images side by side
HEAD = ["net", "metric", "radius", "loss", "method", "gradients", "violated", "succeeded", "judged", "breakable", "s"]


def main() -> None:
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("--data", type=Path, default=Path("../shared/data"))
    parse.add_argument("--net", choices=LAYERS, default="resnet18")
    parse.add_argument("--weights", type=Path, help="of --net trained: a file that benchmarks/training.py has written")
    parse.add_argument("--metric", choices=["self", "alex"], default="self")
    parse.add_argument("--images", type=int, default=20)
    parse.add_argument("--losses", nargs="+", default=["margin", "ce"])
    parse.add_argument("--radii", type=float, nargs="*", default=[0.5])
    parse.add_argument("--quantiles", type=float, nargs="*", default=[0.1])
    parse.add_argument("--methods", nargs="+", default=list(METHODS))
    parse.add_argument("--minutes", type=float, default=float("inf"))
    args = parse.parse_args()
    if not (args.data / "load.py").exists():
        sys.exit(f"There is no {args.data / 'load.py'}; name the folder with --data.")
    begun = time.monotonic()
    net, x, y, metric = prepared(args)
    known = plica.attack(net, x, y, plica.MinRadius(metric), method="pwcf", gradients=100).distance
    levels = torch.tensor([0, 0.1, 0.25, 0.5, 0.75, 0.9, 1], dtype=torch.float64)
    found = ", ".join(f"{q:.4g}" for q in known.quantile(levels, interpolation="higher").tolist())
    print(f"{args.net}, {args.metric}, {len(x)} images; radii found by PWCF with 100 gradients, 0, 10, 25, 50, 75, 90, "
          f"100 %: {found}; below 0.5: {100 * float((known < 0.5).double().mean()):.0f} %\n", flush=True)  # fmt: skip
    radii = {radius: f"{radius:g}" for radius in args.radii} | {
        (r := float(known.quantile(q, interpolation="higher"))): f"{r:.3g} ({100 * q:.0f} % quantile)"
        for q in args.quantiles
    }
    told = defaultdict(list)
    for rows in torch.arange(len(x)).split(PART):
        for radius in radii:
            for loss, method, *part in asked(args, net, x[rows], y[rows], metric, radius, known[rows]):
                told[radius, loss, method].append(part)
        print(f"{int(rows[-1]) + 1} images, {(time.monotonic() - begun) / 60:.0f} minutes", file=sys.stderr, flush=True)
        table(args, told, radii)
        if time.monotonic() - begun > 60 * args.minutes:
            break


def prepared(args):
    """The network, images that it gets right, their labels, and the metric."""
    sys.path.insert(0, str(args.data))
    import load

    if args.net == "efficientnet":
        net, (x, y, _) = load.efficientnet_lite(0), load.imagenet(n=2 * args.images)
    else:
        if args.net == "trained":
            net = build_net()
            net.load_state_dict(load_file(args.weights))
            net.eval().requires_grad_(False)
        else:
            net = plica.demo.resnet18() if args.net == "resnet18" else load.load_net(args.net)
        x, y = load.cifar10(n=3 * args.images + 20, seed=0)
    x, y = torch.from_numpy(x).float() / 255, torch.from_numpy(y)
    with torch.no_grad():
        right = torch.cat([net(part).argmax(1) for part in x.split(16)]) == y
    x, y = x[right][: args.images], y[right][: args.images]
    if args.metric == "self":
        return net, x, y, plica.Perceptual.of(net, LAYERS[args.net])
    lpips = plica.LPIPS(args.data / "models" / "lpips_alex.safetensors", resize=64 if x.shape[-1] < 64 else None)
    return net, x, y, plica.Perceptual(lpips.maps)


def asked(args, net, x, y, metric, radius: float, known):
    """(loss, method, the four shares' booleans per image, gradients per image, seconds) of every attack."""
    rows = []
    for loss in args.losses:
        for method in args.methods:
            begin = time.process_time()
            question = plica.MaxLoss(metric, radius, loss=loss)
            result = plica.attack(net, x, y, question, method=method, gradients=METHODS.get(method, 100))
            rows.append((loss, method, result, time.process_time() - begin))
    broken = torch.stack([result.success for _, _, result, _ in rows]).any(0) | (known <= radius)
    for loss, method, result, seconds in rows:
        with torch.no_grad():
            wrong = net(result.end).argmax(1) != y
            far = metric(x, result.end)
        cells = torch.stack([far > radius, wrong & (far <= radius), result.success, broken])
        yield loss, method, cells, result.gradients, seconds


def table(args, told, radii) -> None:
    """What is known so far, over all images asked."""
    print("\n| " + " | ".join(HEAD) + " |\n|---|---|---:|---|---|---:|---:|---:|---:|---:|---:|")
    for radius, name in radii.items():
        for (at, loss, method), parts in told.items():
            if at == radius:
                cells = torch.cat([part[0] for part in parts], 1).double().mean(1)
                spent = float(torch.cat([part[1] for part in parts]).double().mean())
                seconds = sum(part[2] for part in parts) / sum(part[0].shape[1] for part in parts)
                shares = " | ".join(f"{100 * share:.0f} %" for share in cells.tolist())
                row = f"{args.net} | {args.metric} | {name} | {loss} | {method} | {spent:.0f} | {shares}"
                print(f"| {row} | {seconds:.2f} |", flush=True)


if __name__ == "__main__":
    main()
