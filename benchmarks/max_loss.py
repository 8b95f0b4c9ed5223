"""MaxLoss by `auto` beside AutoAttack's standard version, on networks of a data folder: which images each breaks.

    python benchmarks/max_loss.py --data ../shared/data --out max_loss --n 200 --gradients 300

Both are judged alike: misclassified in float64, in the box, and no further than the radius but for a millionth of it
and the rounding of a pixel in float32.
Answers of `--block` images at a time are appended to OUT/auto.jsonl and OUT/autoattack.jsonl; what stands there is not
run again, so that the command can be stopped and goes on later. Images that AutoAttack alone breaks are listed. On a
GPU (`--device cuda`) a block of all images is fastest; the points are judged on the CPU.

With `--near 1.25` AutoAttack, which takes nearly all of the time, runs on fewer images: not on those that `auto`
breaks, nor on those whose radius by `auto` for MinRadius with 1000 gradients is 1.25 times the case's or more. The
table says how many were left out on that second ground.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from pathlib import Path

import torch

import plica

RADII = {  # two of each norm, near the median and the upper quartile of the radii
    "resnet_2b": {"l1": (2, 4), "l2": (0.3, 0.5), "linf": (4 / 255, 6 / 255)},
    "cifar_base_kw": {"l1": (2, 4), "l2": (0.35, 0.7), "linf": (4 / 255, 8 / 255)},
    "cifar_wide_kw": {"l1": (5, 10), "l2": (0.6, 1.2), "linf": (4 / 255, 8 / 255)},
    "cifar10_small": {"l1": (1.5, 3), "l2": (0.15, 0.25), "linf": (1 / 255, 2 / 255)},
    "cifar10_medium": {"l1": (1.5, 3), "l2": (0.15, 0.25), "linf": (1 / 255, 2 / 255)},
    "cifar10_large": {"l1": (2, 4), "l2": (0.2, 0.3), "linf": (1.5 / 255, 2 / 255)},
}
SLACK = 1e-6
PIXEL = 6e-8


def auto(net, x, y, norm, radius, gradients):
    """Points of plica.attack."""
    question = plica.MaxLoss(plica.Lp(norm.removeprefix("l")), radius)
    return plica.attack(net, x, y, question, gradients=gradients).x_adv


def autoattack(net, x, y, norm, radius, gradients):
    """Points of AutoAttack's standard version, which has budgets of its own."""
    from pyautoattack.autoattack import AutoAttack

    logging.getLogger("auto-attack").setLevel(logging.ERROR)
    attack = AutoAttack(net, norm=norm.capitalize(), eps=radius, seed=0, version="standard", device=x.device)
    return attack.run_standard_evaluation(x, y, batch_size=len(x))[0]


METHODS = {"auto": auto, "autoattack": autoattack}


def radii(net, x, y, norm):
    """Radii by `auto` for MinRadius with 1000 gradients, inf where no point is found."""
    result = plica.attack(net, x, y, plica.MinRadius(plica.Lp(norm.removeprefix("l"))), gradients=1000)
    return result.distance.where(result.success, torch.inf)


@torch.no_grad()
def broken(net64, x, y, x_adv, norm, radius):
    """Which images are misclassified in float64, in the box and within the radius."""
    z, start = x_adv.double(), x.double()
    inside = (z.flatten(1).amin(1) >= 0) & (z.flatten(1).amax(1) <= 1)
    distance = torch.linalg.vector_norm((z - start).flatten(1), ord=float(norm.removeprefix("l")), dim=1)
    return (net64(z).argmax(1) != y) & inside & (distance <= radius * (1 + SLACK) + PIXEL)


