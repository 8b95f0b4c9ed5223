"""Tensor operations and waits of the host for each model call of an attack, as an accelerator would see them.

    python benchmarks/launches.py                     a table: l2, linf, l1, curved, pwcf
    python benchmarks/launches.py --case l2 --where   of one, the lines of the source that they come from

It needs no accelerator: the path for accelerators is taken on a CPU (plica.solver.accelerator.forced) and every
operation that would launch a kernel is counted (torch's dispatcher; views and empty tensors launch none), as is
everything that makes the host wait: nonzero, item, bool(), indexing by a mask, equal, unique, copies to the host.
The network is a small one with random weights, its own operations are subtracted. What a GPU launches as one recording
is counted both ways; recording it, once a stage, takes the host about as long as launching it two or three times.
"Inside a stage" is a call of Multistart.step, or a tick of the solver of pwcf.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import plica
from plica.attacks import multistart
from plica.attacks.radius import steps
from plica.solver import BFGSSQP, accelerator

SOURCE = str(Path(plica.__file__).parent)
WAITS = ("nonzero", "_local_scalar_dense", "masked_select", "equal", "_unique2", "unique_dim", "is_nonzero")
NO_KERNEL = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "detach", "alias", "lift_fresh",
             "_unsafe_view", "resize_", "set_", "_reshape_alias")  # fmt: skip
TO_HOST = (Tensor.cpu, Tensor.tolist, Tensor.numpy)


@dataclass
class Count:
    """What was counted; lines: of the source of plica, by operations and waits."""

    operations: int = 0
    waits: int = 0
    stage_waits: int = 0
    in_stage: int = 0
    recorded: int = 0  # of the operations, those that one launch of a recording stands for
    in_recording: int = 0
    lines: Counter[tuple[str, str]] = field(default_factory=Counter)


class _Operations(TorchDispatchMode):
    """Counts kernels and waits."""

    def __init__(self, count: Count, where: bool):
        super().__init__()
        self.count, self.where = count, where

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.__name__.split(".")[0]
        if name in WAITS or (name in ("index", "index_put", "index_put_") and _by_mask(args[1])):
            wait(self.count, name, self.where)
        if name not in NO_KERNEL and not func.is_view and torch.Tag.inplace_view not in func.tags:
            self.count.operations += 1
            self.count.recorded += self.count.in_recording
            if self.where:
                self.count.lines["operations", _line()] += 1
        return out


class _Copies(TorchFunctionMode):
    """Counts copies to the host, which do nothing on a CPU."""

    def __init__(self, count: Count, where: bool):
        super().__init__()
        self.count, self.where = count, where

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in TO_HOST or (func is Tensor.to and "cpu" in map(str, [*args[1:], *(kwargs or {}).values()])):
            wait(self.count, func.__name__, self.where)
        return func(*args, **(kwargs or {}))


def wait(count: Count, name: str, where: bool) -> None:
    count.waits += 1
    count.stage_waits += count.in_stage > 0
    if where:
        count.lines["waits", f"{_line()} {name}"] += 1


def _by_mask(indices: Any) -> bool:
    return any(isinstance(i, Tensor) and i.dtype in (torch.bool, torch.uint8) for i in indices)


def _line() -> str:
    """The innermost line of plica that is running."""
    frame = sys._getframe(2)
    while frame is not None:
        if frame.f_code.co_filename.startswith(SOURCE):
            return f"{frame.f_code.co_filename[len(SOURCE) + 1 :]}:{frame.f_lineno}"
        frame = frame.f_back
    return "elsewhere"


@contextmanager
def counted(where: bool = False):
    """Counts inside the block, on the accelerator's path; calls of the model are not counted here."""
    count = Count()

    def stage(step):
        def inside(*args: Any, **kwargs: Any) -> Any:
            count.in_stage += 1
            try:
                return step(*args, **kwargs)
            finally:
                count.in_stage -= 1

        return inside

    class Recorder:
        """Carries out what a recording would, and counts it as one operation and the copies of what goes in."""

        def __call__(self, run: Any, inputs: Any, owners: Any) -> Any:
            def replay(*new: Tensor) -> None:
                count.in_recording = 1
                run(*new)
                count.in_recording = 0
                count.recorded -= 1 + len(new)

            return replay

    kinds = [(kind, "step") for kind in _subclasses(multistart.Multistart)] + [(BFGSSQP, "_tick")]
    with ExitStack() as stack:
        for kind, name in kinds:
            if name in kind.__dict__:
                stack.enter_context(mock.patch.object(kind, name, stage(kind.__dict__[name])))
        stack.enter_context(mock.patch.object(steps, "Recorder", Recorder))
        stack.enter_context(accelerator.forced())
        stack.enter_context(_Copies(count, where))
        stack.enter_context(_Operations(count, where))
        yield count


