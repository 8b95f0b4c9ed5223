"""A model that counts its own runs, with no help of those who run it."""

from __future__ import annotations

from torch import Tensor, nn


class Ledger:
    """What was run: rows that a gradient came back to, calls, calls without gradients. Copies of a model share it."""

    def __init__(self):
        self.gradients, self.calls, self.forwards = 0, 0, 0

    def __deepcopy__(self, memo) -> Ledger:
        return self


class Counted(nn.Module):
    """`net`, counted. Rows that only pad a batch get no gradient, so they do not count as one.

    With a single image every call without gradients holds that image alone, so `forwards` is what that image cost.
    """

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net, self.ledger = net, Ledger()

    def forward(self, x: Tensor) -> Tensor:
        out = self.net(x)
        self.ledger.calls += 1
        if out.requires_grad:
            out.register_hook(self._came_back)
        else:
            self.ledger.forwards += 1
        return out

    def _came_back(self, grad: Tensor) -> None:
        self.ledger.gradients += int((grad != 0).any(1).sum())
