"""torchvision:NAME, normalised as its weights say."""

from plica.models.adapt import LoadedModel
from plica.models.download import fetch, unknown_model
from plica.utils.optional import require


def load_torchvision(name: str, pretrained: bool, trust: bool) -> LoadedModel:
    """Raises ValueError: the package or its model is missing, or could not be loaded."""
    models = require("torchvision.models", f"torchvision:{name}")
    if name not in models.list_models():
        raise unknown_model("torchvision", name, models.list_models())
    weights = models.get_model_weights(name).DEFAULT
    transforms = weights.transforms()
    net = fetch(f"torchvision:{name}", lambda: models.get_model(name, weights=weights if pretrained else None))
    has_mean = hasattr(transforms, "mean")
    return LoadedModel(net, (tuple(transforms.mean), tuple(transforms.std)) if has_mean else None)
