"""The search driver on a schedule of its own: who pays, what a short budget cuts, which rows stay."""

from dataclasses import dataclass

import torch

from linear import linear
from plica import Lp, MinRadius
from plica.attacks.base import AttackInput
from plica.attacks.multistart import Candidates, Multistart
from plica.core.goals import Goal
from plica.core.judging.best import BestPoints
from plica.core.model.counted import CountedModel


@dataclass
class State:
    z: torch.Tensor
    size: torch.Tensor
    estimate: torch.Tensor


class Random(Multistart[Candidates]):
    """Rows at random points; the images of `done` are finished."""

    done: tuple[int, ...] = ()

    def rows(self, m):
        index = torch.arange(len(self.images)).repeat(m)
        z = torch.rand(len(index), self.x.shape[1], generator=torch.Generator().manual_seed(m))
        size = (z - self.x[index]).norm(dim=1)
        return Candidates(index, self.targets[index, 0], State(z, size, size.clone()), len(self.images))

    def finished(self, index):
        images = self.images[index]
        return torch.isin(images, torch.tensor(self.done, dtype=torch.long))

    def step(self, rows):
        found = self.evaluate(rows, rows.state.z.view(-1, *self.task.x.shape[1:]), self.task.best.distance, True)
        self.record(rows, found.size, rows.state.size)


def search(gradients, some=(0, 1, 2, 3)):
    case = linear()
    with torch.no_grad():
        logits = case.model(case.x)
    best = BestPoints(Lp(2), case.x, Goal(case.y), None)
    model = CountedModel(case.model, len(case.x))
    task = AttackInput(model, best, case.x, Goal(case.y), logits, MinRadius(Lp(2)), None, gradients,
                0, (0.0, 1.0), 64, lambda done: None)  # fmt: skip
    return Random(task, torch.tensor(some))


def test_a_short_budget_cuts_the_last_rows_and_ends_the_schedule():
    driver, yielded = search(5), []

    def schedule():
        for m in (2, 2, 2, 2):
            yielded.append(m)
            yield driver.rows(m)

    driver.run(schedule())
    assert driver.task.model.gradients[:4].tolist() == [5] * 4
    assert yielded == [2, 2, 2, 2]  # the fourth is found to be too many


def test_an_empty_pool_ends_the_schedule():
    driver = search(100)
    driver.done = (0, 1, 2, 3)
    pool = driver.rows(3)
    driver.run(iter([driver.keep(pool, 2)] * 3))
    assert driver.spent == 0
    assert not len(driver.keep(driver.keep(pool, 2), 1))


def test_the_rows_of_least_estimate_stay_and_answered_images_leave():
    driver = search(100)
    pool = driver.rows(5)
    driver.done = (2,)
    kept = driver.keep(pool, 2)
    assert kept.index.tolist() == [0, 1, 3] * 2
    sizes = pool.state.size.view(5, 4).sort(0).values[:2, [0, 1, 3]]
    assert torch.equal(kept.state.estimate.view(2, 3), sizes)


def test_best_is_the_nearest_misclassified_row():
    driver = search(100)
    pools = [driver.rows(m) for m in (7, 9)]
    driver.run(iter(pools))
    z, index = torch.cat([p.state.z for p in pools]), torch.cat([p.index for p in pools])
    size = torch.cat([p.state.size for p in pools])
    wrong = driver.task.model.model(z.view(-1, *driver.task.x.shape[1:])).argmax(1) != driver.goal.y[index]
    nearest = torch.full((4,), torch.inf).scatter_reduce(0, index, torch.where(wrong, size, torch.inf), "amin")
    assert nearest.isfinite().any()
    assert torch.equal(driver.best, nearest)
    assert torch.equal(driver.best[driver.best.isfinite()], driver.residual[driver.best.isfinite()])
    torch.testing.assert_close(driver.task.best.distance[:4], nearest)
