"""The loop of the reference trainer, which resumes from its last checkpoint, bit for bit.

All random numbers depend only on the seed and the number of the step or epoch, so a checkpoint contains no state of a
generator: the order of images, crops and flips, dropout, and the noise of the inner problem. The final weights
are those of the epoch with the largest mean radius on training images that were held out. A radius beyond the cap, or
the ball, counts as that: otherwise a network that gives nearly all images the same class wins, whose few radii are
huge. For the same reason a question without a cap, and a training without questions, count the accuracy.
"""

from __future__ import annotations

import copy
import io
import math
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from plica.core.domain.bounds import check_bounds
from plica.core.losses import margin
from plica.core.model.eval_mode import eval_mode
from plica.data import open_data
from plica.data.sample import select
from plica.evaluation.run import disk_errors
from plica.goals import check_labels, class_logits
from plica.models import load_model
from plica.models.adapt import Adapted, logits_of
from plica.models.load import parse_device
from plica.training.augment import augmented
from plica.training.checkpoint import LOG, UNDEFENDED, WEIGHTS, read_checkpoint, write_checkpoint, write_weights
from plica.training.hard import Hard, logits
from plica.training.network import Network
from plica.training.overfitting import ALARM, MORE, PROBED, share_gained
from plica.training.plan import TrainingPlan
from plica.utils.files import write_whole
from plica.utils.messages import one_line

ORDER, STEP = 1, 2  # streams of random numbers: of an epoch's order, of a step
QUANTILES = (0.1, 0.5, 0.9)


class DivergedError(RuntimeError):
    """The loss or its gradient is not finite; the message says where the last good weights are."""


@dataclass(frozen=True)
class TrainingProgress:
    """Progress after each step of a training, and of the evaluation at the end, whose steps are a method on up to 128
    images, with a loss of nan. fresh: steps since this call began; seconds: since then."""

    what: str
    step: int
    steps: int
    loss: float
    fresh: int
    seconds: float


@dataclass
class Counts:
    """Sums over an epoch, for the log."""

    steps: int = 0
    images: int = 0
    correct: int = 0
    gradients: int = 0
    not_finite: int = 0
    beyond: int = 0
    loss: float = 0.0
    radii: list[float] = field(default_factory=list)
    picked: list[int] = field(default_factory=list)

    def add(self, loss: float, images: int, hard: Hard | None) -> None:
        self.steps, self.images, self.loss = self.steps + 1, self.images + images, self.loss + loss
        if hard is None:
            return
        radius = hard.radius[hard.correct]
        self.correct += int(hard.correct.sum())
        self.gradients += int(hard.gradients.sum())
        self.not_finite += int(hard.radius.isnan().sum())
        self.beyond += int((hard.radius > hard.cap).sum())
        self.radii += radius[radius.isfinite()].tolist()
        self.picked += hard.picked.tolist()

    def row(self) -> dict[str, float]:
        """Means over the epoch; quantiles of the radii of correctly classified images."""
        per = 1 / self.images if self.picked else math.nan  # a training without questions counts nothing else
        radii = torch.tensor(self.radii or [math.nan], dtype=torch.float64)
        quantiles = radii.quantile(torch.tensor(QUANTILES, dtype=torch.float64)).tolist()
        return {
            "loss": self.loss / max(self.steps, 1),
            "correct": self.correct * per,
            "gradients": self.gradients * per,
            "beyond_cap": self.beyond * per,
            "not_finite": self.not_finite if self.picked else math.nan,
            **{f"radius_{round(100 * q)}": value for q, value in zip(QUANTILES, quantiles, strict=True)},
        }


