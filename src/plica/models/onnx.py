"""net.onnx, converted to torch. An ONNX file contains numbers and a list of operations; loading it runs no code."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor, fx, nn

from plica.models.adapt import LoadedModel, takes_batches
from plica.utils.messages import one_line
from plica.utils.optional import require


def load_onnx(path: str, pretrained: bool, trust: bool) -> LoadedModel:
    """Raises FileNotFoundError, ValueError: the file or a package is missing, or the graph cannot be used."""
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"There is no model file {file}.")
    onnx, onnx2torch = require("onnx", path), require("onnx2torch", path)
    try:
        graph = onnx.load(file, load_external_data=False)
        initializers = {tensor.name for tensor in graph.graph.initializer}
        external = [tensor.name for tensor in graph.graph.initializer if tensor.data_location == 1]  # EXTERNAL
    except Exception as error:
        raise ValueError(f"{file} cannot be read as ONNX ({one_line(error, named=True)}).") from error
    if external:
        raise ValueError(f"{file} keeps its weights in other files; save it as one file (save_as_external_data=False).")
    inputs = [value for value in graph.graph.input if value.name not in initializers]
    if len(inputs) != 1:
        raise ValueError(f"{file} has {len(inputs)} inputs; a classifier takes one, the images.")
    shape = [axis.dim_value for axis in inputs[0].type.tensor_type.shape.dim]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the converter, about itself
            net = _with_fixed_shapes(onnx2torch.convert(graph)).eval()
    except Exception as error:
        raise ValueError(f"{file} cannot be converted to torch ({one_line(error, named=True)}).") from error
    one_by_one = all(shape[1:]) and not takes_batches(net, torch.zeros(1, *shape[1:]), path)
    return LoadedModel(Reshaped(net, shape[1:]), one_by_one=one_by_one)


def _with_fixed_shapes(net: fx.GraphModule) -> fx.GraphModule:
    """With shapes that the file states as numbers.

    The converter reads them from a tensor at every call, which no list of operations captured for lower bounds can do.
    """
    for node in list(net.graph.nodes):
        if node.op != "call_module" or type(net.get_submodule(node.target)).__name__ != "OnnxReshape":
            continue
        x, shape = node.args
        if isinstance(shape, fx.Node) and shape.op == "get_attr":
            owner, _, name = str(shape.target).rpartition(".")
            sizes = getattr(net.get_submodule(owner), name).tolist()
            with net.graph.inserting_after(node):
                node.replace_all_uses_with(net.graph.call_function(_reshape, (x, sizes)))
            net.graph.erase_node(node)
    net.recompile()
    return net


def _reshape(x: Tensor, sizes: list[int]) -> Tensor:
    """A size of 0 is that of x, as ONNX has it."""
    return x.reshape([x.shape[axis] if size == 0 else size for axis, size in enumerate(sizes)])


class Reshaped(nn.Module):
    """A graph whose images have another layout: (h, w, c) for (c, h, w), or all pixels in a row."""

    def __init__(self, net: nn.Module, shape: list[int]):
        super().__init__()
        self.net, self.shape = net, tuple(shape)

    def forward(self, x: Tensor) -> Tensor:
        image = tuple(x.shape[1:])
        if image == self.shape or 0 in self.shape:
            return self.net(x)
        if len(image) == 3 and self.shape == (image[1], image[2], image[0]):
            return self.net(x.permute(0, 2, 3, 1))
        if x[0].numel() == torch.Size(self.shape).numel() and x[0].numel() in self.shape:
            return self.net(x.reshape(len(x), *self.shape))
        raise ValueError(f"the network takes images of shape {self.shape}")
