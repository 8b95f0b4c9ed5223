"""Models whose accuracy curves cross, so that no single radius ranks them: three networks of VNN-COMP 2021 on CIFAR-10.

    python benchmarks/crossing.py --data FOLDER --out runs/crossing --report crossing.html --figure docs/crossing.png

The radii of --n images under l1, l2 and linf by method="auto"; prints the ranking at each distance and the crossings.
"""

import argparse
import itertools
import os
import sys
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from plica import plot, runs
from plica.analysis import compare, contenders
from plica.report import write_report
from plica.report.comparison import crossing_sentence

NETWORKS = ("resnet_2b", "cifar_wide_kw", "cifar_base_kw")
METRICS = ("l1", "l2", "linf")


def _network(name):
    sys.path.insert(0, os.environ["PLICA_DATA"])
    from load import load_net  # pyright: ignore[reportMissingImports]

    return load_net(name)


def resnet_2b():
    return _network("resnet_2b")


def cifar_wide_kw():
    return _network("cifar_wide_kw")


def cifar_base_kw():
    return _network("cifar_base_kw")


def carry_out(folder, out, n):
    """The evaluation; what is there already is not done again."""
    from plica.evaluation import evaluate

    os.environ["PLICA_DATA"] = str(folder)
    sys.path.insert(0, str(folder))
    from load import cifar10  # pyright: ignore[reportMissingImports]

    out.mkdir(parents=True, exist_ok=True)
    x, y = cifar10("test", n=n, seed=0)
    np.savez(out.with_suffix(".npz"), x=x, y=y)
    models = [{"model": f"{Path(__file__)}:{name}", "name": name} for name in NETWORKS]
    question = {"ask": "min-radius", "metric": list(METRICS)}
    evaluate({"models": models, "data": str(out.with_suffix(".npz")), "questions": question}, out)


def main():
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--data", type=Path, help="folder with load.py, cifar10/ and models/; without it --out is read")
    ask.add_argument("--out", type=Path, default=Path("runs/crossing"))
    ask.add_argument("--n", type=int, default=500)
    ask.add_argument("--report", type=Path)
    ask.add_argument("--figure", type=Path)
    given = ask.parse_args()
    if given.data:
        carry_out(given.data, given.out, given.n)
    run = runs.load(given.out)
    groups = contenders.groups([run])
    for group in groups:
        print(f"\n{group}")
        for a, b in itertools.combinations(group.contenders, 2):
            for crossing in compare.crossing(a, b)[0]:
                print(f"- {crossing_sentence(crossing, group.metric)}")
    if given.report:
        print(f"\n{given.report}: {write_report([run], given.report) / 1e6:.1f} MB")
    if given.figure:
        with plot.paper():
            page = Figure(figsize=(plot.PAGE, 2.2))
            for axes, group in zip(page.subplots(1, len(groups), sharey=True), groups, strict=True):
                plot.accuracy_curve({c.name: c for c in group.contenders}, axes, unit=f"{group.metric} distance")
            FigureCanvasAgg(page)
            page.savefig(given.figure, dpi=160)


if __name__ == "__main__":
    main()
