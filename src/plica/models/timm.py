"""timm:NAME, normalised as its configuration says."""

from plica.models.adapt import LoadedModel
from plica.models.download import fetch, hub_or_cache, unknown_model
from plica.utils.optional import require


def load_timm(name: str, pretrained: bool, trust: bool) -> LoadedModel:
    """Raises ValueError: the package or its model is missing, or could not be loaded."""
    timm = require("timm", f"timm:{name}")
    if not timm.is_model(name.partition(".")[0]):
        raise unknown_model("timm", name, timm.list_models())
    with hub_or_cache():
        net = fetch(f"timm:{name}", lambda: timm.create_model(name, pretrained=pretrained))
    config = getattr(net, "pretrained_cfg", None) or {}
    return LoadedModel(net, (tuple(config["mean"]), tuple(config["std"])) if config.get("mean") else None)
