"""The audit's own decisions: what it asks for, which answers are rounded to 8 bits, and the parts of a proof."""

import math
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch

from plica.core.model.fitting import unfitted
from plica.runs import Run, Task
from plica.trust.audit import certificates
from plica.trust.audit.audit import Audited, _chunk, _in_8_bits, _metric, _model, _task, context_of
from plica.trust.audit.balls import Ball
from plica.trust.audit.bounds import Enclosure
from plica.trust.audit.certificates import RefusedError, _covers
from plica.trust.audit.images import Images
from plica.trust.audit.layers import Step
from plica.trust.audit.reference import margins
from plica.trust.audit.remeasure import Answers, MeasureContext
from shift import Shift

TASK = Task("m--min-radius-l2--auto", "m", "min-radius l2", "min-radius", "l2", None, None, "auto")
OWN = Task("m--min-radius-own--auto", "m", "min-radius own", "min-radius", "own:d", None, None, "auto")


def test_a_distance_that_is_no_norm_must_be_given():
    distance = lambda x, z: (x - z).flatten(1).norm(dim=1)  # noqa: E731
    assert _metric({}, TASK) == 2.0
    assert _metric({"l2": distance}, TASK) == 2.0
    assert _metric({"own:d": distance}, OWN) is distance
    with pytest.raises(ValueError, match=r"'own:d'.*is not an l_p norm; give it with --metric"):
        _metric({}, OWN)


def test_a_model_must_be_given():
    assert unfitted(_model({"m": abs}, TASK)) is abs
    with pytest.raises(ValueError, match="No model was given for 'm'"):
        _model({"other": abs}, TASK)


def test_the_context_is_that_of_the_task():
    context = context_of({"m": abs}, {}, TASK, (0.0, 1.0), None, (1, 50))
    assert (context.metric, context.at_random, context.by_theta, context.through) == (2.0, False, False, None)
    assert context.goal is margins
    drawn = Task(**{**vars(TASK), "draws": 5, "radius": 0.5, "levels": 256})
    context = context_of({"m": abs}, {}, drawn, (0.0, 1.0), None, (1, 50))
    assert (context.at_random, context.radius, context.levels) == (True, 0.5, 256)


def test_before_anything_is_measured_all_counts_are_0():
    start = Audited(TASK)
    counts = {name: value for name, value in vars(start).items() if name not in ("task", "prices", "differences")}
    assert counts == dict.fromkeys(counts, 0)
    assert start.agrees


def model(z):
    """Class 1 where the mean exceeds 0.6."""
    mean = z.flatten(1).mean(1)
    return torch.stack([torch.full_like(mean, 0.6), mean], 1)


def rounded(x=None, x_adv=None, **more):
    """What is counted of two points: 0.6 and a little, which 8 bits keep, and which they do not."""
    x = torch.full((2, 1, 2, 2), 0.5) if x is None else x
    x_adv = torch.tensor([154.3 / 255, 152.6 / 255]).view(2, 1, 1, 1).expand(2, 1, 2, 2) if x_adv is None else x_adv
    audited = Audited(TASK)
    context = MeasureContext(model, 2.0, None, (0.0, 1.0), (50,))
    context = MeasureContext(**{**vars(context), **more})
    rows = [{"id": i, "success": True, "distance": 0.2} for i in range(len(x))]
    _in_8_bits(audited, Answers(rows, x, np.zeros(len(x), int), x_adv, np.zeros(len(x), int)), context)
    return audited.perturbed, audited.survive, audited.within, len(audited.prices)


def test_points_of_images_with_two_bounds_are_rounded():
    assert rounded() == (2, 1, 1, 2)
    assert rounded(radius=0.1) == (2, 1, 0, 2)


@pytest.mark.parametrize(
    "more",
    [
        {"mask": torch.ones(1, 2, 2, dtype=torch.bool)}, {"at_random": True},
        {"bounds": (torch.zeros(1, 2, 2), 1.0)}, {"bounds": (0.0, torch.ones(1, 2, 2))},
        {"x": torch.full((2, 4), 0.5), "x_adv": torch.full((2, 4), 0.7)},
        {"x": torch.zeros(0, 1, 2, 2), "x_adv": torch.zeros(0, 1, 2, 2)},
    ],
)  # fmt: skip
def test_other_points_are_not(more):
    assert rounded(**more) == (0, 0, 0, 0)


def test_of_points_of_a_perturbation_only_the_class_counts():
    assert rounded(through=Shift()) == (2, 1, 0, 0)


