"""Networks by name: torchvision:NAME, timm:NAME, hf:DIR-OR-ID, robustbench:ID. Each brings its own normalisation.

Weights come from the package's own cache or the network, unless a file of weights is given.
"""

from __future__ import annotations

import os
import pickle
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from plica.models.adapt import Normalisation
from plica.utils.messages import few, one_line
from plica.utils.optional import require, stand_ins

Made = tuple[nn.Module, "Normalisation | None"]


def zoo_of(spec: str) -> tuple[Callable[[str, bool, bool], Made], str] | None:
    """The zoo and the name in it; None for other forms."""
    zoo, colon, name = spec.partition(":")
    return (ZOOS[zoo], name) if colon and zoo in ZOOS else None


def _torchvision(name: str, pretrained: bool, trust: bool) -> Made:
    models = require("torchvision.models", f"torchvision:{name}")
    if name not in models.list_models():
        raise _unknown("torchvision", name, models.list_models())
    weights = models.get_model_weights(name).DEFAULT
    recipe = weights.transforms()
    net = _fetched(f"torchvision:{name}", lambda: models.get_model(name, weights=weights if pretrained else None))
    return net, (tuple(recipe.mean), tuple(recipe.std)) if hasattr(recipe, "mean") else None


def _timm(name: str, pretrained: bool, trust: bool) -> Made:
    timm = require("timm", f"timm:{name}")
    if not timm.is_model(name.partition(".")[0]):
        raise _unknown("timm", name, timm.list_models())
    net = _fetched(f"timm:{name}", lambda: timm.create_model(name, pretrained=pretrained))
    told = getattr(net, "pretrained_cfg", None) or {}
    return net, (tuple(told["mean"]), tuple(told["std"])) if told.get("mean") else None


def _hf(name: str, pretrained: bool, trust: bool) -> Made:
    """A folder is read without the network; code inside it is run, and pickled weights are read, only with trust."""
    package = require("transformers", f"hf:{name}")
    here = Path(name).is_dir()
    if not here and (name.startswith((".", "/", "~")) or name.count("/") > 1):
        raise FileNotFoundError(f"There is no folder {name}; give hf:FOLDER or hf:OWNER/NAME.")
    safe: dict[str, Any] = {"local_files_only": here, "trust_remote_code": trust}
    if not trust:
        safe["use_safetensors"] = True
    net = _fetched(f"hf:{name}", lambda: package.AutoModelForImageClassification.from_pretrained(name, **safe).float())
    try:
        told, _ = package.ImageProcessingMixin.get_image_processor_dict(name, local_files_only=here)
    except Exception:  # a folder may hold the network alone
        told = {}
    if told.get("image_mean") and told.get("do_normalize", True):
        return net, (tuple(told["image_mean"]), tuple(told["image_std"]))
    if not told:
        warnings.warn(f"hf:{name} does not say how it normalises; state it, as in hf:{name}@half.", stacklevel=2)
    return net, None


def _robustbench(name: str, pretrained: bool, trust: bool) -> Made:
    """ID, or DATASET/THREAT/ID; by default CIFAR-10 and Linf. Its networks normalise inside.

    Weights lie in models/DATASET/THREAT/ID.pt, where the package puts them; pickled objects in them need trust.
    """
    with stand_ins("pkg_resources", "autoattack", "autoattack.state"):  # gone from setuptools; for its own evaluations
        utils = require("robustbench.utils", f"robustbench:{name}")
        zoo = require("robustbench.model_zoo", f"robustbench:{name}")
    dataset, threat, model = ["cifar10", "Linf", name] if name.count("/") != 2 else name.split("/")
    held = {f"{d.value}/{t.value}": nets for d, kinds in zoo.model_dicts.items() for t, nets in kinds.items()}
    known = held.get(f"{dataset}/{threat}")
    if known is None:
        raise ValueError(f"robustbench has {few(held)}, not {dataset}/{threat}; write robustbench:DATASET/THREAT/ID.")
    if model not in known:
        raise _unknown(f"robustbench {dataset}/{threat}", model, list(known))
    if not pretrained:
        return _fetched(f"robustbench:{name}", known[model]["model"]), None
    with _unpickling(trust):
        made = lambda: utils.load_model(model_name=model, dataset=dataset, threat_model=threat)  # noqa: E731
        return _fetched(f"robustbench:{name}", made), None


@contextmanager
def _unpickling(trust: bool) -> Iterator[None]:
    """Whether torch.load, called by a package, may meanwhile make other objects than tensors, which can run code."""
    switch = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD" if trust else "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    former = os.environ.get(switch)
    os.environ[switch] = "1"
    try:
        yield
    finally:
        os.environ.pop(switch) if former is None else os.environ.update({switch: former})


def _fetched(spec: str, make: Callable[[], nn.Module]) -> nn.Module:
    """Packages say in many ways that there is no such name, no file, no network."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the packages, about themselves
            return make()
    except Exception as error:
        if isinstance(error, pickle.UnpicklingError):
            raise ValueError(f"{spec} has weights among pickled objects, which are read only with --trust.") from error
        if "trust_remote_code" in str(error):
            raise ValueError(f"{spec} brings Python code of its own, which is run only with --trust.") from error
        raise ValueError(
            f"{spec} could not be loaded ({one_line(error, named=True)}); check the name, and that the network "
            "is there."
        ) from error


def _unknown(zoo: str, name: str, known: list[str]) -> ValueError:
    from difflib import get_close_matches

    near = get_close_matches(name, known, 1)
    return ValueError(
        f"{zoo} has no model {name!r} among its {len(known)}" + (f"; the nearest is {near[0]}." if near else ".")
    )


ZOOS = {"torchvision": _torchvision, "timm": _timm, "hf": _hf, "robustbench": _robustbench}
