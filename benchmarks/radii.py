"""Robustness radii of ours and of public attacks, all through the same judge: a table, and radius against gradients.

    python benchmarks/radii.py --json radii.json              run, save every image's radius, print
    python benchmarks/radii.py --first 100 --images 500 --seeds 0 1 2 --methods auto --json ours.json
    python benchmarks/radii.py --read radii.json ours.json --into docs/benchmarks.md --figure docs/radii

Optimality is AttackBench's: with A(r) the share of images still right at radius r, interpolated, and A* that of the
best radius known for each image, 1 - (area of A - area of A*) / (A(0) * r_max - area of A*) up to r_max, the largest
best radius. Best known: the best of all methods and seeds of the run or of all files read and, where the data has it
beside it, of bench/peers.json, which knows the first 100 images. Several seeds make one line, their mean. Methods whose
package is missing are named and left out.
"""

import argparse
import json
import os
import sys
import time
import warnings
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: or CPU time counts threads that wait

import numpy as np
import torch

import plica
from plica.attacks.external.common import MissingPackageError
from plica.metrics import parse_metric

METHODS = ("auto", "fmn", "fmn-projected", "ddn", "deepfool", "fab-t", "alma", "pdpgd", "sdf")
START, END = "<!-- table -->\n", "<!-- end of table -->\n"
HEADS = "| network | norm | method | budget | optimality | median radius | not found | gradients | forwards | s/image |"


def optimality(distance, best):
    """The definition above; distances (b,) with 0 for images wrong from the start and inf for those without a point."""
    top, clean = float(best.max()), float((best > 0).mean())

    def area(radii):
        r, images = np.unique(np.append(np.minimum(radii, top), top), return_counts=True)
        images[-1] -= 1  # the end of the curve is no image
        accuracy = 1 - images.cumsum() / len(radii)
        return float(((r[1:] - r[:-1]) * (accuracy[1:] + accuracy[:-1]) / 2).sum())

    return 1 - (area(distance) - area(best)) / (clean * top - area(best))


def inputs(folder, file, first, count):
    """Images and labels of the file from the first one on, and the function that loads a network."""
    for part in ("load.py", file, "models"):
        if not (folder / part).exists():
            sys.exit(f"benchmarks/radii.py: {folder / part} is missing; give the folder that has it with --data.")
    sys.path.insert(0, str(folder))
    from load import load_net  # pyright: ignore[reportMissingImports]

    with np.load(folder / file) as data:
        some = slice(first, first + count)
        return torch.tensor(data["x"][some]).float() / 255, torch.tensor(data["y"][some]), load_net


def ask(net, x, y, norm, method, budget, seed):
    """One row of the table but its optimality; None where the method has no such norm."""
    begin = time.process_time()
    try:
        question = plica.MinRadius(parse_metric(norm))
        result = plica.attack(net, x, y, question, method=method, gradients=budget, seed=seed)
    except plica.Unsupported as error:
        if isinstance(error, MissingPackageError):
            print(error, file=sys.stderr)
        return None
    seconds = time.process_time() - begin
    right = result.distance > 0
    return {
        "norm": norm, "method": method, "budget": budget, "seed": seed, "seconds": seconds / len(x),
        "median": float(result.distance[right].median()), "failed": int((~result.success).sum()),
        "gradients": float(result.gradients[right].double().mean()),
        "forwards": float(result.forwards[right].double().mean()), "radii": result.distance.tolist(),
    }  # fmt: skip


def run(given):
    """All rows, printed as they come."""
    x, y, load_net = inputs(given.data, given.file, given.first, given.images)
    rows = []
    for name in given.nets:
        net = load_net(name, root=given.data)
        for norm in given.norms:
            group = []
            for method in given.methods:
                for budget in given.gradients:
                    answers = [ask(net, x, y, norm, method, budget, seed) for seed in given.seeds]
                    group += [a | {"net": name, "first": given.first} for a in answers if a]
            for row in scored(group, given.data):
                print(line(row), flush=True)
            rows += group
            if given.json:
                given.json.write_text(json.dumps(rows))
    return rows