def test_a_count_is_not_of_pixels_that_rounding_alone_changes():
    x = torch.full((1, 1, 2, 2), 0.501)  # no value of 8 bits
    x_adv = x.clone()
    x_adv[0, 0, 0, 0] = 1.0  # the mean is 0.626
    assert rounded(x, x_adv, metric=0.0, radius=1.0) == (1, 1, 1, 1)


class Given(Images):
    def __init__(self, x, y):
        self.given = x, y

    def __call__(self, ids):
        return self.given[0][: len(ids)], self.given[1][: len(ids)]

    def targets(self, task, ids):
        return None


def chunk(rows, ids=(4, 7), y=None, task=TASK, **more):
    """What is counted and named of points 4 and 7."""
    x, audited = torch.full((2, 1, 2, 2), 0.5), Audited(task)
    x_adv = torch.tensor([0.75, 0.625]).view(2, 1, 1, 1).expand(2, 1, 2, 2)[: len(ids)]
    context = MeasureContext(model, 2.0, None, (0.0, 1.0), (50,), **more)
    images = Given(x, torch.zeros(2, dtype=torch.long) if y is None else y)
    _chunk(audited, rows, torch.tensor(ids), x_adv, None, images, context)
    return audited


class Asked(Run):
    """A run without parts that notes the columns it is asked for."""

    def __init__(self):
        self.__dict__.update(asked=[], manifest={})

    def rows(self, task, columns=None):
        self.asked.append(columns)
        return pa.table({"id": pa.array([], pa.int64())})

    def parts(self, task):
        return iter(())


def test_shares_are_read_of_random_models():
    run, context = Asked(), MeasureContext(model, 2.0, None, (0.0, 1.0), (50,))
    images = Given(torch.zeros(0, 1, 2, 2), torch.zeros(0, dtype=torch.long))
    for task in (TASK, Task(**{**vars(TASK), "draws": 5})):
        _task(run, task, context, images, lambda *_: None)
    assert ["share" in columns for columns in run.asked] == [False, True]


def row(number, distance, margin, **more):
    return {
        "id": number,
        "label": 0,
        "prediction": 1,
        "success": True,
        "distance": distance,
        "margin": margin,
        "status": "BUDGET",
    } | more


ROWS = {4: row(4, 0.5, 0.15), 7: row(7, 0.25, 0.025)}


def test_answers_successes_and_what_is_confirmed_are_counted():
    found = chunk(ROWS)
    assert (found.answers, found.successes, found.confirmed, found.perturbed) == (2, 2, 2, 2)
    assert found.agrees
    wrong = chunk({4: ROWS[4], 7: row(7, 0.3, 0.025)})
    assert (wrong.successes, wrong.confirmed, wrong.perturbed) == (2, 1, 1)
    assert set(wrong.differences) == {"distance"}


def test_points_without_a_row_are_named_and_left_out():
    found = chunk({4: ROWS[4]})
    assert found.differences == {"no row": ["image 7 has a point and no row (1 such images)"]}
    assert (found.answers, found.confirmed) == (1, 1)
    none = chunk({})
    assert none.differences == {"no row": ["image 4 has a point and no row (2 such images)"]}
    assert none.answers == 0


def test_values_that_are_no_labels_need_a_goal():
    for y in (torch.zeros(2), torch.zeros(2, 3, dtype=torch.long)):
        with pytest.raises(ValueError, match="are not labels, and it names no goal"):
            chunk(ROWS, y=y)
    goal = Task(**{**vars(TASK), "goal": "own:g"})
    rows = {number: one | {"label": -1} for number, one in ROWS.items()}
    deviation = lambda output, y: output[:, 1] - 0.6 + 0 * y  # noqa: E731
    assert chunk(rows, y=torch.zeros(2), task=goal, goal=deviation, classes=False).confirmed == 2


def test_the_record_of_a_task_counts_what_was_repaired():
    one = Audited(TASK, survive=1, prices=[1.0, 1.5, math.nan, 1.25])
    assert one.price == 1.25
    record = one.record()
    assert (record["repaired"], record["price"]) == (2, 1.25)
    assert "certified" not in record
    assert Audited(TASK, certified=2, proved=1).record()["proved"] == 1
    none = Audited(TASK)
    assert (none.price, none.record()["repaired"]) == (None, 0)
    for number in range(7):
        none.differ("label", f"{number}")
    assert none.record()["differences"] == {"label": {"count": 7, "first": ["0", "1", "2", "3", "4"]}}


