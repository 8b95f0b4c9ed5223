"""Networks that are one file: ONNX, and with trust ExportedProgram and TorchScript.

An ONNX file is data: numbers and a list of operations. The other two are programs (TorchScript may open files, and what
torch.export saves is evaluated as Python expressions when it is read), so they are loaded only for those who say so.
"""

from __future__ import annotations

import warnings
import zipfile
from pathlib import Path

import torch
from torch import Tensor, nn

from plica.models.adapt import Adapted, Normalisation, takes_batches
from plica.utils.messages import one_line
from plica.utils.optional import require

SUFFIXES = (".onnx", ".pt2", ".ts", ".torchscript", ".pt", ".pth")


def is_file_form(spec: str) -> bool:
    """Whether the text names a file of a network."""
    return spec.endswith(SUFFIXES)


def read_network(spec: str, normalisation: Normalisation | None, trust: bool) -> Adapted:
    """The network of the file.

    Raises:
        FileNotFoundError, ValueError: one sentence.
    """
    file = Path(spec)
    if not file.is_file():
        raise FileNotFoundError(f"There is no model file {file}.")
    if file.suffix == ".onnx":
        return _onnx(file, normalisation)
    if not zipfile.is_zipfile(file):
        raise ValueError(f"{file} is no network: it is broken, or pickled Python objects, which are refused.")
    if not _is_program(file):
        raise ValueError(
            f"{file} holds weights or pickled Python objects, no program; name the network as file.py:factory "
            f"and give the state dict with --weights."
        )
    if not trust:
        raise ValueError(
            f"{file} is a program, which could do more than classify; give --trust if it comes from somebody you trust."
        )
    return _exported(file, normalisation) if file.suffix == ".pt2" else _script(file, normalisation)


def _is_program(file: Path) -> bool:
    """Archives of torch.jit have code/, those of torch.export a model or an archive format of their own."""
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
    return file.suffix == ".pt2" or any("/code/" in name or name.startswith("code/") for name in names)


def _script(file: Path, normalisation: Normalisation | None) -> Adapted:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of the form, which people have all the same
            return Adapted(torch.jit.load(file, map_location="cpu"), normalisation)
    except Exception as error:
        raise ValueError(f"{file} cannot be read as TorchScript ({one_line(error, named=True)}).") from error


def _exported(file: Path, normalisation: Normalisation | None) -> Adapted:
    try:
        program = torch.export.load(file)
        net = program.module()
        example = next(
            node.meta["val"] for node in program.graph.nodes if node.name in program.graph_signature.user_inputs
        )
    except Exception as error:
        raise ValueError(f"{file} cannot be read as an ExportedProgram ({one_line(error, named=True)}).") from error
    for name in ("eval", "train"):  # an exported program refuses both; its mode is what it was exported in
        net.__dict__.pop(name, None)
    size = example.shape[0]
    if isinstance(size, int) and size > 1:
        raise ValueError(
            f"{file} takes {size} images at a time, no more and no fewer; export it anew with a dynamic batch "
            f'(torch.export.export(..., dynamic_shapes=({{0: torch.export.Dim("batch")}},))).'
        )
    rows = isinstance(size, int)
    if rows:
        takes_batches(net, torch.zeros(example.shape, dtype=example.dtype), str(file))
    return Adapted(net, normalisation, rows)


def _onnx(file: Path, normalisation: Normalisation | None) -> Adapted:
    onnx, onnx2torch = require("onnx", str(file)), require("onnx2torch", str(file))
    try:
        graph = onnx.load(file, load_external_data=False)
        inside = {tensor.name for tensor in graph.graph.initializer}
        outside = [tensor.name for tensor in graph.graph.initializer if tensor.data_location == 1]  # EXTERNAL
    except Exception as error:
        raise ValueError(f"{file} cannot be read as ONNX ({one_line(error, named=True)}).") from error
    if outside:
        raise ValueError(f"{file} keeps its weights in other files; save it as one file (save_as_external_data=False).")
    wanted = [value for value in graph.graph.input if value.name not in inside]
    if len(wanted) != 1:
        raise ValueError(f"{file} has {len(wanted)} inputs; a classifier takes one, the images.")
    shape = [axis.dim_value for axis in wanted[0].type.tensor_type.shape.dim]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the converter, about itself
            net = onnx2torch.convert(graph).eval()
    except Exception as error:
        raise ValueError(f"{file} cannot be converted to torch ({one_line(error, named=True)}).") from error
    rows = all(shape[1:]) and not takes_batches(net, torch.zeros(1, *shape[1:]), str(file))
    return Adapted(Reshaped(net, shape[1:]), normalisation, rows)


class Reshaped(nn.Module):
    """A graph that wants its images laid out otherwise: (h, w, c) for (c, h, w), or all pixels in a row."""

    def __init__(self, net: nn.Module, shape: list[int]):
        super().__init__()
        self.net, self.shape = net, tuple(shape)

    def forward(self, x: Tensor) -> Tensor:
        own = tuple(x.shape[1:])
        if own == self.shape or 0 in self.shape:
            return self.net(x)
        if len(own) == 3 and self.shape == (own[1], own[2], own[0]):
            return self.net(x.permute(0, 2, 3, 1))
        if x[0].numel() == torch.Size(self.shape).numel() and x[0].numel() in self.shape:
            return self.net(x.reshape(len(x), *self.shape))
        raise ValueError(f"the network takes images of shape {self.shape}")
