"""What a worker makes of the images of a chunk: batch sizes, halves, notes and columns, with an attack that fails where
a test wants it to."""

import math
from dataclasses import replace

import pytest
import torch

from plica import MinRadius, Status
from plica.attacks.external.common import Peer
from plica.certify.certificate import Certificate, CertificateStatus, Evidence
from plica.core.domain.bounds import Bounds
from plica.evaluation import worker as module
from plica.evaluation.model_cache import ModelCache
from plica.evaluation.plan import Certify, Model
from plica.evaluation.tasks import Job
from plica.evaluation.worker import AllFailedError, Work, Worker, _nowhere_finite, no_part
from plica.runs import Task

SPEC, OTHER = Model(model="net.py:make", name="m"), Model(model="net.py:other", name="o")
TASK = Task("m--min-radius-l2--auto", "m", "min-radius l2", "min-radius", "l2", None, None, "auto")
BOX = Bounds(torch.tensor(0.0).double(), torch.tensor(1.0).double())


def logits(z):
    """Finite for images below a value of 5."""
    return torch.where(z[:, :1] < 5, z[:, :2], math.nan)


class Loaded(ModelCache):
    """Notes what is asked of it."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def load(self, spec, device):
        self.asked.append((spec, device))
        return logits


def work(number, job=None, upper=None, x=None):
    x = torch.arange(number).float()[:, None].expand(number, 2).clone() / 8 if x is None else x
    return Work(job or Job(TASK, SPEC, "auto", 10, 3), 4, 10 + torch.arange(number), x, torch.arange(number) % 2, upper)


def workers(batch_size=None):
    return Worker("cpu", BOX, batch_size, None, Loaded())


def attacks(monkeypatch, fails=lambda x, size: None, status=Status.BUDGET, theta=None):
    """Every image is moved by 1; returns the calls: batch sizes, numbers of images, whether progress is reported."""
    asked = []

    def attack(model, x, y, question, *, batch_size, on_progress, **more):
        asked.append((batch_size, len(x), on_progress is not None))
        error = fails(x, batch_size)
        if error is not None:
            raise error
        result = module._nothing(Work(work(1).job, 4, torch.arange(len(x)), x, y), status)
        result.success[:] = True
        result.distance[:] = x[:, 0].double()
        object.__setattr__(result, "x_adv", x + 1)
        object.__setattr__(result, "theta", theta and x[:, :1] + theta)
        return result

    monkeypatch.setattr(module, "attack", attack)
    monkeypatch.setattr(module, "free_memory", lambda: None)
    return asked


def test_a_part_has_the_rows_the_points_and_the_constant_columns(monkeypatch):
    asked = attacks(monkeypatch)
    part = workers(7).answer(work(4))
    assert asked == [(7, 4, False)]
    assert part.samples["id"].to_pylist() == [10, 11, 12, 13]
    assert part.samples["status"].to_pylist() == ["BUDGET"] * 4
    assert part.samples["metric"].to_pylist() == ["l2"] * 4
    assert "lower" not in part.samples.column_names
    assert "target_class" not in part.samples.column_names
    assert part.ids.tolist() == [10, 11, 12, 13]
    assert torch.equal(part.x_adv, work(4).x + 1)
    assert (part.theta, part.notes, part.leaves) == (None, [], None)


def test_a_question_is_asked_for_inputs_of_the_shape(monkeypatch):
    shapes, question = [], Job.question
    monkeypatch.setattr(Job, "question", lambda job, box, shape: (shapes.append(shape), question(job, box, shape))[1])
    attacks(monkeypatch)
    workers().answer(work(3, CERTIFYING))
    assert len(shapes) > 1  # of the attack, and of the bounds, whose search fails here and is tried in halves
    assert set(shapes) == {(2,)}


def test_theta_of_points_that_moved_is_kept(monkeypatch):
    attacks(monkeypatch, theta=0.25)
    assert workers().answer(work(2)).theta.tolist() == [[0.25], [0.375]]


def test_an_attack_without_gradients_is_noted(monkeypatch):
    attacks(monkeypatch, status=Status.BLACK_BOX)
    note = f"{TASK.name}, chunk 4: attacked with forward runs only, as the model has no gradient"
    assert workers().answer(work(2)).notes == [note]


def test_a_batch_that_does_not_fit_is_halved_and_its_size_kept_for_the_model(monkeypatch):
    freed, memory = [], torch.cuda.OutOfMemoryError("CUDA out of memory")
    asked = attacks(monkeypatch, lambda x, size: memory if size is None or size > 3 else None)
    monkeypatch.setattr(module, "free_memory", lambda: freed.append(1))
    own = workers()
    part = own.answer(work(12))
    assert [size for size, *_ in asked] == [None, 6, 3]
    assert len(freed) == 2
    assert part.notes == [f"{TASK.name}, chunk 4: out of memory, batch size {size} from here" for size in (6, 3)]
    assert own.fitting_size == 3
    own.model(SPEC)
    assert own.fitting_size == 3
    own.model(OTHER)
    assert own.fitting_size is None
    assert own.models.asked == [(SPEC, "cpu"), (SPEC, "cpu"), (OTHER, "cpu")]
    monkeypatch.setattr(module, "default_batch_size", lambda x, device: 10)
    asked.clear()
    own.answer(work(12))
    assert [size for size, *_ in asked] == [None, 5, 2]  # half of the size by default, then of that
    asked.clear()
    workers(9).answer(work(4))
    assert [size for size, *_ in asked] == [9, 2]  # half of the images, which are fewer


def test_where_one_image_does_not_fit_it_has_failed(monkeypatch):
    asked = attacks(monkeypatch, lambda x, size: torch.cuda.OutOfMemoryError("CUDA out of memory"))
    part = workers(2).answer(work(1))
    assert [size for size, *_ in asked] == [2]
    assert part.samples["status"].to_pylist() == ["FAILED"]


def test_a_public_attack_has_no_batch_size(monkeypatch):
    asked = attacks(monkeypatch)
    monkeypatch.setattr(module, "ATTACKS", {"auto": object.__new__(Peer)})
    workers(7).answer(work(3))
    assert asked[0][0] is None


def test_an_attack_that_fails_is_asked_for_halves_down_to_the_image(monkeypatch):
    asked = attacks(monkeypatch, lambda x, size: ValueError("singular") if bool((x == 0.25).any()) else None)
    part = workers(7).answer(work(5), lambda progress: None)
    assert asked == [(7, 5, True), (7, 2, False), (7, 3, False), (7, 1, False), (7, 2, False)]
    assert part.samples["id"].to_pylist() == [10, 11, 12, 13, 14]
    assert part.samples["status"].to_pylist() == ["BUDGET", "BUDGET", "FAILED", "BUDGET", "BUDGET"]
    assert part.ids.tolist() == [10, 11, 13, 14]
    assert torch.equal(part.x_adv, work(5).x[[0, 1, 3, 4]] + 1)
    assert part.notes == [f"{TASK.name}, image 12: ValueError: singular"]
    assert (part.theta, part.leaves) == (None, None)
    failed = part.samples.filter([False, False, True, False, False]).to_pylist()[0]
    assert (failed["success"], failed["distance"], failed["prediction"]) == (False, math.inf, -1)
    assert math.isnan(failed["margin"])


def test_halves_keep_theta(monkeypatch):
    attacks(monkeypatch, lambda x, size: ValueError("no") if len(x) > 2 else None, theta=0.25)
    assert workers().answer(work(4)).theta.tolist() == [[0.25], [0.375], [0.5], [0.625]]


def test_of_notes_before_and_in_halves_none_is_lost(monkeypatch):
    def fails(x, size):
        return torch.cuda.OutOfMemoryError("CUDA out of memory") if size is None else ValueError("singular")

    attacks(monkeypatch, fails)
    part = workers().answer(work(2))
    assert part.notes == [
        f"{TASK.name}, chunk 4: out of memory, batch size 1 from here",
        f"{TASK.name}, image 10: ValueError: singular", f"{TASK.name}, image 11: ValueError: singular",
    ]  # fmt: skip


def test_three_images_may_fail_and_four_are_the_method_s_fault(monkeypatch):
    attacks(monkeypatch, lambda x, size: ValueError("singular"))
    assert workers().answer(work(3)).samples["status"].to_pylist() == ["FAILED"] * 3
    with pytest.raises(AllFailedError, match="image 13: ValueError: singular"):
        workers().answer(work(4))
    attacks(monkeypatch, lambda x, size: ValueError("singular") if bool((x < 0.5).any()) else None)
    assert workers().answer(work(5)).samples["status"].to_pylist() == ["FAILED"] * 4 + ["BUDGET"]


def test_images_of_which_no_logits_are_finite_have_not_failed(monkeypatch):
    attacks(monkeypatch, lambda x, size: ValueError("not finite"))
    part = workers().answer(work(2, x=torch.full((2, 2), 7.0)))
    assert part.samples["status"].to_pylist() == ["NOT_FINITE"] * 2
    assert part.notes == []


def test_logits_are_nowhere_finite_if_each_image_has_one_that_is_not():
    def model(z):
        return torch.stack([z[:, 0], z[:, 0] * 0], 1).unsqueeze(1)  # of two axes

    for pixels, nowhere in (([math.nan, math.inf], True), ([math.nan, 1.0], False), ([1.0, 2.0], False)):
        x = torch.tensor(pixels)[:, None].expand(2, 2)
        assert _nowhere_finite(model, work(2, x=x)) == nowhere
    assert not _nowhere_finite(lambda z: 1 / 0, work(2))


CERTIFYING = Job(TASK, SPEC, "auto", 10, 3, certify=Certify(seconds=2.0, arithmetic="executed"))


def test_lower_bounds_are_closed_up_to_a_thousandth_of_the_least_distance_known(monkeypatch):
    attacks(monkeypatch)
    evidence = Evidence(torch.zeros(2, dtype=torch.uint8), ())
    given = []

    def certified(model, x, y, question, result, *, upper, batch_size, **more):
        given.append((upper.tolist(), batch_size, more["seconds"], isinstance(question, MinRadius)))
        certificate, proofs = object.__new__(Certificate), [None] + [evidence] * 3
        radius = torch.tensor([0.0, 0.125, 0.2, 0.3746])
        arithmetic, status = ["real", *["executed"] * 3], [CertificateStatus.EFFORT] * 4
        columns = {"radius": radius, "evidence": proofs, "arithmetic": arithmetic, "status": status}
        for name, value in columns.items():
            object.__setattr__(certificate, name, value[: len(x)])
        return result, certificate

    monkeypatch.setattr(module, "certified", certified)
    known = torch.tensor([0.0, math.inf, 0.2001, 1.0])
    part = workers(7).answer(work(4, CERTIFYING, known))
    assert given == [(pytest.approx(known.tolist()), 7, 2.0, True)]
    assert part.samples["lower"].to_pylist() == pytest.approx([0.0, 0.125, 0.2, 0.3746])
    assert part.samples["closed"].to_pylist() == [True, True, True, False]  # gaps of 0, 0, 5e-4, 1.1e-3
    assert part.samples["arithmetic"].to_pylist() == ["real", *["executed"] * 3]
    assert part.leaves["id"].to_pylist() == [11, 12, 13]
    workers().answer(work(2, CERTIFYING))
    assert given[1][0] == [math.inf, math.inf]


def test_without_lower_bounds_they_are_0_and_a_note_says_why(monkeypatch):
    attacks(monkeypatch)
    monkeypatch.setattr(module, "certified", lambda *_, **__: 1 / 0)
    part = workers().answer(work(2, CERTIFYING))
    note = f"{TASK.name}, images 10, 11: no lower bounds (ZeroDivisionError: division by zero)"
    assert part.notes == [note]
    assert part.samples["lower"].to_pylist() == [0, 0]
    assert part.samples["arithmetic"].to_pylist() == ["executed"] * 2
    assert part.leaves.num_rows == 0
    attacks(monkeypatch, lambda x, size: ValueError("no"))
    part = workers().answer(work(2, CERTIFYING, torch.ones(2)))  # in halves
    assert part.samples["lower"].to_pylist() == [0, 0]
    assert part.leaves.num_rows == 0


def test_targets_of_rows_are_a_column(monkeypatch):
    attacks(monkeypatch)
    job = Job(TASK, SPEC, "auto", 10, 3, targets_of_rows=torch.arange(20) % 7)
    part = workers().answer(work(3, job))
    assert part.samples["target_class"].to_pylist() == [3, 4, 5]
    assert part.samples["metric"].to_pylist() == ["l2"] * 3


def test_no_images_are_a_part_of_no_rows():
    part = no_part(work(0))
    assert (part.samples.num_rows, len(part.ids), part.theta, part.notes) == (0, 0, None, [])
    flow = replace(TASK, through="flow")
    part = no_part(work(0, Job(flow, SPEC, "auto", 10, 3), x=torch.zeros(0, 1, 12, 12)))
    assert part.theta.shape == (0, 2 * 12 * 12)


def test_threads_are_set_where_they_are_given(monkeypatch):
    given = []
    monkeypatch.setattr(torch, "set_num_threads", given.append)
    Worker("cpu", BOX, None, None)
    assert given == []
    own = Worker("cpu", BOX, 5, 3)
    assert given == [3]
    assert own.fitting_size == 5
    assert isinstance(own.models, ModelCache)