def main() -> None:
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("--data", type=Path, default=Path("../shared/data"))
    parse.add_argument("--out", type=Path, default=Path("max_loss"))
    parse.add_argument("--networks", nargs="+", default=list(RADII), choices=list(RADII))
    parse.add_argument("--norms", nargs="+", default=["l1", "l2", "linf"])
    parse.add_argument("--n", type=int, default=200)
    parse.add_argument("--gradients", type=int, default=300)
    parse.add_argument("--block", type=int, default=50, help="images at a time")
    parse.add_argument("--near", type=float, help="leave AutoAttack out beyond so many times the radius, see above")
    parse.add_argument("--device", default="cpu")
    args = parse.parse_args()
    sys.path.insert(0, str(args.data))
    from load import cifar10, load_net

    torch.set_num_threads(1)
    torch.backends.cudnn.allow_tf32 = False  # what is misclassified in TF32 alone does not count
    args.out.mkdir(parents=True, exist_ok=True)
    pixels, labels = cifar10("test", args.n, seed=0)
    x, y = torch.tensor(pixels).float() / 255, torch.tensor(labels)
    cases = [(net, norm, radius) for net in args.networks for norm in args.norms for radius in RADII[net][norm]]
    answers: dict[tuple, dict] = {}
    for method in METHODS:
        if (args.out / f"{method}.jsonl").exists():
            for line in (args.out / f"{method}.jsonl").read_text().splitlines():
                row = json.loads(line)
                answers[(method, row["net"], row["norm"], row["radius"], row["first"])] = row
    known: dict[tuple, dict[int, float]] = {}  # radii by row of the block
    for first in range(0, args.n, args.block):
        part = slice(first, first + args.block)
        for net, norm, radius in cases:
            models = load_net(net).eval().to(args.device), load_net(net).double().eval()
            with torch.no_grad():
                clean = models[1](x[part].double()).argmax(1) == y[part]
            for method, run in METHODS.items():
                if (method, net, norm, radius, first) in answers:
                    continue
                asked = clean
                if method == "autoattack" and args.near:
                    asked = clean & ~torch.tensor(answers[("auto", net, norm, radius, first)]["broken"])
                    seen = known.setdefault((net, norm, first), {})
                    new = [i for i in asked.nonzero()[:, 0].tolist() if i not in seen]
                    if new:
                        images, right = x[part][new].to(args.device), y[part][new].to(args.device)
                        seen.update(zip(new, radii(models[0], images, right, norm).tolist(), strict=True))
                    asked = torch.tensor([b and seen[i] < args.near * radius for i, b in enumerate(asked.tolist())])
                begin = time.process_time()
                wrong = torch.zeros_like(clean)
                if asked.any():
                    images, right = x[part][asked].to(args.device), y[part][asked].to(args.device)
                    z = run(models[0], images, right, norm, radius, args.gradients).cpu()
                    wrong[asked] = broken(models[1], x[part][asked], y[part][asked], z, norm, radius)
                seconds = time.process_time() - begin
                row = {
                    "net": net, "norm": norm, "radius": radius, "first": first, "seconds": seconds,
                    "clean": clean.tolist(), "asked": asked.tolist(), "broken": wrong.tolist(),
                }  # fmt: skip
                answers[(method, net, norm, radius, first)] = row
                with (args.out / f"{method}.jsonl").open("a") as file:
                    file.write(json.dumps(row) + "\n")
            table(answers, [(net, norm, radius)], range(0, first + 1, args.block))
    print("\nRobust images of those that each ran on, CPU seconds:\n")
    print("| network | norm | radius | images | auto | AutoAttack | AutoAttack alone breaks | left out |")
    print("|---|---|---|---|---|---|---|---|")
    table(answers, cases, range(0, args.n, args.block))


def table(answers: dict, cases: list, firsts: range) -> None:
    """A line for each case: images robust to each, those that AutoAttack alone breaks, those not put to it."""
    for net, norm, radius in cases:
        own, other = (
            [answers[(method, net, norm, radius, first)] for first in firsts] for method in ("auto", "autoattack")
        )
        images = sum(len(row["clean"]) for row in own)
        cells = []
        for rows in (own, other):
            asked = sum(sum(row["asked"]) for row in rows)
            robust = asked - sum(sum(row["broken"]) for row in rows)
            cells.append(f"{robust} of {asked}, {sum(row['seconds'] for row in rows):.0f}")
        far = sum(
            a and not b and not c
            for row, theirs in zip(own, other, strict=True)
            for a, b, c in zip(row["clean"], row["broken"], theirs["asked"], strict=True)
        )
        alone = [
            row["first"] + i
            for row, theirs in zip(own, other, strict=True)
            for i, (a, b) in enumerate(zip(row["broken"], theirs["broken"], strict=True))
            if b and not a
        ]
        print(
            f"| {net} | {norm} | {radius:.4g} | {images} | {cells[0]} | {cells[1]} | {alone or 'none'} | {far} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
