"""Measures of image quality by name, each as a distance that is 0 between equal images; computed by the package piq.

Similarities s in [0, 1] become 1 - s; measures that are 0 for equal images are used unchanged.
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from plica.metrics.base import MetricProperties
from plica.metrics.combine import Combinable
from plica.utils.messages import did_you_mean
from plica.utils.optional import require

# name: (piq's function, a similarity, its gradient at x' = x is nan as it takes the root of 0 there)
MEASURES = {
    "ssim": ("ssim", True, False),  # Wang et al. 2004
    "ms-ssim": ("multi_scale_ssim", True, False),  # Wang et al. 2003
    "iw-ssim": ("information_weighted_ssim", True, False),  # Wang, Li 2011
    "gmsd": ("gmsd", False, True),  # Xue et al. 2013
    "ms-gmsd": ("multi_scale_gmsd", False, True),  # Zhang et al. 2017
    "fsim": ("fsim", True, False),  # Zhang et al. 2011
    "vsi": ("vsi", True, False),  # Zhang et al. 2014
    "mdsi": ("mdsi", False, True),  # Nafchi et al. 2016
    "haarpsi": ("haarpsi", True, False),  # Reisenhofer et al. 2018
    "srsim": ("srsim", True, False),  # Zhang, Li 2012
    "dss": ("dss", True, False),  # Balanov et al. 2015
    "vif": ("vif_p", True, False),  # Sheikh, Bovik 2006, in the domain of pixels
}


@dataclass(frozen=True)
class Similarity(Combinable):
    """d(x, x') = 1 - s(x, x'), or the measure itself where it is a distance; images (b, channels, h, w) in [0, 1].

    Args:
        name: ssim, ms-ssim, iw-ssim, gmsd, ms-gmsd, fsim, vsi, mdsi, haarpsi, srsim, dss or vif.
        resize: the side to which images are first enlarged (bilinear): some measures need 161
            pixels, and their error message says so.
    """

    name: str
    resize: int | None = None

    def __post_init__(self):
        if self.name not in MEASURES:
            raise ValueError(
                f"There is no similarity {self.name!r}; {did_you_mean(self.name, MEASURES)}"
                f"choose from {', '.join(MEASURES)}."
            )
        _piq()

    def __str__(self) -> str:
        return self.name

    @property
    def properties(self) -> MetricProperties:
        return MetricProperties(singular_at_x=MEASURES[self.name][2])

    def __call__(self, x: Float[Tensor, "b *image"], x_adv: Float[Tensor, "b *image"]) -> Float[Tensor, " b"]:
        function, similarity, _ = MEASURES[self.name]
        # piq rejects pixels outside [0, 1], which rounding may give: clamped, with the identity's gradient
        a, b = x.clamp(0, 1), x_adv + (x_adv.clamp(0, 1) - x_adv).detach()
        b = b.clamp(0, 1) if not b.requires_grad else b
        if self.resize is not None:
            a, b = (
                F.interpolate(t, size=(self.resize, self.resize), mode="bilinear", align_corners=False) for t in (a, b)
            )
        value = getattr(_piq(), function)(b, a, data_range=1.0, reduction="none").view(len(x))
        return 1 - value if similarity else value


def _piq():
    return require("piq", "An image quality measure")
