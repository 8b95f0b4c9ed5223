"""The models of an evaluation, each loaded once for the checks before it, the attacks, and the checks after it."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from plica.evaluation.plan import Model
from plica.models import load_model
from plica.utils.limits import memory

SHARE = 0.25  # of this machine's memory; above it the model loaded first is dropped


class ModelCache:
    """Loaded models by their entries in the plan. Only one at a time is on an accelerator."""

    def __init__(self) -> None:
        self._models: dict[Model, Callable[[Tensor], Tensor]] = {}

    def load(self, spec: Model, device: str) -> Callable[[Tensor], Tensor]:
        """The model in eval mode, on the device.

        Raises:
            FileNotFoundError, ValueError: as plica.models.load_model.
        """
        for other, model in self._models.items():
            if other != spec and isinstance(model, nn.Module):
                model.to("cpu")
        if spec not in self._models:
            self._models[spec] = load_model(spec.model, spec.weights, device, spec.trust)
        model = self._models[spec]
        while len(self._models) > 1 and sum(map(_bytes, self._models.values())) > SHARE * memory():
            del self._models[next(other for other in self._models if other != spec)]
        return model.to(device) if isinstance(model, nn.Module) else model


def _bytes(model: Callable[[Tensor], Tensor]) -> int:
    """Bytes of a module's parameters and buffers; 0 for any other callable."""
    tensors = model.state_dict().values() if isinstance(model, nn.Module) else ()
    return sum(tensor.nbytes for tensor in tensors if isinstance(tensor, Tensor))
