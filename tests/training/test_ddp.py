"""Two processes with half of a batch each train as one with all of it."""

import os
import subprocess
import sys

import pytest
import torch

WORKER = """
import os, sys, torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel
import plica
from plica.training import Inner

torch.set_num_threads(1)
rank, world, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
torch.manual_seed(0)
net = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(72, 4))
x = torch.rand(16, 3, 8, 8)
y = net(x).argmax(1)
if world > 1:
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    net = DistributedDataParallel(net)
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
inners = [Inner(plica.MinRadius(plica.Lp(2)), cap=0.5), Inner(plica.MaxLoss(plica.Lp("inf"), 0.03, loss="ce"))]
size = len(x) // world
part = slice(rank * size, (rank + 1) * size)
for step in range(3):
    for inner in inners:
        optimizer.zero_grad()
        inner(net, x[part], y[part]).loss(net, "trades").backward()
        optimizer.step()
if rank == 0:
    torch.save(net.module.state_dict() if world > 1 else net.state_dict(), f"{folder}/{world}.pt")
if world > 1:
    distributed.destroy_process_group()
"""


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch was built without torch.distributed")
def test_two_processes_are_one_with_the_double_batch(tmp_path):
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for world in (1, 2):
        runs = [
            subprocess.Popen([sys.executable, script, str(rank), str(world), tmp_path], env=environment)
            for rank in range(world)
        ]
        assert [run.wait(timeout=300) for run in runs] == [0] * world
    one, two = (torch.load(tmp_path / f"{world}.pt") for world in (1, 2))
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-4, atol=1e-5)
