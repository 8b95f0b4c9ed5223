"""Table 4 of "Optimizers Matter" on real networks: attacks inside a ball of a distance between features.

    python benchmarks/table4.py --net resnet18 --metric self --images 20
    python benchmarks/table4.py --net efficientnet --metric alex --images 4 --losses margin

Violated: share of images whose end point, as the attack left it, lies outside the ball. Succeeded: share whose end
point is misclassified and inside; judged: share for which plica's judge accepted a point, of all that were seen.
Breakable: share for which any method is known to have a point inside. Images that are misclassified as they are, are
left out. Radii are 0.5 and quantiles of the radii that PWCF finds for MinRadius.

Needs a folder with `load.py` (`cifar10(n=)`, `imagenet(n=)`, `load_net(name)`, `efficientnet_lite(0)`) and
`models/lpips_alex.safetensors`.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: or CPU time counts threads that wait

import torch

import plica
import plica.demo

METHODS = {"fast-lpa": 20, "lpa": 200, "lpa-newton": 200, "ppgd": 40, "pwcf": 100}  # gradients of each
LAYERS = {
    "resnet18": ["layer1", "layer2", "layer3", "layer4"],
    "resnet_2b": ["net.r", "net.layer1"],
    "efficientnet": [],
}


def prepared(args):
    """The network, images that it gets right, their labels, and the metric."""
    sys.path.insert(0, str(args.data))
    import load

    if args.net == "efficientnet":
        net, (x, y, _) = load.efficientnet_lite(0), load.imagenet(n=2 * args.images)
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


def main() -> None:
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("--data", type=Path, default=Path("../shared/data"))
    parse.add_argument("--net", choices=LAYERS, default="resnet18")
    parse.add_argument("--metric", choices=["self", "alex"], default="self")
    parse.add_argument("--images", type=int, default=20)
    parse.add_argument("--losses", nargs="+", default=["margin", "ce"])
    parse.add_argument("--quantiles", type=float, nargs="*", default=[0.1])
    parse.add_argument("--methods", nargs="+", default=list(METHODS))
    args = parse.parse_args()
    if not (args.data / "load.py").exists():
        sys.exit(f"There is no {args.data / 'load.py'}; name the folder with --data.")
    net, x, y, metric = prepared(args)
    known = plica.attack(net, x, y, plica.MinRadius(metric), method="pwcf", gradients=100).distance
    levels = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    found = ", ".join(f"{q:.4g}" for q in known.quantile(levels, interpolation="higher").tolist())
    print(f"{args.net}, {args.metric}, {len(x)} images; radii found by PWCF, 100 gradients (10, 50, 90 %): {found}\n")
    print("| net | metric | radius | loss | method | gradients | violated | succeeded | judged | breakable | s |")
    print("|---|---|---:|---|---|---:|---:|---:|---:|---:|---:|")
    radii = {0.5: 0.5} | {q: float(known.quantile(q, interpolation="higher")) for q in args.quantiles}
    for level, radius in radii.items():
        rows = []
        for loss in args.losses:
            for method in args.methods:
                begin = time.process_time()
                question = plica.MaxLoss(metric, radius, loss=loss)
                result = plica.attack(net, x, y, question, method=method, gradients=METHODS.get(method, 100))
                rows.append((loss, method, result, (time.process_time() - begin) / len(x)))
        broken = torch.stack([result.success for _, _, result, _ in rows]).any(0) | (known <= radius)
        for loss, method, result, seconds in rows:
            with torch.no_grad():
                wrong = torch.cat([net(part).argmax(1) for part in result.end.split(16)]) != y
                far = torch.cat([metric(*parts) for parts in zip(x.split(16), result.end.split(16), strict=True)])
            cells = (far > radius, wrong & (far <= radius), result.success, broken)
            spent, shares = (
                float(result.gradients.double().mean()),
                " | ".join(f"{100 * float(cell.float().mean()):.0f} %" for cell in cells),
            )
            name = f"{radius:.3g}" + (f" ({100 * level:.0f} % quantile)" if level != radius else "")
            row = f"{args.net} | {args.metric} | {name} | {loss} | {method} | {spent:.0f} | {shares} | {seconds:.2f}"
            print(f"| {row} |", flush=True)


if __name__ == "__main__":
    main()
