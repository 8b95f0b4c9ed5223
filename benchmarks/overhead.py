"""CPU time of an attack over the network's own gradient time, on the demonstration's ResNet-18 and twenty images.

    python benchmarks/overhead.py --method pwcf --metric l2 --gradients 30

Both are measured in the same run, on one thread: the attack's CPU seconds, divided by those of as many gradients of
the same network in batches of the same twenty images. 1.00 is the physical limit. Needs the extra `demo`.
"""

from __future__ import annotations

import argparse
import time

import torch

import plica
from plica.demo import images, resnet18
from plica.metrics import parse_metric


def gradient_seconds(net: torch.nn.Module, x: torch.Tensor, repeats: int) -> float:
    """CPU seconds of one gradient of one image, in a batch of all of them."""

    def once() -> None:
        z = x.clone().requires_grad_(True)
        torch.autograd.grad(net(z).logsumexp(1).sum(), z)

    once()
    start = time.process_time()
    for _ in range(repeats):
        once()
    return (time.process_time() - start) / (repeats * len(x))


def main() -> None:
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("--method", default="auto")
    parse.add_argument("--metric", default="l2")
    parse.add_argument("--gradients", type=int, default=30)
    args = parse.parse_args()
    torch.set_num_threads(1)
    net, (x, y) = resnet18(), images()
    unit = gradient_seconds(net, x, 2)
    start = time.process_time()
    question = plica.MinRadius(parse_metric(args.metric))
    result = plica.attack(net, x, y, question, method=args.method, gradients=args.gradients)
    seconds = time.process_time() - start
    unit = (unit + gradient_seconds(net, x, 2)) / 2  # before and after: the machine's speed drifts
    spent, forwards = int(result.gradients.sum()), int(result.forwards.sum())
    print(f"{args.method} {args.metric}: {spent} gradients and {forwards} forward runs on {len(x)} images")
    print(f"{seconds:.1f} CPU seconds, {1e3 * unit:.1f} ms per gradient of the network")
    print(f"overhead {seconds / (spent * unit):.3f}")


if __name__ == "__main__":
    main()
