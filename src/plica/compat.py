"""plica behind the interface of AutoAttack: a script changes its import, `from plica.compat import AutoAttack`.

Parameters are those of pyautoattack and of autoattack, whose names differ. What is run is plica's own or, by name, the
packages' attacks; every point returned was measured by the judge.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from plica.api import attack, methods
from plica.core import validation
from plica.core.formulations import MaxLoss
from plica.core.goals import MISCLASSIFIED
from plica.core.model.counted import CountedModel
from plica.core.model.eval_mode import eval_mode
from plica.core.model.fitting import fitted
from plica.evaluation.method_sets import AUTOATTACK, AUTOATTACK_L1, AUTOATTACK_RAND, RAND_DRAWS
from plica.goals import class_logits
from plica.metrics import Lp, Unsupported
from plica.models.load import parse_device
from plica.utils.messages import one_line, shown

NORMS = {"Linf": Lp("inf"), "L2": Lp(2), "L1": Lp(1)}
# plica's method for a name of AutoAttack's: the margin is the DLR loss before it is rescaled, and FAB is run towards
# one class after the other
SYNONYMS = {"apgd-dlr": "apgd-margin", "fab": "fab-t"}
OTHER_BUDGETS = {"auto": 300, "apgd-margin": 101}  # gradients per image of methods that are not AutoAttack's; else 100
VERSIONS = {
    "standard": ("auto", "apgd-ce", "apgd-t", "fab-t", "square"),
    "plus": ("auto", "pwcf", "apgd-ce", "apgd-dlr", "apgd-t", "fab-t", "square"),
    "rand": tuple(AUTOATTACK_RAND),
}


class AutoAttack:
    """Robust accuracy within a radius, as AutoAttack reports it.

    Args:
        model: (b, *image) -> (b, classes), logits of pixels in [0, 1].
        norm: Linf, L2 or L1.
        eps: the radius.
        seed: of all attacks; 0 if not given, so that an evaluation can be repeated.
        verbose: log the robust accuracy after each attack.
        attacks_to_run: names of AutoAttack's or of plica.methods(), with version="custom" alone; `attacks` is the same.
        version: standard is plica's "auto", then AutoAttack's four attacks with their budgets on images that are not
            broken yet, so that it breaks every image that AutoAttack breaks; plus adds "pwcf" and APGD on the margin;
            rand is for models with random outputs: APGD on the mean of 20 draws, and an image is broken if most of 100
            fresh draws are misclassified; custom runs `attacks_to_run`.
        device: where the model is and images are moved to.
        log_path: a file that the log is also appended to.
        attacks: pyautoattack's name of attacks_to_run.

    Raises:
        ValueError: a norm, version, attack or device that there is not, an eps or seed out of range, attacks with a
            version other than custom, or a log that cannot be written.
        TypeError: attacks_to_run is not a list, or the seed no whole number.
    """

    def __init__(
        self,
        model: Callable[[Tensor], Tensor],
        norm: str = "Linf",
        eps: float = 0.3,
        seed: int | None = None,
        verbose: bool = True,
        attacks_to_run: Sequence[str] | None = None,
        version: str = "standard",
        is_tf_model: bool = False,
        device: str | torch.device | None = None,
        log_path: str | Path | None = None,
        *,
        attacks: Sequence[str] | None = None,
    ):
        given = attacks_to_run or attacks or ()
        if isinstance(given, str) or not isinstance(given, Iterable):
            raise TypeError(f"attacks_to_run must be a list of names, such as ['apgd-ce'], got {shown(given)}.")
        named = tuple(given)
        if not isinstance(norm, str) or norm not in NORMS:
            raise ValueError(f"norm must be one of {', '.join(NORMS)}, got {shown(norm)}.")
        eps = eps.item() if isinstance(eps, Tensor) and eps.ndim == 0 else eps
        if isinstance(eps, bool) or not isinstance(eps, Real) or not 0 <= eps < math.inf:
            raise ValueError(f"eps must be a number from 0, such as 8 / 255, got {shown(eps)}.")
        seed = 0 if seed is None else validation.whole("seed", seed, least=0, most=validation.MOST_SEED)
        if is_tf_model:
            raise ValueError("plica runs PyTorch models only; convert the model, for example by way of ONNX.")
        if version not in (*VERSIONS, "custom"):
            raise ValueError(f"version must be one of {', '.join(VERSIONS)} or custom, got {shown(version)}.")
        if bool(named) != (version == "custom"):
            raise ValueError(f"attacks_to_run goes with version='custom' alone, got {list(named)} and {version!r}.")
        for name in named:
            if not isinstance(name, str) or SYNONYMS.get(name, name) not in methods():
                raise ValueError(f"There is no attack {shown(name)}; known are {', '.join((*SYNONYMS, *methods()))}.")
        if device is not None:
            parse_device(device)
        if log_path is not None:
            try:
                Path(log_path).open("a", encoding="utf-8").close()
            except (OSError, TypeError) as error:
                raise ValueError(
                    f"log_path must be a file that can be written, got {shown(str(log_path))}: {one_line(error)}."
                ) from error
        self.model, self.norm, self.epsilon, self.seed, self.verbose = model, norm, eps, seed, verbose
        self.attacks_to_run = list(named or VERSIONS[version])
        self.version, self.device, self.log_path = version, device, log_path

    def run_standard_evaluation(
        self,
        x_orig: Float[Tensor, "b *image"],
        y_orig: Int64[Tensor, " b"],
        bs: int = 250,
        return_labels: bool = True,
        state_path: None = None,
        *,
        batch_size: int | None = None,
    ) -> Any:
        """The attacks one after the other, each on the images that those before it left standing.

        Args:
            x_orig: images, pixels in [0, 1].
            y_orig: labels.
            bs: searches side by side; `batch_size` is the same. It does not change what plica's own methods find.
            return_labels: whether the labels come too, as from pyautoattack; autoattack's default is False.
            state_path: not supported; `plica evaluate` keeps what is finished.

        Returns:
            x_adv (b, *image), x_orig where no point was found, and the model's classes there (b,).
        """
        if state_path is not None:
            raise ValueError("state_path is not supported; `plica evaluate` goes on where it was interrupted.")
        x_adv, y_adv = self._evaluate(x_orig, y_orig, self.attacks_to_run, batch_size or bs)
        return (x_adv, y_adv) if return_labels else x_adv

    def run_standard_evaluation_individual(
        self,
        x_orig: Float[Tensor, "b *image"],
        y_orig: Int64[Tensor, " b"],
        bs: int = 250,
        return_labels: bool = True,
        *,
        batch_size: int | None = None,
    ) -> dict[str, Any]:
        """Each attack on all images: what run_standard_evaluation returns, by the attack's name."""
        answers = {name: self._evaluate(x_orig, y_orig, [name], batch_size or bs) for name in self.attacks_to_run}
        return {name: both if return_labels else both[0] for name, both in answers.items()}

    def clean_accuracy(self, x_orig: Float[Tensor, "b *image"], y_orig: Int64[Tensor, " b"], bs: int = 250) -> float:
        """The share of the images that the model gets right, run as the attacks run it."""
        x, y = self._inputs(x_orig, y_orig)
        model = CountedModel(fitted(self.model), len(x), validation.whole("bs", bs, least=1), device=x.device)
        with eval_mode(self.model, with_dropout=self.version == "rand"):
            logits = model.logits(x, torch.arange(len(x), device=x.device))
        MISCLASSIFIED.check(logits, y)
        return int((class_logits(logits).argmax(1) == y).sum()) / len(x)

    def _evaluate(self, x_orig: Any, y_orig: Any, names: Sequence[str], size: int) -> tuple[Tensor, Tensor]:
        x, y = self._inputs(x_orig, y_orig)
        x_adv, y_adv = x.clone(), y.clone()
        robust = torch.arange(len(x), device=x.device)
        rand = self.version == "rand"
        budgets = AUTOATTACK_RAND if rand else OTHER_BUDGETS | (AUTOATTACK_L1 if self.norm == "L1" else AUTOATTACK)
        for name in names:
            if not len(robust):
                break
            method = name if rand else SYNONYMS.get(name, name)
            question = MaxLoss(NORMS[self.norm], self.epsilon)
            try:
                result = attack(
                    self.model, x[robust], y[robust], question, method=method, gradients=budgets.get(method, 100),
                    seed=self.seed, batch_size=size, draws=RAND_DRAWS if rand else None,
                )  # fmt: skip
            except Unsupported as error:
                if self.version == "custom" or isinstance(error, ImportError):
                    raise
                self._log(
                    f"{name} is left out: {error}"
                )  # like AutoAttack, which leaves out attacks that need more classes
                continue
            x_adv[robust] = result.x_adv
            y_adv[robust] = result.prediction
            robust = robust[~result.success]
            self._log(f"robust accuracy after {name}: {len(robust) / len(x):.2%}")
        return x_adv.to(x_orig.device), y_adv.to(y_orig.device)

    def _inputs(self, x_orig: Any, y_orig: Any) -> tuple[Tensor, Tensor]:
        """Images and labels on the device; raises TypeError or ValueError where they are none."""
        validation.images(x_orig)
        x, y = self._to(x_orig), self._to(y_orig) if isinstance(y_orig, Tensor) else y_orig
        validation.labels("y_orig", y, x)
        return x, y

    def _to(self, t: Tensor) -> Tensor:
        return t if self.device is None else t.to(self.device)

    def _log(self, text: str) -> None:
        if self.verbose:
            logging.getLogger("plica.compat").info(text)
        if self.log_path is not None:
            with Path(self.log_path).open("a", encoding="utf-8") as file:
                file.write(f"{text}\n")
