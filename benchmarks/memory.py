"""Peak memory of an evaluation by the number of images: flat, since images are read and answers kept chunk by chunk.

    python benchmarks/memory.py [--images 1000 20000] [--compressed]

Random images of CIFAR size in a file, a small network, two gradients per image; a process each, whose peak the system
tells.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

NETWORK = Path(__file__).with_name("networks.py")


def evaluate(folder: Path) -> None:
    import torch

    import plica

    torch.set_num_threads(1)
    questions = [{"ask": "min-radius", "metric": "l2"}, {"ask": "max-loss", "metric": "linf", "radius": 0.01}]
    plan = {"models": f"{NETWORK}:small", "data": str(folder / "d.npz"), "questions": questions, "gradients": 2}
    run = plica.evaluate(plan, folder / "run")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    size = sum(file.stat().st_size for file in run.directory.rglob("*") if file.is_file()) / 2**20
    print(f"| {run.summary['questions'][0]['images']} | {peak:.0f} | {size:.0f} |")


def main():
    parser = argparse.ArgumentParser(description="Peak memory against the number of images.")
    parser.add_argument("--images", type=int, nargs="+", default=[1000, 20000])
    parser.add_argument("--compressed", action="store_true", help="images in a compressed file")
    parser.add_argument("--folder", type=Path, help="(for the processes it starts)")
    given = parser.parse_args()
    if given.folder:
        evaluate(given.folder)
        return
    print("| images | peak memory, MiB | run directory, MiB |\n|---:|---:|---:|", flush=True)
    for count in given.images:
        with tempfile.TemporaryDirectory() as folder:
            dice = np.random.default_rng(0)
            x = dice.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)
            save = np.savez_compressed if given.compressed else np.savez
            save(Path(folder) / "d.npz", x=x, y=dice.integers(0, 10, count))
            subprocess.run([sys.executable, __file__, "--folder", folder], check=True)


if __name__ == "__main__":
    main()
