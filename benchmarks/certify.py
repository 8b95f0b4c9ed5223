"""What lower bounds cost: CPU seconds an image and peak memory by the number of images, and what a large network gives.

    python benchmarks/certify.py [--images 1 8 64] [--nodes 12] [--networks small wide]
    python benchmarks/certify.py --networks resnet18 --images 1 --seconds 60

Random images in [0, 1]; `small` (networks.py), `wide` with twice its channels, and torchvision's ResNet-18 as for CIFAR
(first convolution 3 x 3, no pooling behind it), all with random weights, under linf, each image with its own prediction
for a label. A process for each row, on one thread. "lower": median of the radii; 0 says that nothing was proved.
"""

import argparse
import resource
import subprocess
import sys
import time

SIZES = {"small": (3, 32, 32), "wide": (3, 32, 32), "resnet18": (3, 32, 32)}


def network(name: str):
    import torch
    from networks import small
    from torch import nn

    if name == "small":
        return small()
    torch.manual_seed(0)
    if name == "wide":
        return nn.Sequential(
            nn.Conv2d(3, 32, 5, 4), nn.ReLU(), nn.Conv2d(32, 32, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10)
        )
    from torchvision.models import resnet18

    net = resnet18(num_classes=10)
    net.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
    net.maxpool = nn.Identity()  # type: ignore[reportAttributeAccessIssue]
    return net


def row(name: str, images: int, effort: dict) -> None:
    import torch

    import plica

    torch.set_num_threads(1)
    net = network(name).eval().requires_grad_(False)
    x = torch.rand(images, *SIZES[name], generator=torch.Generator().manual_seed(0))
    began = time.process_time()
    question = plica.MinRadius(plica.Lp("inf"))
    found = plica.certify(net, x, net(x).argmax(1), question, **effort)
    spent = time.process_time() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    print(f"| {name} | {images} | {spent / images:.2f} | {peak:.0f} | {float(found.radius.median()):.3g} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description="Cost of lower bounds.")
    parser.add_argument("--images", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--nodes", type=int, default=12, help="parts of the input set for each image")
    parser.add_argument("--seconds", type=float, help="for each image, instead of nodes")
    parser.add_argument("--networks", nargs="+", default=["small", "wide"], choices=sorted(SIZES))
    parser.add_argument("--row", action="store_true", help="(for the processes it starts)")
    given = parser.parse_args()
    if given.row:
        effort = {"nodes": given.nodes} if given.seconds is None else {"seconds": given.seconds}
        row(given.networks[0], given.images[0], effort)
        return
    print("| network | images | CPU s an image | peak MB | median lower |\n|---|---|---|---|---|", flush=True)
    for name in given.networks:
        for images in given.images:
            own = ["--row", "--networks", name, "--images", str(images), "--nodes", str(given.nodes)]
            own += [] if given.seconds is None else ["--seconds", str(given.seconds)]
            subprocess.run([sys.executable, __file__, *own], check=True)


if __name__ == "__main__":
    main()
