"""The claims of "Implications of Solution Patterns" (Liang et al. 2023), section 3, one by one on two networks.

    python benchmarks/patterns.py --data FOLDER --out runs/patterns            run what is not there yet, print
    python benchmarks/patterns.py --out runs/patterns --into docs/patterns.md  tables and figures from the runs

A claim about a measure is checked image by image: the median over images of the difference of the measure, or the
ratio of its spreads (interquartile ranges), with a 95 % bootstrap interval over the images that both turned. It holds
where the interval lies on the claimed side of 0 (of 1), is contradicted on the other, and is open in between.
"""

import argparse
import os
import sys
from pathlib import Path

import numpy as np

from plica import plot, runs
from plica.analysis import contenders, patterns

NETWORKS = {"resnet_2b": 1000, "resnet18": 60}  # images of each: one gradient costs 0.2 ms, and 14 ms
BUDGETS = {"l1": 12.0, "l2": 0.5, "linf": 8 / 255}  # the usual ones
DRAWS = 2000
MAX, MIN = "max-loss", "min-radius"
LOSSES = ("ce", "margin")
RADII = ("radius", "pwcf", "fab-t")
PAIRS = [f"{solver} {loss}" for solver in ("apgd", "pwcf") for loss in LOSSES]
START, END = "<!-- {} -->\n", "<!-- end of {} -->\n"


def resnet_2b():
    """The adversarially trained residual network of VNN-COMP 2021, from the folder named by PLICA_DATA."""
    sys.path.insert(0, os.environ["PLICA_DATA"])
    from load import load_net  # pyright: ignore[reportMissingImports]

    return load_net("resnet_2b")


def plan(network, file, n):
    """Every distance by every method and loss, each on every image."""
    model = f"{Path(__file__)}:resnet_2b" if network == "resnet_2b" else "plica.demo:resnet18"
    balls = [
        {"ask": "max-loss", "metric": metric, "radius": radius, "loss": loss, "methods": [f"apgd-{loss}", "pwcf"]}
        for metric, radius in BUDGETS.items()
        for loss in LOSSES
    ]
    radii = {"ask": "min-radius", "metric": list(BUDGETS), "methods": list(RADII)}
    questions = [radii, *balls]
    data = {"path": str(file), "n": n}
    return {"models": {"model": model, "name": network}, "data": data, "questions": questions, "individual": True}


def carry_out(folder, out, counts):
    """Run both plans; what is there already is not done again."""
    from plica.evaluation import evaluate

    os.environ["PLICA_DATA"] = str(folder)
    sys.path.insert(0, str(folder))
    from load import cifar10  # pyright: ignore[reportMissingImports]

    out.mkdir(parents=True, exist_ok=True)
    for network, n in counts.items():
        x, y = cifar10("test", n=n, seed=0)
        np.savez(out / f"cifar10-{n}.npz", x=x, y=y)
        evaluate(plan(network, out / f"cifar10-{n}.npz", n), out / network, on_event=lambda event: print(event.job))


def measured(run):
    """(question, method) -> measure and radius per image, ids in order; nan where no perturbation was found."""
    table = patterns.samples(run).to_pandas().set_index("id")
    out = {}
    for task in run.tasks:
        rows = table[table.task == task.name].sort_index()
        name = (
            task.kind,
            task.metric,
            task.method if task.loss is None else f"{task.method.split('-')[0]} {task.loss}",
        )
        out[name] = rows.where(rows.success & (rows.distance > 0))
    return out


def interval(values, statistic):
    """statistic(values) and its bootstrap interval; values (b, ...) are drawn by image."""
    rng = np.random.default_rng(0)
    drawn = [statistic(values[rng.integers(0, len(values), len(values))]) for _ in range(DRAWS)]
    return statistic(values), *np.quantile(drawn, (0.025, 0.975))


def both(a, b, measure):
    """(images, 2): the measure of two methods where both have one."""
    shared = a[measure].dropna().index.intersection(b[measure].dropna().index)
    return np.stack([a[measure][shared], b[measure][shared]], 1)


def verdict(low, high, neutral):
    if low == high == neutral:
        return "no difference"
    return "holds" if low > neutral else "contradicted" if high < neutral else "open"


def denser(a, b, measure="l1_over_l2"):
    """Of "b is denser than a": cells of a table."""
    pair = both(a, b, measure)
    middle, low, high = interval(pair, lambda p: np.median(p[:, 1] - p[:, 0]))
    values = np.median(pair, 0)
    share = (pair[:, 1] > pair[:, 0]).mean()
    told = [str(len(pair)), *(f"{value:.3g}" for value in values), f"{middle:.3g} [{low:.3g}, {high:.3g}]"]
    return [*told, f"{share:.0%}", verdict(low, high, 0)]


def wider(a, b, measure="l1_over_l2"):
    """Of "b is more varied than a"."""
    pair = both(a, b, measure)
    spread = lambda p: np.subtract(*np.quantile(p, (0.75, 0.25), axis=0))  # noqa: E731
    ratio, low, high = interval(pair, lambda p: spread(p)[1] / spread(p)[0])
    told = [str(len(pair)), *(f"{s:.3g}" for s in spread(pair)), f"{ratio:.3g} [{low:.3g}, {high:.3g}]"]
    return [*told, verdict(low, high, 1)]


HEADS = {
    "distances": "network | method: distances | images | the first | the second | difference | denser | verdict",
    "losses": "network | method, distance | images | cross-entropy | margin | difference | denser | verdict",
    "solvers": "network | question | images | the other | PWCF | difference | denser | verdict",
    "variety": "network | question | images | spread of the other | of PWCF | ratio | verdict",
    "budgets": "network | distance | images | median radius | usual budget | budget over median | radii within it",
    "alone": "network | budget | " + " | ".join(f"{name}: left, alone" for name in PAIRS) + " | all four leave",
}


