"""robustbench:ID or robustbench:DATASET/THREAT/ID, by default of cifar10/Linf. Its networks normalise inside."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from plica.models.adapt import LoadedModel
from plica.models.download import fetch, unknown_model
from plica.utils.messages import few
from plica.utils.optional import require, stand_ins


def load_robustbench(name: str, pretrained: bool, trust: bool) -> LoadedModel:
    """Weights lie in models/DATASET/THREAT/ID.pt, where the package stores them; pickled objects in them need trust.

    Raises:
        ValueError: the package or its model is missing, or could not be loaded.
    """
    spec = f"robustbench:{name}"
    # pkg_resources is gone from setuptools; autoattack is only needed for the package's own evaluations
    with stand_ins("pkg_resources", "autoattack", "autoattack.state"):
        utils, zoo = require("robustbench.utils", spec), require("robustbench.model_zoo", spec)
    dataset, threat, model = ["cifar10", "Linf", name] if name.count("/") != 2 else name.split("/")
    known = {f"{d.value}/{t.value}": models for d, threats in zoo.model_dicts.items() for t, models in threats.items()}
    models = known.get(f"{dataset}/{threat}")
    if models is None:
        raise ValueError(f"robustbench has {few(known)}, not {dataset}/{threat}; write robustbench:DATASET/THREAT/ID.")
    if model not in models:
        raise unknown_model(f"robustbench {dataset}/{threat}", model, list(models))
    if not pretrained:
        return LoadedModel(fetch(spec, models[model]["model"]))
    with _unpickling_allowed(trust):
        return LoadedModel(
            fetch(spec, lambda: utils.load_model(model_name=model, dataset=dataset, threat_model=threat))
        )


@contextmanager
def _unpickling_allowed(trust: bool) -> Iterator[None]:
    """Within this context torch.load, called by a package, may create objects other than tensors if `trust`, and is
    forbidden to otherwise, since creating them can run code."""
    variable = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD" if trust else "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    former = os.environ.get(variable)
    os.environ[variable] = "1"
    try:
        yield
    finally:
        os.environ.pop(variable) if former is None else os.environ.update({variable: former})
