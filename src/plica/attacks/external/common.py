"""Shared by all adapters: the model as a public attack calls it, and the checks before the attack runs.

A public attack works on pixels in [0, 1], calls the model in its own way and returns points. `Watched` counts every
call for the images that it is made for, and offers every evaluated point to the best points, so that none is lost.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from plica.attacks.base import AttackInput, AttackOutput, refuse_counts, unmeasured
from plica.attacks.projections import safely_inside
from plica.core.goals import finite
from plica.core.judging.best import BestPoints
from plica.core.model.gradient import gradient_errors, input_gradient
from plica.goals import class_logits
from plica.metrics import Unsupported, counts, differentiable_value, plain_p
from plica.perturbations.base import interpolate
from plica.solver.rows import pick
from plica.utils import optional


class MissingPackageError(Unsupported, ImportError):
    """The package of the method is not installed; the message says how to install it."""


AIM = 4.0  # margin aimed at by an enlarged perturbation, over the smallest one that counts
LEAST, MOST = 1e-6, 1e-2  # by which share a perturbation is enlarged
TRIES, GROW = 3, 4.0  # enlarged points of one image, and the growth of that share from try to try
NORMS = {1.0: "l1", 2.0: "l2", math.inf: "linf"}


class Watched(nn.Module):
    """The model on some images of a task, with pixels rescaled to [0, 1].

    A forward run counts as a forward run until a gradient is taken through it; each backward pass then counts as a
    gradient. Attacks may drop images without saying which: if a call has fewer rows than there are images, each row
    belongs to the nearest image.

    Attributes:
        u: the images, rescaled.  (i, *image)
        y, targets: their labels and target classes.  (i,)
        radius: of each image in units of u; None for MinRadius.  (i,)
        default_dtype: torch's default dtype while the model runs.
        doubtful: the nearest point of each image at which rounding decides the class; None before the first one.
    """

    def __init__(self, task: AttackInput, images: Int[Tensor, " i"], default_dtype: torch.dtype = torch.float32):
        super().__init__()
        self.task, self.images, self.default_dtype = task, images, default_dtype
        self.low, self.span = task.bounds[0], task.bounds[1] - task.bounds[0]
        self.u = self._unit(task.x[images]).float()  # some packages know no other precision
        self.y, self.classes = task.y[images], class_logits(task.logits).shape[1]
        self.targets = None if task.targets is None else task.targets[images]
        inner = None if task.radius is None else safely_inside(task.radius, task.x.float(), task.bounds) / self.span
        self.radius = None if inner is None else inner[images]
        self.doubtful: BestPoints | None = None
        self.eval()

    def forward(self, u: Float[Tensor, "r *image"]) -> Float[Tensor, "r classes"]:
        image = self._images(u.detach())
        z = self.task.model.on_grid(self._pixels(u.to(self.task.x.dtype)), image)
        self.task.model.charge_forwards(image)
        with _default_dtype(self.default_dtype):
            logits = self.task.model.model(z.clone()).to(z.dtype)  # models may write to their input
        self._offer(u.detach(), z.detach(), image, logits.detach())
        if logits.requires_grad:
            self._count_gradients(logits, image)
        return class_logits(logits).float()

    def each(self) -> Iterator[Watched]:
        """A `Watched` for each image alone, so that a result depends on its image only."""
        for image in self.images.split(1):
            yield Watched(self.task, image)
            self.task.progress(int(image) + 1)

    @property
    def spent(self) -> int:
        """The largest number of forward runs of an image."""
        return int(self.task.model.forwards[self.images].max())

    @property
    def reached(self) -> Float[Tensor, " i"]:
        """The distance of the best point of each image, in the metric's units; inf where there is none."""
        return self.task.best.distance[self.images]

    def check_gradient(self) -> None:
        """Raises NoGradientError if the model has no gradient. The packages' own errors differ; some are assertions."""
        with torch.enable_grad(), gradient_errors():
            z = self.task.x[self.images[:1]].clone().requires_grad_(True)
            input_gradient(self.task.model.model(z.clone()).sum(), z)

    def _count_gradients(self, logits: Tensor, image: Tensor) -> None:
        alone = torch.ones_like(image, dtype=torch.bool)  # rows whose run has been counted as a forward run

        def came_back(grad: Tensor) -> None:
            rows = (grad.detach() != 0).flatten(1).any(1)
            self.task.model.gradients.index_add_(0, image, rows.long())
            self.task.model.forwards.index_add_(0, image, -(rows & alone).long())
            alone.logical_and_(~rows)

        logits.register_hook(came_back)

    def _offer(self, u: Tensor, z: Tensor, image: Tensor, logits: Tensor) -> None:
        """Offer the points inside the box that would be kept. For MinRadius, also keep the nearest point of each image
        at which rounding decides the class, for `enlarge`."""
        best, model = self.task.best, self.task.model
        rows = self._inside(best.promising(logits, image), u, logits)
        if len(rows):
            best.offer(pick(z, rows), image[rows], pick(logits, rows))
        if self.task.radius is None and model.grid is None:
            margin = self.task.goal[image].margin(logits)
            doubtful = (margin.abs() <= model.least_margin(logits, image)) & best.distance[image].isinf()
            rows = self._inside(doubtful.nonzero()[:, 0], u, logits)
            if len(rows):
                if self.doubtful is None:
                    self.doubtful = BestPoints(best.metric, best.x, self.task.goal, None)
                sure = torch.ones_like(rows, dtype=torch.bool)
                self.doubtful.keep(pick(z, rows), image[rows], margin[rows], sure)

    @staticmethod
    def _inside(rows: Tensor, u: Tensor, logits: Tensor) -> Tensor:
        """Those of the rows whose point is in the box and has finite logits."""
        if not len(rows):
            return rows
        flat = pick(u, rows).flatten(1)
        return rows[(flat.amin(1) >= 0) & (flat.amax(1) <= 1) & finite(pick(logits, rows))]

    @torch.no_grad()
    def enlarge(self) -> None:
        """For each image without a point, offer its nearest one at which rounding decides the class, its perturbation
        enlarged until the margin counts: attacks that end on the boundary have found it all the same."""
        if self.doubtful is None:
            return
        task, near = self.task, self.doubtful
        rows = self.images[near.distance[self.images].isfinite()]
        x, z, clean = task.x[rows], near.x_adv[rows], task.goal[rows].margin(task.logits[rows])
        m, least = near.margin[rows], task.model.least_margin(task.logits[rows], rows)
        more = (AIM * least - m) / (m - clean).clamp(min=1e-30)
        for _ in range(TRIES):
            some = task.best.distance[rows].isinf().nonzero()[:, 0]
            if not len(some):
                return
            share = 1 + more[some].clamp(LEAST, MOST)
            _, larger = interpolate(None, x[some], z[some], share, task.bounds)
            task.best.offer(larger, rows[some], task.model.logits(larger, rows[some]))
            more = GROW * more.clamp(LEAST, MOST)

    def distance(self, u: Tensor, other: Tensor) -> Float[Tensor, " r"]:
        """The question's distance between images rescaled to [0, 1]."""
        x, x_adv = (self._pixels(t.to(self.task.x.dtype)) for t in (u, other))
        return differentiable_value(self.task.question.metric, x, x_adv).float()

    def _images(self, u: Tensor) -> Int[Tensor, " r"]:
        if len(u) == len(self.u):
            return self.images
        return self.images[torch.cdist(u.flatten(1).float(), self.u.flatten(1)).argmin(1)]

    def _unit(self, x: Tensor) -> Tensor:
        return x.clone() if (self.low, self.span) == (0, 1) else ((x - self.low) / self.span).clamp(0, 1)

    def _pixels(self, u: Tensor) -> Tensor:
        return u if (self.low, self.span) == (0, 1) else (self.low + self.span * u).clamp(*self.task.bounds)


