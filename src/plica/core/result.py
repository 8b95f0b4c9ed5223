"""The result of plica.attack as the judge measured it, one entry per image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jaxtyping import Bool, Float, Int
from torch import Tensor

from plica.core.model.draws import JUDGED
from plica.core.status import Status
from plica.utils.notebook import ShownInNotebooks
from plica.utils.optional import require
from plica.utils.wilson import wilson

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa


@dataclass(frozen=True)
class Result(ShownInNotebooks):
    """One entry per image, on the device of x.

    Attributes:
        x_adv: the best verified point, within the bounds; x itself if none was found.
        success: x_adv is misclassified (with a target, as the target; with a goal, it reaches the goal), lies within
            the bounds and, for MaxLoss, within the radius.
        distance: metric(x, x_adv) in float64; inf if success is false. 0 only if x itself is misclassified: where the
            metric is 0 at another point, as one that ignores part of the image may be, it is reported as 1e-38.
        violation: the largest amount by which x_adv violates a constraint (the margin below 0, the distance beyond the
            radius); 0 if success is true.
        stationarity: the solver's measure at its end point (Eq. 29-30); nan for methods that have none and where
            nothing was solved.
        gradients: runs of the model on this image, forward and backward; rows of padding do not count.
        forwards: runs of the model on this image, forward alone.
        margin: max_{i != y} f_i - f_y at x_adv, where f are the logits; with a goal, its value.
        prediction: the class of x_adv; -1 if the goal has no classes.
        seconds: the image's share of the wall time, in proportion to its runs of the model; one forward and backward
            counts as three forward alone.
        status: why the attack on the image ended.
        theta: with a perturbation, x_adv = T(x, theta) clamped into the bounds; its start if no point was found.
            None for x' = x + delta.
        end: the last point of the attack, not judged: it may miss the radius or be classified correctly. None for
            methods that do not report it.
        metric_gradients: runs of the metric, forward and backward; 0 for methods that do not count them.
        share: with draws, the share of the judge's 100 draws that reach the goal at x_adv, more than one half if
            success is true; None without draws.
    """

    x_adv: Float[Tensor, "b *image"]
    success: Bool[Tensor, " b"]
    distance: Float[Tensor, " b"]
    violation: Float[Tensor, " b"]
    stationarity: Float[Tensor, " b"]
    gradients: Int[Tensor, " b"]
    forwards: Int[Tensor, " b"]
    margin: Float[Tensor, " b"]
    prediction: Int[Tensor, " b"]
    seconds: Float[Tensor, " b"]
    status: list[Status]
    theta: Float[Tensor, "b k"] | None = None
    end: Float[Tensor, "b *image"] | None = None
    metric_gradients: Int[Tensor, " b"] | None = None
    share: Float[Tensor, " b"] | None = None

    def __len__(self) -> int:
        return len(self.status)

    def __repr__(self) -> str:
        """Counts and medians in a line, not the tensors."""
        wrong = self.success & (self.distance == 0)
        found = self.distance[self.success & ~wrong].cpu()
        median = f", median distance {float(found.quantile(0.5)):.4g}" if len(found) else ""
        spent = f"{float(self.gradients.double().mean()):.0f} gradients per image" if len(self) else "no gradients"
        return (
            f"Result({len(self)} images of shape {tuple(self.x_adv.shape[1:])}: {int(wrong.sum())} misclassified "
            f"without a perturbation, {len(found)} broken{median}, {int((~self.success).sum())} not broken; {spent})"
        )

    def to_arrow(self) -> pa.Table:
        """All but x_adv as a table, one row per image; `id` is its index, `status` the name of the status.

        With draws there are `share`, and `share_low` and `share_high`, the ends of Wilson's 95 % interval for the share
        of all draws.
        """
        import pyarrow as pa

        measured = ("prediction", "success", "distance", "margin", "violation", "stationarity")
        spent = ("gradients", "forwards", "seconds")
        columns: dict[str, Any] = {"id": range(len(self))}
        columns |= {name: getattr(self, name).cpu().numpy() for name in measured}
        columns |= {"status": [status.name for status in self.status]}
        columns |= {name: getattr(self, name).cpu().numpy() for name in spent}
        if self.share is not None:
            share = self.share.cpu().numpy()
            low, high = wilson(share, JUDGED)
            columns |= {"share": share, "share_low": low, "share_high": high}
        return pa.table({name: pa.array(values) for name, values in columns.items()})

    def to_pandas(self) -> pd.DataFrame:
        """The same as a pandas data frame.

        Raises:
            ModuleNotFoundError: pandas is not installed.
        """
        require("pandas", "to_pandas")
        return self.to_arrow().to_pandas()
