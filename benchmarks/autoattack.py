"""AutoAttack through plica against pyautoattack called directly: the same images, radius, seed and standard version.

    PLICA_DATA=folder python benchmarks/autoattack.py --data cifar10.npz --n 200 --norm linf --radius 2/255

plica judges what the attacks find once more, keeps every point they evaluated, and runs them a chunk at a time.
"""

import argparse
import tempfile
import time

import torch
from networks import resnet_2b
from pyautoattack.autoattack import AutoAttack

import plica
from plica.core.formulations import parse_radius
from plica.data import open_data
from plica.data.sample import select


def direct(x, y, norm, radius, seed):
    """Robust accuracy as AutoAttack itself tells it."""
    attack = AutoAttack(resnet_2b().eval(), norm=norm.capitalize(), eps=radius, seed=seed, version="standard")
    x_adv, _ = attack.run_standard_evaluation(x, y, batch_size=100)
    with torch.no_grad():
        return resnet_2b().eval()(x_adv).argmax(1) == y


def main():
    parser = argparse.ArgumentParser(description="AutoAttack through plica and by itself.")
    parser.add_argument("--data", required=True)
    parser.add_argument("--n", type=int, default=200)
    parser.add_argument("--norm", default="linf", choices=["linf", "l2", "l1"])
    parser.add_argument("--radius", default="2/255")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    plan = {
        "models": f"{__file__.replace('autoattack.py', 'networks.py')}:resnet_2b",
        "data": {"path": given.data, "n": given.n, "sample": "balanced"},
        "questions": {"ask": "max-loss", "metric": given.norm, "radius": given.radius},
        "methods": "autoattack",
        "seed": given.seed,
        "chunk": 100,
    }
    source = open_data(given.data)
    x, y = source.read(select(source.labels, given.n, None, "balanced", 0))
    begin = time.process_time()
    standing = direct(x, y, given.norm, parse_radius(given.radius), given.seed)
    middle = time.process_time()
    with tempfile.TemporaryDirectory() as out:
        run = plica.evaluate(plan, out)
        (question,) = run.summary["questions"]
        end = time.process_time()
        broken = {row["id"] for row in run.samples.select(["id", "success"]).to_pylist() if row["success"]}
    ids = select(source.labels, given.n, None, "balanced", 0).tolist()
    same = sum((number not in broken) == bool(s) for number, s in zip(ids, standing, strict=True))
    print("| | robust accuracy | CPU seconds |\n|---|---:|---:|")
    print(f"| pyautoattack | {float(standing.float().mean()):.1%} | {middle - begin:.0f} |")
    print(f"| plica | {question['union']['robust_accuracy']['value']:.1%} | {end - middle:.0f} |")
    print(f"\nThe same answer on {same} of {given.n} images.")


if __name__ == "__main__":
    main()
