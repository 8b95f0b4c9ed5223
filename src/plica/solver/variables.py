"""Named, shaped unknowns for `minimize`, which itself knows one flat vector per problem."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Variables:
    """Several unknowns in one vector, one after another in the order in which they are named::

        variables = Variables.shaped(W=(3, 2), t=())
        fun = variables.wrap(lambda W, t: (t, W.flatten(1).abs() - t[:, None]))
        solution = minimize(fun, variables.flat(W=torch.ones(3, 2), t=torch.tensor(2.0)))
        variables.split(solution.x)["W"]

    Functions get every unknown with a leading axis for the problems: W (b, 3, 2), t (b,).
    """

    shapes: dict[str, tuple[int, ...]]

    @classmethod
    def shaped(cls, **shapes: tuple[int, ...]) -> Variables:
        """Unknowns of the given shapes, each without the leading axis; () is a number."""
        if not shapes:
            raise ValueError("Variables.shaped(name=shape, ...) needs at least one unknown.")
        return cls({name: tuple(shape) for name, shape in shapes.items()})

    def flat(self, **values: Tensor) -> Float[Tensor, "*b n"]:
        """The vector (n,) of one problem's values, or (b, n) where every value has a leading axis b."""
        if values.keys() != self.shapes.keys():
            raise ValueError(f"Values are needed for {', '.join(self.shapes)}; got {', '.join(values) or 'none'}.")
        batched = {value.ndim - len(self.shapes[name]) for name, value in values.items()}
        parts = [values[name] for name in self.shapes]
        fits = all(part.shape[part.ndim - len(s) :] == s for part, s in zip(parts, self.shapes.values(), strict=True))
        if not fits or batched not in ({0}, {1}):
            shapes = ", ".join(f"{name} {tuple(value.shape)}" for name, value in values.items())
            want = ", ".join(f"{name} {shape}" for name, shape in self.shapes.items())
            raise ValueError(
                f"Values must have the shapes {want}, or these with one leading axis for all; got {shapes}."
            )
        if batched == {0}:
            return torch.cat([part.reshape(-1) for part in parts])
        return torch.cat([part.reshape(len(part), -1) for part in parts], 1)

    def split(self, x: Float[Tensor, "*b n"]) -> dict[str, Tensor]:
        """The unknowns by name; a leading axis of x stays in front of each."""
        parts = x.split([math.prod(shape) for shape in self.shapes.values()], dim=-1)
        return {
            name: part.reshape((*x.shape[:-1], *shape))
            for (name, shape), part in zip(self.shapes.items(), parts, strict=True)
        }

    def wrap(self, fun: Callable[..., Any]) -> Callable[[Tensor], Tensor | tuple[Tensor, ...]]:
        """The function of x (b, n) that `minimize` takes, from one of the unknowns by name."""
        return lambda x: fun(**self.split(x))