A, B, C = (0, 1), (0, 2), (1, 1)  # activation, neuron


@pytest.mark.parametrize(
    ("paths", "whole"),
    [
        ([()], True), ([], False), ([((*A, 1),)], False), ([((*A, 1),), ((*A, -1),)], True),
        ([((*A, 1),), ((*B, -1),)], False), ([((*A, 1), (*B, 1)), ((*A, 1), (*B, -1)), ((*A, -1),)], True),
        ([((*A, 1), (*B, 1)), ((*A, 1), (*C, -1)), ((*A, -1),)], False), ([((*A, 1), (*B, 1)), ((*A, -1),)], False),
        ([((*A, 1),), ((*A, -1), (*C, 1)), ((*A, -1), (*C, -1))], True), ([((*A, 1),), ((1, 1, -1),)], False),
    ],
)  # fmt: skip
def test_parts_make_up_everything_where_both_signs_of_the_same_neuron_do(paths, whole):
    assert _covers(paths) == whole


def network(**values):
    net = object.__new__(Enclosure)
    for name, value in values.items():
        setattr(net, name, value)
    return net


def function(shape, logits, y, rival, target):
    """Of a network whose last step has this shape and this value."""
    last = object.__new__(Step)
    for name, value in {"shape": shape, "op": SimpleNamespace(value=lambda x: logits), "parents": (0,)}.items():
        object.__setattr__(last, name, value)
    first, ball = object.__new__(Step), object.__new__(Ball)
    object.__setattr__(first, "shape", (2,))
    object.__setattr__(ball, "x", torch.zeros(2, dtype=torch.float64))
    return certificates._function(network(steps=(first, last)), ball, y, rival, target).tolist()


@pytest.mark.parametrize(
    ("shape", "logits", "y", "rival", "target", "expected"),
    [
        ((3,), None, 2, 0, None, [[-1.0, 0.0, 1.0]]),
        ((3,), torch.tensor([[0.1, 0.9, 0.5]]), 2, 0, 0, [[-1.0, 1.0, 0.0]]),  # the class there is above the target
        ((1,), None, 0, 1, None, [[-1.0]]),
        ((1,), None, 1, 0, None, [[1.0]]),
    ],
)
def test_the_function_is_the_logit_of_the_class_less_that_of_the_rival(shape, logits, y, rival, target, expected):
    assert function(shape, logits, y, rival, target) == expected


def path(activations=2, **leaf):
    net = network(numbers={3: 0, 5: 1}, taken=[0, 1], low=[torch.zeros(1, 4), torch.zeros(1, 2)])
    given = {"activation": [0, 1], "neuron": [3, 1], "sign": [1, -1], "multiplier": [0.0, 2.5]} | leaf
    return certificates._path(net, given, activations)


def test_splits_name_neurons_that_there_are():
    assert path() == ((0, 3, 1), (1, 1, -1))
    assert path(activation=[], neuron=[], sign=[], multiplier=[]) == ()
    for leaf in (
        {"activation": [0, 2]}, {"activation": [-1, 1]}, {"neuron": [4, 1]}, {"neuron": [3, 2]}, {"neuron": [-1, 1]},
        {"sign": [1, 0]}, {"sign": [2, -1]},
    ):  # fmt: skip
        with pytest.raises(RefusedError, match="a split names neuron"):
            path(**leaf)
    with pytest.raises(RefusedError, match="a split names neuron 1 of activation 1"):  # which comes too late
        path(activations=1)
    for multiplier in ([0.0, -1e-9], [math.nan, 1.0], [math.inf, 1.0]):
        with pytest.raises(RefusedError, match="a multiplier is not a number >= 0"):
            path(multiplier=multiplier)
    for leaf in ({"multiplier": [0.0]}, {"sign": [1]}, {"neuron": [3]}):
        with pytest.raises(RefusedError, match="the splits of a leaf are not whole"):
            path(**leaf)


def test_slopes_are_shares_of_255():
    leaves = [{"slopes": bytes([0, 51, 255])}, {"slopes": bytes([255, 0, 0])}]
    parts = certificates._slopes(leaves, [(1, 2), (1,)])
    assert [part.tolist() for part in parts] == [[[[0.0, 0.2]], [[1.0, 0.0]]], [[1.0], [0.0]]]
    for length in (2, 4):
        with pytest.raises(RefusedError, match="the slopes are not those of this network"):
            certificates._slopes([{"slopes": bytes(length)}], [(1, 2), (1,)])
