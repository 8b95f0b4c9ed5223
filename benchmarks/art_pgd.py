"""PGD of the Adversarial Robustness Toolbox, which takes any p >= 1, beside plica at equal gradients: images broken.

    pip install --no-deps adversarial-robustness-toolbox six scikit-learn joblib threadpoolctl narwhals
    python benchmarks/art_pgd.py --data ../shared/data [--n 46] [--gradients 100] [--p 1 1.5 2 3 8 inf]

resnet_2b, the first correctly classified images of the CIFAR-10 test rows. For each p the radius is the median that
plica finds for MinRadius, so that half of the images can be broken. ART's PGD as it comes: on the cross-entropy, from
the image, steps of 2.5 radius / gradients; its end points are measured here: misclassified, and within the radius times
1 + 1e-5, as it projects in float32. The packages are no dependency of plica.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch

import plica
from plica.metrics import distance

sys.path.insert(0, str(Path(__file__).parent))
from perceptual import setting


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--n", type=int, default=46)
    parser.add_argument("--gradients", type=int, default=100)
    parser.add_argument("--p", type=float, nargs="+", default=[1, 1.5, 2, 3, 8, float("inf")])
    args = parser.parse_args()
    torch.set_num_threads(1)
    net, x, y, _ = setting(args.data, args.n)
    print("| p | radius | ART's PGD | of those outside | auto | pwcf |")
    print("|---|---|---|---|---|---|")
    for p in args.p:
        metric = plica.Lp(p)
        radius = float(plica.attack(net, x, y, plica.MinRadius(metric), gradients=args.gradients).distance.median())
        point = art(net, x, y, p, radius, args.gradients)
        wrong, far = net(point).argmax(1) != y, distance(metric, x, point) > radius * (1 + 1e-5)
        told = [int((wrong & ~far).sum()), int(far.sum())]
        for method in ("auto", "pwcf"):
            question = plica.MaxLoss(metric, radius)
            found = plica.attack(net, x, y, question, method=method, gradients=args.gradients)
            told.append(int(found.success.sum()))
        print(f"| {p:g} | {radius:.4g} | {' | '.join(map(str, told))} |", flush=True)


def art(net, x: torch.Tensor, y: torch.Tensor, p: float, radius: float, gradients: int) -> torch.Tensor:
    """The end points of ART's PGD."""
    from art.attacks.evasion import ProjectedGradientDescent
    from art.estimators.classification import PyTorchClassifier

    classifier = PyTorchClassifier(
        net, torch.nn.CrossEntropyLoss(), tuple(x.shape[1:]), 10, clip_values=(0.0, 1.0), device_type="cpu"
    )
    attack = ProjectedGradientDescent(
        classifier, norm=np.inf if p == float("inf") else p, eps=radius, eps_step=2.5 * radius / gradients,
        max_iter=gradients, num_random_init=0, batch_size=len(x), verbose=False,
    )  # fmt: skip
    return torch.from_numpy(attack.generate(x.numpy(), y.numpy())).to(x)


if __name__ == "__main__":
    main()
