"""hf:FOLDER or hf:OWNER/NAME, an image classifier of transformers, normalised as its image processor says."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

from plica.models.adapt import LoadedModel
from plica.models.download import fetch, hub_or_cache
from plica.utils.optional import require


def load_huggingface(name: str, pretrained: bool, trust: bool) -> LoadedModel:
    """A folder is read without the network; code inside it is run, and pickled weights are read, only with trust.

    Raises:
        FileNotFoundError, ValueError: the package, the folder or the model is missing, or could not be loaded.
    """
    package = require("transformers", f"hf:{name}")
    is_folder = Path(name).is_dir()
    if not is_folder and (name.startswith((".", "/", "~")) or name.count("/") > 1):
        raise FileNotFoundError(f"There is no folder {name}; give hf:FOLDER or hf:OWNER/NAME.")
    classifier = package.AutoModelForImageClassification
    with nullcontext(False) if is_folder else hub_or_cache() as asks_hub:
        options: dict[str, Any] = {"local_files_only": not asks_hub, "trust_remote_code": trust}
        if not trust:
            options["use_safetensors"] = True
        net = fetch(f"hf:{name}", lambda: classifier.from_pretrained(name, **options).float())
        try:
            config, _ = package.ImageProcessingMixin.get_image_processor_dict(name, local_files_only=not asks_hub)
        except Exception:  # a folder may contain only the network
            config = {}
    if config.get("image_mean") and config.get("do_normalize", True):
        return LoadedModel(net, (tuple(config["image_mean"]), tuple(config["image_std"])))
    return LoadedModel(net, says_normalisation=bool(config))
