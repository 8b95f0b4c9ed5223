"""No two fields of a record share memory, at the start and after steps: rows of its tensors are written in place."""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass

import pytest
import torch
from torch import Tensor

from plica.solver import BFGSSQP, Autograd
from plica.solver.bfgs_sqp.linesearch import WeakWolfe
from plica.solver.linearized.curved_sqp import CurvedSQP
from plica.solver.linearized.descent import Averaged, QuasiNewton
from plica.solver.linearized.prox import LpProx
from plica.solver.linearized.proximal_sqp import ProximalSQP


def tensors(record, name: str = "") -> Iterator[tuple[str, Tensor]]:
    for f in fields(record):
        value = getattr(record, f.name)
        if isinstance(value, Tensor) and value.numel():
            yield f"{name}{f.name}", value
        elif is_dataclass(value):
            yield from tensors(value, f"{name}{f.name}.")


def shared(record) -> list[list[str]]:
    """The names of fields whose tensors lie in one piece of memory."""
    names: dict[int, list[str]] = {}
    for name, value in tensors(record):
        names.setdefault(value.untyped_storage().data_ptr(), []).append(name)
    return [group for group in names.values() if len(group) > 1]


def distance(z: Tensor) -> tuple[Tensor, Tensor]:
    size = (z - 0.5).norm(dim=1)
    return size, (z - 0.5) / size.clamp(min=1e-9)[:, None]


@pytest.mark.parametrize("descent", [Averaged((0.0, 1.0)), QuasiNewton((0.0, 1.0))])
def test_curved_sqp(descent):
    solver, x, normal = CurvedSQP(descent), torch.full((3, 8), 0.5), torch.linspace(0.5, 1, 8).expand(3, 8)
    rows = solver.start(x, torch.tensor([False] * 3))
    assert not shared(rows)
    for _ in range(3):
        margin = ((rows.z - 0.5) * normal).sum(1) - 0.3
        solver.step(rows, margin, torch.zeros(3), normal, distance)
        assert not shared(rows)


@pytest.mark.parametrize("p", [1.0, 2.0, 3.0, torch.inf])
def test_proximal_sqp(p):
    solver, u, normal = ProximalSQP(LpProx(p)), torch.zeros(3, 8), torch.linspace(0.5, 1, 8).expand(3, 8)
    rows = solver.start(u - 1, u + 1, u)
    assert not shared(rows)
    for _ in range(3):
        solver.step(rows, (rows.u * normal).sum(1) - 0.3, torch.zeros(3), normal)
        assert not shared(rows)


def test_line_search():
    search = WeakWolfe().start(torch.ones(3), -torch.ones(3))
    assert not shared(search)
    assert not shared(WeakWolfe().step(search, torch.zeros(3), -torch.ones(3)))


@pytest.mark.parametrize("memory", [None, 5])
def test_bfgs_sqp(memory):
    problem = Autograd(lambda x: (x.square().sum(1), 1 - x[:, :1]), 1, 0)
    solver = BFGSSQP(memory=memory)
    live = solver._enter(problem, torch.full((3, 16), 2.0), torch.arange(3))
    assert not shared(live)
    for _ in range(4):
        solver._tick(problem, live)
        assert not shared(live)