def _subclasses(kind: type) -> list[type]:
    return [kind, *(below for child in kind.__subclasses__() for below in _subclasses(child))]


class Calls(nn.Module):
    """A network that counts the calls whose output needs a gradient."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.net = nn.Sequential(
                nn.Conv2d(3, 16, 5, 4), nn.ReLU(), nn.Conv2d(16, 16, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10)
            )
        self.gradients = self.forwards = 0

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            self.gradients += 1
        else:
            self.forwards += 1
        return self.net(x)


def own(net: nn.Module, x: Tensor, gradient: bool) -> int:
    """Operations of one call of the network."""
    with counted() as count, nullcontext() if gradient else torch.no_grad():
        z = x.detach().requires_grad_(gradient)
        out = net(z).sum()
        if gradient:
            torch.autograd.grad(out, z)
    return count.operations - 1  # the sum


def smooth(x: Tensor, x_adv: Tensor) -> Tensor:
    """A distance of which only the gradient is known."""
    return (x_adv - x).flatten(1).square().sum(1).add(1e-12).sqrt()


CASES = {
    "l2": ("auto", plica.Lp(2)),
    "linf": ("auto", plica.Lp("inf")),
    "l1": ("auto", plica.Lp(1)),
    "curved": ("curved", smooth),
    "pwcf": ("pwcf", plica.Lp(2)),
}


def measure(case: str, images: int, gradients: int, where: bool = False) -> tuple[dict[str, float], Count]:
    """Operations and waits of one attack for each call with a gradient."""
    method, metric = CASES[case]
    net = Calls().eval().requires_grad_(False)
    x = torch.rand(images, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    y = net(x).argmax(1)
    mine, alone = own(net, x, True), own(net, x, False)
    net.gradients = net.forwards = 0
    with counted(where) as count:
        plica.attack(net, x, y, plica.MinRadius(metric), method=method, gradients=gradients)
    calls = net.gradients
    beyond = count.operations - calls * mine - net.forwards * alone
    row = {
        "calls": calls,
        "model": mine,
        "operations": beyond / calls,
        "launched": (beyond - count.recorded) / calls,
        "waits": count.waits / calls,
        "stage waits": count.stage_waits / calls,
    }
    return row, count


def main() -> None:
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("--case", choices=CASES, action="append")
    parse.add_argument("--images", type=int, default=64)
    parse.add_argument("--gradients", type=int, default=100)
    parse.add_argument("--where", action="store_true", help="the lines that operations and waits come from")
    args = parse.parse_args()
    torch.set_num_threads(1)
    print("|  | calls | the model's operations | others, a call | launched, with recordings | waits, a call "
          "| of them inside a stage |")  # fmt: skip
    print("|---|---:|---:|---:|---:|---:|---:|")
    for case in args.case or CASES:
        row, count = measure(case, args.images, args.gradients, args.where)
        print(f"| {case} | {row['calls']:.0f} | {row['model']:.0f} | {row['operations']:.0f} | {row['launched']:.0f} "
              f"| {row['waits']:.2f} | {row['stage waits']:.2f} |", flush=True)  # fmt: skip
        for (what, line), number in count.lines.most_common(60 if args.where else 0):
            print(f"    {number / row['calls']:7.2f} {what} {line}")


if __name__ == "__main__":
    main()