class Trainer:
    """A training in `directory`, which resumes from its last checkpoint if there is one. what: its name in progress
    messages. say: as for trainer.train."""

    def __init__(self, plan: TrainingPlan, directory: Path, what: str, say: Callable[[str], None]):
        self.plan, self.directory, self.what, self.say = plan, directory, what, say
        state = read_checkpoint(directory)
        if state is not None and state["plan"] != plan.identity():
            former, now = state["plan"], plan.identity()
            different = [key for key in {**now, **former} if former.get(key) != now.get(key)]
            raise ValueError(
                f"{directory} holds a training with another plan ({', '.join(different)}); give another --out."
            )
        source = open_data(plan.data.path, plan.takes_any_pixels, takes_goals=False)
        self.data = source.hash()
        if state is not None and state.get("data", self.data) != self.data:  # older checkpoints do not say
            raise ValueError(
                f"{directory} holds a training on other data: {plan.data.path} has changed; give another --out."
            )
        ids = select(source.labels, plan.data.n, plan.data.indices, plan.data.sample, plan.data.seed)
        if len(ids) <= plan.held_out:
            raise ValueError(
                f"held_out = {plan.held_out} leaves no image to train on; there are {len(ids)}, so give fewer."
            )
        shuffled = ids[torch.randperm(len(ids), generator=_generator(plan.seed, 0, 0))]
        self.held_ids = shuffled[: plan.held_out].sort().values
        self.device = parse_device(plan.device)
        self.held_out = tuple(t.to(self.device) for t in source.read(self.held_ids))
        self.x, self.y = source.read(shuffled[plan.held_out :].sort().values)
        self.batch = min(plan.batch, len(self.x))
        self.per_epoch = len(self.x) // self.batch
        self.steps = plan.epochs * self.per_epoch
        torch.manual_seed(plan.seed)
        model = load_model(plan.model.model, plan.model.weights, plan.device, plan.model.trust)
        if not isinstance(model, nn.Module):
            raise ValueError(f"{plan.model.model} gave a {type(model).__name__}; a torch.nn.Module can be trained.")
        # a layer that is frozen stays as it is; a network that was frozen as a whole was made for evaluation alone
        if not any(p.requires_grad for p in model.parameters()):
            model.requires_grad_(True)
        self.model = model
        check_bounds(plan.bounds, self.x)
        self.check("the training", self.x, self.y)
        self._check_batch()
        self.average = copy.deepcopy(model) if plan.ema else None
        self.inner, self.optimizer = plan.inner(), _optimizer(plan, model)
        self._check_gradient()
        self.step, self.counts, self.rows, self.best, self.alarmed = 0, Counts(), [], -math.inf, False
        self.share_before = 1.0  # share_gained before the training
        if state is not None:
            self._load(state)

    def _check_batch(self) -> None:
        """Says that all images have one label. Raises ValueError where the network cannot be trained on one image."""
        if len(self.y.unique()) == 1 and self.what != UNDEFENDED:  # once is enough
            self.say(f"All images of the training have the label {int(self.y[0])}: a network learns nothing from that.")
        if self.batch > 1:
            return
        try:
            copy.deepcopy(self.model).train()(self.x[:1].to(self.device))
        except ValueError as error:  # a batch normalisation
            seen = f"batches of one image: {one_line(error)}"
            raise ValueError(f"{self.plan.model.model} cannot be trained on {seen}; take a larger batch.") from error

    def _check_gradient(self) -> None:
        """Says that no hard input can be found, if the network is constant around every image."""
        if self.inner is None:
            return
        x, y = (t[: self.batch] for t in self._probed())
        with Network.opened(self.model, x) as network:
            grad = network.gradient(x, lambda logits: margin(logits, y))[2]
        if not bool(grad.any()):
            self.say(
                f"The gradient of {self.plan.model.model} with respect to its input is 0 at all of {len(x)} training "
                "images, as behind a rounding: no hard inputs are found, and the training is an ordinary one."
            )

    def _probed(self) -> tuple[Tensor, Tensor]:
        """The training images by which the inner problem is examined, and their labels."""
        return self.x[:PROBED].to(self.device), self.y[:PROBED].to(self.device)

    def check(self, what: str, x: Float[Tensor, "b *image"], y: Int[Tensor, " n"]) -> None:
        """Raises ValueError if the network cannot be trained on such images, or does not have a class for every label.
        what: whose images and labels these are."""
        name, first = self.plan.model.model, x[:2].to(self.device)
        images = first.clone()
        if not any(True for _ in self.model.parameters()):
            raise ValueError(f"{name} has no parameters to train.")
        try:
            with eval_mode(self.model):
                output = logits_of(self.model(images))
        except Exception as error:  # a model may raise anything
            own = {p.dtype for p in self.model.parameters()} - {torch.float32}
            cure = f" Its parameters are {own.pop()}; train it in torch.float32, as net.float()." if own else ""
            seen = f"images of {what}, {tuple(x.shape[1:])}"
            raise ValueError(f"{name} fails on {seen}: {one_line(error, named=True)}.{cure}") from error
        if not torch.equal(images, first):
            raise ValueError(f"{name} changes its input; let it compute on a copy, as x = x - mean does.")
        if not isinstance(output, Tensor) or not 1 <= output.ndim <= 2:
            seen = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise ValueError(
                f"{name} must return logits of shape (b, classes), got {seen}; let it return them, as by flatten(1)."
            )
        if not bool(output.isfinite().all()):
            raise ValueError(f"{name} gives logits that are not finite for images of {what}; mend it or its weights.")
        if not output.requires_grad:
            raise ValueError(f"The output of {name} has no gradient in its parameters; take no_grad and detach out.")
        check_labels(f"y of {what}", y, class_logits(output)[:1].expand(len(y), -1))

    @property
    def selected(self) -> nn.Module:
        """The network whose weights are stored: the average of the weights if there is one, else the model."""
        return self.average or self.model

    def run(self, on_progress: Callable[[TrainingProgress], None]) -> None:
        """Train to the end.

        Raises:
            DivergedError: the loss is not finite.
            DiskError: the disk is full; the training resumes from the last checkpoint.
        """
        began, first = time.monotonic(), self.step
        order: Tensor | None = None
        if self.inner is not None and self.step == 0:
            self.share_before = share_gained(self.plan, self.model, *self._probed(), 1.0)
        while self.step < self.steps:
            epoch, within = divmod(self.step, self.per_epoch)
            if order is None or within == 0:
                order = torch.randperm(len(self.x), generator=_generator(self.plan.seed, ORDER, epoch))
            rows = order[within * self.batch : (within + 1) * self.batch]
            loss = self._train_step(self.x[rows], self.y[rows])
            self.step += 1
            with disk_errors(self.directory):
                if self.step % self.per_epoch == 0:
                    self._end_epoch()
                if self.step % self.per_epoch == 0 or self.step % self.plan.save_every == 0:
                    write_checkpoint(self.directory, self._state())
            fresh, seconds = self.step - first, time.monotonic() - began
            on_progress(TrainingProgress(self.what, self.step, self.steps, loss, fresh, seconds))

    def kept(self) -> str:
        """A sentence: which epoch's weights are stored, and what was measured of it."""
        best = max(reversed(self.rows), key=lambda row: row["score"])
        measured = []
        for column, inner, limit in self.plan.measures():
            mean = "median radius" if limit is None else f"mean radius (at most {limit:.4g})"
            measured.append(f"{mean} {best[column]:.4g} under {inner.questions[0].question.metric}")
        measured.append(f"accuracy {best['held_out_accuracy']:.1%}")
        images = f"on {len(self.held_ids):,} held-out images"
        return f"{self.what}: epoch {best['epoch']} of {self.plan.epochs} is kept; {images}: {', '.join(measured)}."

    def _train_step(self, x: Float[Tensor, "b *image"], y: Int[Tensor, " b"]) -> float:
        """Take one step of the optimiser; returns the loss."""
        plan, share = self.plan, self.step / self.steps
        torch.manual_seed(_seed(plan.seed, STEP, self.step))  # of dropout
        if plan.augment and x.ndim == 4:
            x = augmented(x, _generator(plan.seed, STEP, self.step), plan.bounds[0])
        x, y = x.to(self.device), y.to(self.device)
        for group in self.optimizer.param_groups:
            group["lr"] = plan.optimizer.rate * (1 + math.cos(math.pi * share)) / 2
        half = torch.autocast(self.device.type, torch.bfloat16) if plan.precision == "bf16" else nullcontext()
        self.model.train()
        with half:
            hard = None
            if self.inner is not None:
                self.inner.scale = min(1.0, (self.step + 1) / (plan.warmup * self.steps)) if plan.warmup else 1.0
                hard = self.inner(self.model, x, y)
                loss = hard.loss(self.model, plan.outer, plan.weight)
            else:
                loss = cross_entropy(logits(self.model, x), y)
        self.optimizer.zero_grad()
        loss.backward()
        grads = [p.grad for p in self.model.parameters() if p.grad is not None]
        value = float(loss.detach())
        if not math.isfinite(value) or not all(bool(grad.isfinite().all()) for grad in grads):
            raise DivergedError(self._diverged())
        self.optimizer.step()
        if self.average is not None:
            _move_average(self.average, self.model, plan.ema)
        self.counts.add(value, len(x), hard)
        return value

    def _diverged(self) -> str:
        weights = self.directory / WEIGHTS
        best = f"the best weights so far are in {weights}" if weights.is_file() else "no epoch was finished before"
        where = f"The loss is not finite at step {self.step} of {self.steps}"
        return f"{where}; {best}. Take a smaller lr, or a longer warmup."

    def _end_epoch(self) -> None:
        """Measure the held-out images, log, and keep the weights if they are the best so far."""
        parts = list(zip(*(t.split(self.plan.batch) for t in self.held_out), strict=True))  # as much memory as a step
        scores, row = [], self.counts.row()
        for column, inner, limit in self.plan.measures():
            hard = [inner(self.selected, x, y) for x, y in parts]
            radius = torch.cat([part.radius for part in hard]).double().nan_to_num(0.0)
            typical = float(radius.median() if limit is None else radius.clamp(max=limit).mean())
            row[column] = typical
            row["held_out_accuracy"] = float(torch.cat([part.correct for part in hard]).double().mean())
            scores.append(row["held_out_accuracy"] if limit is None else typical / limit)
        for index, question in enumerate(self.plan.questions):
            row[f"share_{index}_{question.metric}"] = self.counts.picked.count(index) / max(self.counts.images, 1)
        if self.inner is not None:
            row["share_gained"] = share_gained(self.plan, self.model, *self._probed(), self.inner.scale)
            low = ALARM * min(1.0, self.share_before)
            if row["share_gained"] < low and self.inner.scale == 1 and not self.alarmed:
                self.alarmed = True
                self.say(
                    f"Catastrophic overfitting: on training images {self.plan.gradients} gradients are "
                    f"{row['share_gained']:.0%} as effective as {MORE * self.plan.gradients}; the network is robust to "
                    "the former alone. Take more gradients, or a smaller radius or cap."
                )
        score = sum(scores) / len(scores)
        if score >= self.best:  # of equals the last, which has been trained for longer
            self.best = score
            write_weights(self.directory, weights_of(self.selected))
        epoch = self.step // self.per_epoch
        self.rows.append({"epoch": epoch, "step": self.step, "score": score, "alarm": self.alarmed, **row})
        self.counts = Counts()
        stream = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(self.rows), stream)
        write_whole(self.directory / LOG, stream.getvalue())

    def _state(self) -> dict[str, Any]:
        return {
            "plan": self.plan.identity(),
            "data": self.data,
            "step": self.step,
            "model": self.model.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "inner": None if self.inner is None else self.inner.state_dict(),
            "counts": vars(self.counts),
            "rows": self.rows,
            "best": self.best,
            "alarmed": self.alarmed,
            "share_before": self.share_before,
        }

    def _load(self, state: Mapping[str, Any]) -> None:
        try:
            self.model.load_state_dict(state["model"])
        except RuntimeError as error:
            raise ValueError(
                f"{self.directory} holds a training of another network than {self.plan.model.model} is now; give "
                "another --out."
            ) from error
        try:
            self.optimizer.load_state_dict(state["optimizer"])
            if self.average is not None:
                self.average.load_state_dict(state["average"])
            if self.inner is not None:
                self.inner.load_state_dict(state["inner"])
            self.step, self.rows, self.counts = state["step"], state["rows"], Counts(**state["counts"])
            self.best, self.alarmed = state["best"], state["alarmed"]
            self.share_before = state.get("share_before", 1.0)  # older checkpoints do not say
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{self.directory} holds a training of another version of plica; finish it with that, or give another "
                "--out."
            ) from error


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """The state dict as `--weights` takes it: of the network inside a normalisation."""
    return (model.net if isinstance(model, Adapted) else model).state_dict()


def _optimizer(plan: TrainingPlan, model: nn.Module) -> torch.optim.Optimizer:
    options = plan.optimizer
    if options.name == "adamw":
        return torch.optim.AdamW(model.parameters(), options.rate, weight_decay=options.weight_decay)
    momentum, decay = options.momentum, options.weight_decay
    return torch.optim.SGD(model.parameters(), options.rate, momentum, weight_decay=decay, nesterov=momentum > 0)


@torch.no_grad()
def _move_average(average: nn.Module, model: nn.Module, decay: float) -> None:
    for old, new in zip(average.parameters(), model.parameters(), strict=True):
        old.lerp_(new, 1 - decay)
    for old, new in zip(average.buffers(), model.buffers(), strict=True):
        old.copy_(new)


def _seed(seed: int, stream: int, number: int) -> int:
    return ((seed * 1_000_003 + stream) * 1_000_003 + number) % 2**63


def _generator(seed: int, stream: int, number: int) -> torch.Generator:
    return torch.Generator().manual_seed(_seed(seed, stream, number))
