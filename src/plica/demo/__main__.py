"""`make demo`: how far twenty CIFAR-10 images are from being misclassified by a ResNet-18, under three norms.

Then the same for two small networks: one trained as usual, one trained to be robust.
"""

import sys
import time
from pathlib import Path

from torch import Tensor

import plica
from plica.cli.progress import AttackProgress
from plica.core.result import Result
from plica.demo import CLASSES, images, resnet18, small_robust, small_undefended
from plica.metrics import parse_metric
from plica.plot.perturbations import draw_perturbations
from plica.runs.single import save_run
from plica.utils.messages import one_line

NORMS = ("l2", "linf", "l1.5")
OUT = Path("runs/demo")


def demo(out: Path, gradients: int = 100, n: int = 20) -> None:
    """Save one run per norm in `out`, draw them together, print the table and the picture's path."""
    start = time.monotonic()
    model = resnet18()
    x, y = (part[:n] for part in images())
    results: dict[str, Result] = {}
    print(f"{n} images under {len(NORMS)} norms; a few minutes on two cores, shown as it goes", file=sys.stderr)
    for norm in NORMS:
        print(f"{norm}: {n} images, {gradients} gradients each", file=sys.stderr)
        begin = time.monotonic()
        with AttackProgress(gradients) as progress:
            question = plica.MinRadius(parse_metric(norm))
            results[norm] = plica.attack(model, x, y, question, gradients=gradients, on_progress=progress)
        arguments = dict(command="demo", model="plica.demo:resnet18", metric=norm, method="auto")
        arguments |= dict(gradients=gradients, n=n, seed=0)
        save_run(
            out / norm,
            x,
            y,
            results[norm],
            arguments,
            time.monotonic() - begin,
            CLASSES,
            overwrite=True,
            draw=draw_perturbations,
        )
    picture = out / "perturbations.png"
    draw_perturbations(picture, x, y, results, CLASSES)
    print(table([CLASSES[label] for label in y.tolist()], results))
    print(two_networks(x, y, gradients))
    print(f"{time.monotonic() - start:.0f} s; one folder of results per norm in {out}")
    print(f"A page to look at: {Path(sys.executable).parent / 'plica'} report {out} -o report.html")
    print(f"Picture: {picture}")


def table(names: list[str], results: dict[str, Result]) -> str:
    """One line per image: its class, and per norm the radius and the class it is taken for there."""
    lines = ["image  class       " + "".join(f"{norm:>9}  taken for " for norm in results)]
    for row, name in enumerate(names):
        cells = [_cell(result, row) for result in results.values()]
        lines.append(f"{row:5d}  {name:<12}" + "".join(cells).rstrip())
    medians = [f"{result.distance.median().item():9.4f}{'':12}" for result in results.values()]
    return "\n".join([*lines, f"{'':5}  {'median':<12}" + "".join(medians).rstrip()])


def two_networks(x: Tensor, y: Tensor, gradients: int) -> str:
    """A line each for the small networks: how many images are right, and the median radius of those that both get
    right."""
    nets = {"trained as usual": small_undefended(), "trained robust": small_robust()}
    right = {name: net(x).argmax(1) == y for name, net in nets.items()}
    both = right["trained as usual"] & right["trained robust"]
    lines = ["small network       right" + "".join(f"{norm:>9}" for norm in NORMS)]
    for name, net in nets.items():
        line = f"{name:<18}{int(right[name].sum()):4d}/{len(x)}"
        for norm in NORMS if both.any() else ():
            question = plica.MinRadius(parse_metric(norm))
            line += (
                f"{float(plica.attack(net, x[both], y[both], question, gradients=gradients).distance.median()):9.4f}"
            )
        lines.append(line)
    return "\n".join(lines)


def _cell(result: Result, row: int) -> str:
    if not result.success[row]:
        return f"{'not found':>9}{'':12}"
    return f"{result.distance[row].item():9.4f}  {CLASSES[int(result.prediction[row])]:<10}"


if __name__ == "__main__":
    try:
        demo(OUT)
    except (ModuleNotFoundError, OSError) as error:
        sys.exit(f"plica: {one_line(error)}.")
    except KeyboardInterrupt:
        sys.exit("plica: interrupted.")