def tables(held):
    """The text of each claim's table, by name."""
    out = {name: [row(head), "|" + "---|" * (head.count("|") + 1)] for name, head in HEADS.items()}
    for network, (run, found) in held.items():
        distances(network, found, out["distances"])
        pairs(network, found, out)
        for group in contenders.groups([run], "model"):
            if group.budget is None:
                out["budgets"].append(budgets(network, group))
        for group in contenders.groups([run], "method"):
            if group.budget is not None:
                out["alone"].append(alone(network, group))
    return {name: "\n".join(lines) for name, lines in out.items()}


def distances(network, found, lines):
    """l1 against l2, l2 against linf, for each method."""
    for kind, method in [*((MIN, name) for name in RADII), *((MAX, name) for name in PAIRS)]:
        for a, b in (("l1", "l2"), ("l2", "linf")):
            cells = denser(found[kind, a, method], found[kind, b, method])
            lines.append(row(network, f"{method}, {kind}: {a}, {b}", *cells))


def pairs(network, found, out):
    """Loss against loss and solver against solver, for each distance."""
    for metric in BUDGETS:
        for solver in ("apgd", "pwcf"):
            cells = denser(*(found[MAX, metric, f"{solver} {loss}"] for loss in LOSSES))
            out["losses"].append(row(network, f"{solver}, {metric}", *cells))
        for loss in LOSSES:
            two = [found[MAX, metric, f"{solver} {loss}"] for solver in ("apgd", "pwcf")]
            out["solvers"].append(row(network, f"{MAX} {metric}, {loss}: APGD", *denser(*two)))
            out["variety"].append(row(network, f"{MAX} {metric}, {loss}: APGD", *wider(*two)))
        two = [found[MIN, metric, method] for method in ("fab-t", "pwcf")]
        out["solvers"].append(row(network, f"{MIN} {metric}: FAB-T", *denser(*two)))
        out["variety"].append(row(network, f"{MIN} {metric}: FAB-T", *wider(*two)))


def budgets(network, group):
    """Best known radii against the usual budget."""
    radius = group.contenders[0].radius
    radius = radius[(radius > 0) & np.isfinite(radius)]
    budget, middle = BUDGETS[group.metric], np.median(radius)
    share, low, high = interval(radius <= budget, np.mean)
    within = f"{share:.1%} [{low:.1%}, {high:.1%}]"
    return row(network, group.metric, len(radius), f"{middle:.3g}", f"{budget:.3g}", f"{budget / middle:.3g}", within)


def alone(network, group):
    """What each method leaves, and how many images it alone broke."""
    shared = np.all([c.attacked for c in group.contenders], axis=0)
    methods = {c.name.replace("apgd-", "apgd "): c.take(shared) for c in group.contenders}
    once = np.sum([c.broken for c in methods.values()], axis=0) == 1
    cells = [f"{methods[name].robust.mean():.1%}, {(methods[name].broken & once).sum()}" for name in PAIRS]
    left = np.all([c.robust for c in methods.values()], axis=0).mean()
    return row(network, f"{group.metric} {group.budget:.3g}", *cells, f"{left:.1%}")


def row(*cells):
    return "| " + " | ".join(map(str, cells)) + " |"


def figures(held, folder):
    """Histograms of the measure by distance, by loss and solver, and of the radii; panels of one image."""
    with plot.paper():
        from matplotlib.figure import Figure

        for network, (_run, found) in held.items():
            page = Figure(figsize=(plot.PAGE, 6.2))
            axes = page.subplots(3, 3)
            for column, metric in enumerate(BUDGETS):
                shown = {m: found[MIN, metric, m]["l1_over_l2"].to_numpy() for m in ("fab-t", "pwcf", "radius")}
                plot.measure_histogram(shown, axes[0, column]).set_title(f"min-radius, {metric}")
                shown = {name: found[MAX, metric, name]["l1_over_l2"].to_numpy() for name in PAIRS}
                plot.measure_histogram(shown, axes[1, column]).set_title(f"max-loss, {metric} {BUDGETS[metric]:.3g}")
                radius = found[MIN, metric, "radius"]["distance"].to_numpy()
                plot.radii_histogram(radius, axes[2, column], budgets=[BUDGETS[metric]], unit=f"{metric} radius")
            save(page, folder / f"patterns-{network}.png")


def save(figure, file):
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    figure.savefig(file, dpi=160)


def insert(page, parts):
    """The page with each part between its two marks."""
    for name, text in parts.items():
        start, end = START.format(name), END.format(name)
        before, rest = page.split(start)
        page = before + start + text + "\n" + end + rest.split(end)[1]
    return page


def main():
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--data", type=Path, help="folder with load.py, cifar10/ and models/; runs what is not there yet")
    ask.add_argument("--out", type=Path, default=Path("runs/patterns"), help="folder of the two runs")
    ask.add_argument("--into", type=Path, help="page whose tables are to be renewed; figures go beside it")
    ask.add_argument("--n", type=int, help="at most so many images of each network")
    given = ask.parse_args()
    if given.data:
        carry_out(given.data, given.out, {name: min(n, given.n or n) for name, n in NETWORKS.items()})
    held = {}
    for network in NETWORKS:
        run = runs.load(given.out / network)
        held[network] = run, measured(run)
    parts = tables(held)
    for name, text in parts.items():
        print(f"{name}\n{text}\n")
    if given.into:
        given.into.write_text(insert(given.into.read_text(), parts))
        figures(held, given.into.parent)


if __name__ == "__main__":
    main()