@dataclass(frozen=True)
class Peer:
    """A public attack as a method of `plica.attack`.

    Attributes:
        name: of the method.
        package: the package that must be installed.
        run: called with the images as a `Watched`, the norm p, the gradients and the seed; images of one call share
            one radius.
        norms: the p of the l_p norms that the attack supports.
        targeted: whether it can aim at a class.
        ball: whether it needs a radius, and so answers MaxLoss only.
        any_metric: whether it takes every metric, not only norms.
        black_box: whether it uses forward runs only.
    """

    name: str
    package: str
    run: Callable[[Watched, float, int, int], object]
    norms: tuple[float, ...] = (1.0, 2.0, math.inf)
    targeted: bool = True
    ball: bool = False
    any_metric: bool = False
    black_box: bool = False

    def __call__(self, task: AttackInput) -> AttackOutput:
        """Run the attack. Raises Unsupported for a metric, target or question that it does not support, and if its
        package is not installed."""
        if not task.goal.has_classes:
            raise Unsupported(
                f'{self.name} knows classes and no other goal; use "auto", "pwcf", "radius", "curved", "pgd" or "lpa".'
            )
        norm = self._norm(task)
        default_dtype = torch.get_default_dtype()
        packages = _default_dtype(torch.float32)  # that of the constants that packages create
        with _frozen(task.model.model), torch.random.fork_rng(), warnings.catch_warnings(), packages:
            warnings.simplefilter("ignore")  # of packages, about themselves
            self._check_package()
            for images in self._groups(task):
                watched = Watched(task, images, default_dtype)
                try:
                    self.run(watched, norm, task.gradients, task.seed)
                except (RuntimeError, NotImplementedError, TypeError, AssertionError):
                    if not self.black_box:
                        watched.check_gradient()
                    raise
                watched.enlarge()
                task.progress(int(images[-1]) + 1)
        return unmeasured(task)

    def _norm(self, task: AttackInput) -> float:
        metric = task.question.metric
        if not all(map(math.isfinite, task.bounds)):
            raise Unsupported(
                f"{self.name} rescales inputs to [0, 1] and needs finite bounds, got {task.bounds}; pass "
                'bounds=(low, high), or use "auto", which needs a gradient instead.'
            )
        if self.any_metric and self.black_box and counts(metric) is not None:
            raise Unsupported(
                f"{self.name} changes every entry, and {metric} counts the changed ones: use method='auto', which "
                "needs a gradient."
            )
        if self.any_metric:
            refuse_counts(self.name, task.question)
        p = plain_p(metric)
        if not self.any_metric and p not in self.norms:
            forms = ", ".join(NORMS[p] for p in self.norms)
            raise Unsupported(f'{self.name} treats {forms}; {metric} it does not. Use method="auto", which does.')
        if self.ball and task.radius is None:
            raise Unsupported(
                f"{self.name} searches a ball of given radius and answers MaxLoss; "
                f'for MinRadius use method="auto" or "fab-t".'
            )
        if task.targets is not None and not self.targeted:
            raise Unsupported(f'{self.name} cannot aim at a class; use method="auto", "pgd" or "fmn".')
        return math.nan if p is None else p

    def _groups(self, task: AttackInput) -> Iterator[Tensor]:
        """Batches of images that share one radius, since a public attack takes a single number."""
        every = torch.arange(len(task.x), device=task.x.device)
        values = [every] if task.radius is None else [every[task.radius == r] for r in task.radius.unique()]
        for images in values:
            yield from images.split(max(1, task.batch_size))

    def _check_package(self) -> None:
        try:
            optional.require(self.package, f'method="{self.name}"')
        except optional.MissingPackageError as error:
            raise MissingPackageError(str(error)) from error


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def _frozen(model: object) -> Iterator[None]:
    """Within the context parameters require no gradient, since attacks that call backward() would accumulate it."""
    parameters = [w for w in model.parameters() if w.requires_grad] if isinstance(model, nn.Module) else []
    if any(w.is_inference() for w in parameters):  # which cannot be changed, and have no gradients
        with torch.no_grad():
            yield
        return
    for w in parameters:
        w.requires_grad_(False)
    try:
        yield
    finally:
        for w in parameters:
            w.requires_grad_(True)
