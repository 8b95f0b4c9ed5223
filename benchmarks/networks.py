"""Networks for plans, `--model benchmarks/networks.py:resnet_2b`.

Those of the folder that PLICA_DATA names, which has a load.py with `load_net(name)`; `small` needs no folder.
"""

import importlib.util
import os
from pathlib import Path

import torch
from torch import nn


def resnet_2b():
    """VNN-COMP 2021, cifar10_resnet: adversarially trained, linf 2/255."""
    return _load("resnet_2b")


def cifar_wide_kw():
    """VNN-COMP 2021, oval21: certified training (Wong, Kolter), linf 2/255."""
    return _load("cifar_wide_kw")


def small():
    """Two convolutions with random weights, for measurements that do not look at the answers."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 16, 5, 4), nn.ReLU(), nn.Conv2d(16, 16, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10)
        )


def _load(name: str) -> nn.Module:
    folder = os.environ.get("PLICA_DATA")
    if not folder or not (Path(folder) / "load.py").is_file():
        raise FileNotFoundError(f"PLICA_DATA={folder or ''} names no folder with load.py; set it to one")
    spec = importlib.util.spec_from_file_location("plica_benchmark_data", Path(folder) / "load.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.load_net(name)
