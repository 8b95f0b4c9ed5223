"""Radii in l_p for many p on one network, as a figure, and whether an answer is beaten by the answer of another p.

    python benchmarks/every_p.py --data ../shared/data --figure docs/every_p [--n 24] [--gradients 100]

For every image, all answers are measured in every norm; the answer found for p should not be longer in l_p than the
answer for another p by more than 1 %. Also checked: ||delta||_q <= ||delta||_p for q >= p, of the answers themselves.
"""

import argparse
import sys
from pathlib import Path

import matplotlib
import torch

import plica
from plica.metrics import distance

sys.path.insert(0, str(Path(__file__).parent))
from perceptual import setting

P = (0.5, 1, 1.25, 1.5, 2, 3, 4, 8, 16, float("inf"))
TOLERANCE = 0.01


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--n", type=int, default=24)
    parser.add_argument("--gradients", type=int, default=100)
    parser.add_argument("--figure", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    net, x, y, _ = setting(args.data, args.n)
    found = {p: plica.attack(net, x, y, plica.MinRadius(plica.Lp(p)), gradients=args.gradients) for p in P}
    # (asked for p, measured in q, image)
    table = torch.stack([torch.stack([distance(plica.Lp(q), x, found[p].x_adv) for q in P]) for p in P])
    print(f"| p | median radius | failed | beaten by another p's answer by more than {TOLERANCE:.0%} | by at most |")
    print("|---|---|---|---|---|")
    for i, p in enumerate(P):
        over = table[i, i] / table[:, i].amin(0) - 1
        failed = int((~found[p].success).sum())
        print(f"| {p:g} | {float(table[i, i].median()):.4g} | {failed} | {int((over > TOLERANCE).sum())} of {len(x)} | "
              f"{float(over.max()):.1%} |")  # fmt: skip
    falls = bool((table[:, 1:] <= table[:, :-1] * (1 + 1e-9)).all())
    print(f"||delta||_q <= ||delta||_p for q >= p, of all answers: {'yes' if falls else 'NO'}")
    if args.figure:
        draw(torch.stack([table[i, i] for i in range(len(P))]), args.figure)


def draw(radii: torch.Tensor, to: Path) -> None:
    """Radii (p, images) against p: a line per image, the median in black."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    places = range(len(P))
    axes.semilogy(places, radii.numpy(), color="#9db8d2", linewidth=0.7)
    axes.semilogy(places, radii.median(1).values.numpy(), color="black", linewidth=1.8, label="median")
    axes.semilogy([], [], color="#9db8d2", label="one image")
    axes.set_xticks(list(places), [f"{p:g}" for p in P])
    axes.set_xlabel("p")
    axes.set_ylabel(r"radius in $\ell_p$")
    axes.set_title("How far the nearest misclassified input is, by norm (resnet_2b)", fontsize=10)
    axes.grid(True, axis="y", which="major", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    for kind in ("png",):
        figure.savefig(to.with_suffix(f".{kind}"), dpi=130)


if __name__ == "__main__":
    main()
