"""Networks in bfloat16, float16 and under autocast beside float32: accuracy clean and robust, by argmax and by plica.

    python benchmarks/half.py --data ../shared/data --into build/half.jsonl [--networks resnet_2b] [--n 200]

MaxLoss under linf. `argmax` is the accuracy of the network's own answers at the images; `held` is the share of
images that argmax gets right at the images and at the points found, in batches of 1, 7 and 50: no smaller than
`robust`, and no larger than argmax. Lines that are in the file already are not measured again.

--sums-in-float32 is for float16 on a CPU without instructions for it, where a convolution takes ten times as long as in
float32: each takes float16 numbers, multiplies and sums in float32, and rounds once to float16, as accelerators do.
"""

import argparse
import importlib.util
import json
from pathlib import Path

import torch
from torch import nn

import plica

RADII = {"resnet_2b": 2 / 255, "cifar_wide_kw": 4 / 255, "resnet18": 1 / 255}
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class Autocast(nn.Module):
    def __init__(self, net: nn.Module, dtype: torch.dtype):
        super().__init__()
        self.net, self.dtype = net, dtype

    def forward(self, x):
        with torch.autocast(x.device.type, self.dtype):
            return self.net(x)


class SumsInFloat32(nn.Module):
    """A convolution or linear layer on float16 numbers, summed in float32 and rounded once."""

    def __init__(self, layer: nn.Conv2d | nn.Linear):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        weight, bias = self.layer.weight.half().float(), self.layer.bias
        bias = None if bias is None else bias.half().float()
        with torch.autocast(x.device.type, enabled=False):
            if isinstance(self.layer, nn.Linear):
                return nn.functional.linear(x.half().float(), weight, bias).half()
            return self.layer._conv_forward(x.half().float(), weight, bias).half()


def summed_in_float32(net: nn.Module) -> nn.Module:
    for name, child in net.named_children():
        sums = isinstance(child, nn.Conv2d | nn.Linear)
        setattr(net, name, SumsInFloat32(child) if sums else summed_in_float32(child))
    return net


def load(folder: Path):
    """The module load.py of the folder."""
    spec = importlib.util.spec_from_file_location("plica_benchmark_data", folder / "load.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@torch.no_grad()
def classes(net: nn.Module, x: torch.Tensor, rows: int) -> torch.Tensor:
    return torch.cat([net(part).float() for part in x.split(rows)]).argmax(1)


def measured(net: nn.Module, x, y, radius: float, gradients: int, method: str) -> dict:
    """Accuracies, and points that another batch undoes or that lie outside of the radius."""
    result = plica.attack(net, x, y, plica.MaxLoss(plica.Lp("inf"), radius), gradients=gradients, method=method)
    clean = classes(net, x, 50) == y
    again = [classes(net, result.x_adv, rows) == y for rows in (1, 7, 50)]
    distance = (result.x_adv.double() - x.double()).abs().flatten(1).amax(1)
    return {
        "argmax": float(clean.double().mean()),
        "clean": 1 - float((result.distance == 0).double().mean()),
        "robust": 1 - float(result.success.double().mean()),
        "held": float((clean & again[0] & again[1] & again[2]).double().mean()),
        "undone": int(sum((right & result.success).sum() for right in again)),
        "outside": int((distance > radius).sum()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--into", type=Path, default=Path("build/half.jsonl"))
    parser.add_argument("--networks", nargs="+", choices=RADII, default=list(RADII))
    names = ["float32", *DTYPES, *(f"autocast to {name}" for name in DTYPES)]
    parser.add_argument("--precisions", nargs="+", choices=names, default=names)
    parser.add_argument("--n", type=int, default=200)
    parser.add_argument("--gradients", type=int, default=40)
    parser.add_argument("--method", default="auto")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--sums-in-float32", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    data = load(given.data)
    pixels, labels = data.cifar10("test", given.n, seed=0)
    images, y = torch.tensor(pixels).float() / 255, torch.tensor(labels).long().to(given.device)
    given.into.parent.mkdir(parents=True, exist_ok=True)
    rows = [json.loads(line) for line in given.into.read_text().splitlines()] if given.into.is_file() else []
    for name in given.networks:
        for precision in given.precisions:
            about = dict(network=name, precision=precision, n=given.n, gradients=given.gradients, method=given.method)
            if any(about.items() <= row.items() for row in rows):
                continue
            net = data.resnet18_cifar() if name == "resnet18" else data.load_net(name)
            dtype = DTYPES.get(precision.removeprefix("autocast to "), torch.float32)
            plain = precision in DTYPES
            if given.sums_in_float32 and dtype == torch.float16:
                net = summed_in_float32(net)
            net = net.to(dtype) if plain else net if precision == "float32" else Autocast(net, dtype)
            x = (images.to(dtype) if plain else images).to(given.device)
            row = about | measured(net.to(given.device), x, y, RADII[name], given.gradients, given.method)
            with given.into.open("a") as file:
                print(json.dumps(row), file=file, flush=True)
            rows.append(row)
    heads = ("network", "precision", "n", "method", "argmax", "clean", "robust", "held", "undone", "outside")
    print("| " + " | ".join(heads) + " |\n" + "|---" * len(heads) + "|")
    for row in rows:
        print("| " + " | ".join(f"{row[h]:.3f}" if isinstance(row[h], float) else str(row[h]) for h in heads) + " |")


if __name__ == "__main__":
    main()
