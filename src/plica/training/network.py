"""The network as the inner problem uses it: in eval mode, outside of DDP, with logits in float32 and gradients with
respect to x only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.parallel import DataParallel, DistributedDataParallel

from plica.core.model.eval_mode import eval_mode
from plica.core.model.fitting import kind_errors
from plica.core.model.gradient import gradient_errors, input_gradient
from plica.goals import class_logits

Value = Callable[[Tensor], Tensor]  # logits (r, classes) -> (r,)


class Network:
    """A model for the duration of one inner problem, inside `opened`.

    Gradients are taken with respect to x only: no parameter's `.grad` is written, and none needs `requires_grad`. The
    model runs under the autocast that is active where the inner problem is solved; computations on its logits do not.
    """

    def __init__(self, model: Any, dtype: torch.dtype, device: torch.device):
        self.model, self.dtype, self.device = unwrapped(model), dtype, device
        self.autocast = torch.is_autocast_enabled(device.type), torch.get_autocast_dtype(device.type)

    @classmethod
    @contextmanager
    def opened(cls, model: Any, x: Tensor) -> Iterator[Network]:
        """Within this context the model is in eval mode, and only the model runs under autocast. Modes and the global
        random state are restored."""
        network, device = cls(model, x.dtype, x.device), x.device
        devices = [device] if device.type != "cpu" else []
        with (
            eval_mode(network.model),
            torch.random.fork_rng(devices, device_type=device.type if devices else "cuda"),
            torch.autocast(device.type, enabled=False),
        ):
            yield network

    def logits(self, z: Float[Tensor, "r *image"]) -> Float[Tensor, "r classes"]:
        """The logits in float32, or wider if the model's are."""
        on, dtype = self.autocast
        z = z.to(self.dtype)
        with torch.autocast(self.device.type, dtype=dtype) if on else nullcontext(), kind_errors(self.model, z):
            out = self.model(z)
        if not isinstance(out, Tensor) or not out.is_floating_point() or not 1 <= out.ndim <= 2 or len(out) != len(z):
            seen = f"{out.dtype} of shape {tuple(out.shape)}" if isinstance(out, Tensor) else type(out).__name__
            raise ValueError(
                f"The model must return floating-point logits of shape (b, classes), here b = {len(z)}, got {seen}; "
                "wrap it in a module that does."
            )
        return class_logits(out if out.dtype == torch.float64 else out.float())

    def gradient(self, z: Float[Tensor, "r *image"], value: Value) -> tuple[Tensor, Tensor, Tensor]:
        """value(logits) (r,), the logits (r, classes), and the value's gradient with respect to z (r, *image)."""
        with torch.enable_grad(), gradient_errors():
            z = z.detach().requires_grad_(True)
            # a leaf must not be written to, and models do so: x.sub_(mean); a compiled one does not write to its input
            logits = self.logits(z if hasattr(self.model, "_orig_mod") else z.clone())
            values = value(logits)
            grad = input_gradient(values.sum(), z)
        return values.detach(), logits.detach(), grad


def unwrapped(model: Any) -> Any:
    """The module inside DDP, compiled or not. DDP's own forward would wait for a backward pass that never comes."""
    inner = getattr(model, "_orig_mod", model)  # of torch.compile
    if isinstance(inner, DistributedDataParallel | DataParallel):
        return unwrapped(inner.module)
    if not callable(model):
        raise TypeError(f"The model must be a torch.nn.Module or a function of images, got {type(model).__name__}.")
    return model