def scored(rows, folder):
    """A row for each network, norm, method and budget: the mean over seeds, with the optimality against the best known
    radii."""
    known = folder.parent / "bench" / "peers.json"
    public = json.loads(known.read_text())["best_known"] if known.exists() else {}
    means = []
    for net, norm in dict.fromkeys((row["net"], row["norm"]) for row in rows):
        group = [row for row in rows if (row["net"], row["norm"]) == (net, norm)]
        best = np.min([row["radii"] for row in group], axis=0)
        listed = public.get(net, {}).get(norm)
        if listed is not None and not group[0].get("first") and len(listed) >= len(best):
            best = np.minimum(best, listed[: len(best)])
        for method, budget in dict.fromkeys((row["method"], row["budget"]) for row in group):
            some = [row for row in group if (row["method"], row["budget"]) == (method, budget)]
            keys = ("median", "failed", "gradients", "forwards", "seconds")
            mean = {key: float(np.mean([row[key] for row in some])) for key in keys}
            optimal = float(np.mean([optimality(np.array(row["radii"]), best) for row in some]))
            means.append({"net": net, "norm": norm, "method": method, "budget": budget, "optimality": optimal} | mean)
    return means


def line(row):
    return (
        f"| {row['net']} | {row['norm']} | {row['method']} | {row['budget']} | {row['optimality']:.4f} | "
        f"{row['median']:.5f} | {row['failed']:.0f} | {row['gradients']:.0f} | {row['forwards']:.0f} | "
        f"{row['seconds']:.3f} |"
    )


def table(rows):
    """Markdown; in each group of network, norm and budget the best first."""
    order = sorted(rows, key=lambda r: (r["net"], r["norm"], r["budget"], -r["optimality"]))
    return "\n".join([HEADS, "|---|---|---|" + "---:|" * 7, *map(line, order)]) + "\n"


def draw(rows, path):
    """Median radius against the gradients really spent, one panel per norm."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    norms = list(dict.fromkeys(row["norm"] for row in rows))
    methods = list(dict.fromkeys(row["method"] for row in rows))
    figure, axes = plt.subplots(1, len(norms), figsize=(4 * len(norms), 3.6), squeeze=False, layout="constrained")
    for axis, norm in zip(axes[0], norms, strict=True):
        for number, method in enumerate(methods):
            some = [r for r in rows if r["norm"] == norm and r["method"] == method and np.isfinite(r["median"])]
            if some:
                some.sort(key=lambda r: r["gradients"])
                ours = method in ("auto", "radius", "pwcf")
                style = dict(color="black", linewidth=2.5, zorder=3) if ours else dict(color=f"C{number}")
                axis.plot([r["gradients"] for r in some], [r["median"] for r in some], "o-", label=method, **style)
        axis.set(xscale="log", yscale="log", title=norm, xlabel="gradients per image")
        axis.minorticks_off()
        axis.set_xticks(sorted({r["budget"] for r in rows}))
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        least = min(r["median"] for r in rows if r["norm"] == norm)
        axis.set_ylim(0.97 * least, 2 * least)  # what lies above is far off
        axis.set_yticks([least, 1.2 * least, 1.5 * least, 2 * least])
        axis.yaxis.set_major_formatter(lambda value, _: f"{value:.3g}")
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("median radius")
    handles = {
        label: handle for axis in axes[0] for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=len(handles), frameon=False)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def main():
    parser = argparse.ArgumentParser(description="Robustness radii of ours and of public attacks, judged alike.")
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "data")
    parser.add_argument(
        "--file", default="cifar10/cifar10_test_5000.npz", help="images and labels, in the folder of --data"
    )
    parser.add_argument("--nets", nargs="+", default=["resnet_2b", "cifar_wide_kw"])
    parser.add_argument("--norms", nargs="+", default=["l1", "l2", "linf"])
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--gradients", type=int, nargs="+", default=[30, 100, 300], help="budgets per image")
    parser.add_argument("--images", type=int, default=50)
    parser.add_argument("--first", type=int, default=0, help="images before it are left out")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--read", type=Path, nargs="+", help="rows saved with --json, instead of a run")
    parser.add_argument("--json", type=Path, help="all rows, with each image's radius")
    parser.add_argument("--into", type=Path, help="a file whose table is replaced")
    parser.add_argument("--figure", type=Path, help="a picture per network: FIGURE-network.png")
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # of the peers
    rows = [row for path in given.read for row in json.loads(path.read_text())] if given.read else run(given)
    rows = scored(rows, given.data)
    if given.into:
        before, _, rest = given.into.read_text().partition(START)
        given.into.write_text(before + START + table(rows) + END + rest.partition(END)[2])
    if given.figure:
        for name in dict.fromkeys(row["net"] for row in rows):
            draw([row for row in rows if row["net"] == name], given.figure.with_name(f"{given.figure.name}-{name}.png"))


if __name__ == "__main__":
    main()
