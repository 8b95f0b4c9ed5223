"""Searches under autocast beside searches in the model's own precision: the same images, question and budget.

    python benchmarks/autocast.py --data ../shared/data [--networks resnet_2b] [--n 30] [--metrics l2] [--gradients 30]

MinRadius. `found` is the number of images with a point, `ratio` the mean, median and largest ratio of the radius to
that of float32 over the images that both have a point for, `runs` the largest number of forward runs of an image,
`lost` images that float32 alone has a point for, and `undone` points that the network in float32 gets right.
"""

import argparse
import time
from pathlib import Path

import torch
from half import load

import plica
from plica.metrics import parse_metric


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--networks", nargs="+", default=["resnet_2b"])
    parser.add_argument("--metrics", nargs="+", default=["l2"])
    parser.add_argument("--precisions", nargs="+", default=["bf16", "fp16"])
    parser.add_argument("--n", type=int, default=30)
    parser.add_argument("--gradients", type=int, default=30)
    parser.add_argument("--method", default="auto")
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    torch.set_num_threads(1)
    data = load(given.data)
    pixels, labels = data.cifar10("test", given.n, seed=0)
    x, y = (t.to(given.device) for t in (torch.tensor(pixels).float() / 255, torch.tensor(labels).long()))
    print("| network | metric | precision | found | ratio mean | median | largest | runs | lost | undone | seconds |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for name in given.networks:
        net = (data.resnet18_cifar() if name == "resnet18" else data.load_net(name)).to(given.device)
        for metric in given.metrics:
            own = None
            for precision in ("own", *given.precisions):
                start = time.perf_counter()
                result = plica.attack(
                    net, x, y, plica.MinRadius(parse_metric(metric)), gradients=given.gradients, method=given.method,
                    precision=precision,
                )  # fmt: skip
                seconds = time.perf_counter() - start
                own = result if own is None else own
                both = result.success & own.success & (own.distance > 0)
                ratio = result.distance[both] / own.distance[both]
                with torch.no_grad():
                    undone = int((result.success & (net(result.x_adv).argmax(1) == y)).sum())
                lost = int((own.success & ~result.success).sum())
                cells = [name, metric, precision, int(result.success.sum())]
                cells += [f"{float(r):.4f}" for r in (ratio.mean(), ratio.median(), ratio.max())]
                cells += [int(result.forwards.max()), lost, undone, f"{seconds:.1f}"]
                print("| " + " | ".join(map(str, cells)) + " |", flush=True)


if __name__ == "__main__":
    main()
