"""Networks that are programs, loaded only if trusted: net.pt2 (torch.export), and TorchScript in net.ts or net.pt.

TorchScript may open files, and a file of torch.export contains Python expressions that are evaluated on loading.
"""

from __future__ import annotations

import warnings
import zipfile
from pathlib import Path

import torch

from plica.models.adapt import LoadedModel, takes_batches
from plica.utils.messages import one_line


def load_torchscript(path: str, pretrained: bool, trust: bool) -> LoadedModel:
    """Raises FileNotFoundError, ValueError: the file is missing, broken, not a program, or not trusted."""
    file = _check_program(Path(path), trust)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of the form, which people have all the same
            return LoadedModel(torch.jit.load(file, map_location="cpu"))
    except Exception as error:
        raise ValueError(f"{file} cannot be read as TorchScript ({one_line(error, named=True)}).") from error


def load_exported_program(path: str, pretrained: bool, trust: bool) -> LoadedModel:
    """Raises FileNotFoundError, ValueError: the file is missing, broken, not trusted, or fixed to a batch size."""
    file = _check_program(Path(path), trust)
    try:
        program = torch.export.load(file)
        net = program.module()
        example = next(
            node.meta["val"] for node in program.graph.nodes if node.name in program.graph_signature.user_inputs
        )
    except Exception as error:
        raise ValueError(f"{file} cannot be read as an ExportedProgram ({one_line(error, named=True)}).") from error
    for name in ("eval", "train"):  # an exported program refuses both; it keeps the mode in which it was exported
        net.__dict__.pop(name, None)
    size = example.shape[0]
    if isinstance(size, int) and size > 1:
        raise ValueError(
            f"{file} takes {size} images at a time, no more and no fewer; export it anew with a dynamic batch "
            f'(torch.export.export(..., dynamic_shapes=({{0: torch.export.Dim("batch")}},))).'
        )
    one_by_one = isinstance(size, int)
    if one_by_one:
        takes_batches(net, torch.zeros(example.shape, dtype=example.dtype), path)  # warns that this is slow
    return LoadedModel(net, one_by_one=one_by_one)


def _check_program(file: Path, trust: bool) -> Path:
    if not file.is_file():
        raise FileNotFoundError(f"There is no model file {file}.")
    if not zipfile.is_zipfile(file):
        raise ValueError(f"{file} is not a network: it is broken, or pickled Python objects, which are refused.")
    if not _is_program(file):
        raise ValueError(
            f"{file} holds weights or pickled Python objects, not a program; name the network as file.py:factory "
            f"and give the state dict with --weights."
        )
    if not trust:
        raise ValueError(
            f"{file} is a program, which could do more than classify; give --trust if it comes from somebody you trust."
        )
    return file


def _is_program(file: Path) -> bool:
    """Archives of torch.jit have code/; those of torch.export a model or an archive format of their own."""
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
    return file.suffix == ".pt2" or any("/code/" in name or name.startswith("code/") for name in names)
