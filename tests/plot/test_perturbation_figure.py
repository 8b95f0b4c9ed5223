"""The picture shows the right images, says what they were taken for, and draws zero as white and signs as colours."""

import math

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.image import imread

import plica
from plica.core.result import Result
from plica.plot import perturbations
from plica.plot.perturbations import draw_perturbations

STATUS = next(iter(plica.Status))


def result(x_adv, distance):
    distance = torch.tensor(distance, dtype=torch.float64)
    zeros, b = torch.zeros(len(distance), dtype=torch.float64), len(distance)
    return Result(
        x_adv=x_adv, success=distance.isfinite(), distance=distance, violation=zeros, stationarity=zeros,
        gradients=zeros.long(), forwards=zeros.long(), status=[STATUS] * b, margin=zeros,
        prediction=torch.ones(b, dtype=torch.int64), seconds=zeros,
    )  # fmt: skip


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were saved, as objects."""
    seen = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: seen.append(figure))
    return seen


def titles(figure):
    return [axes.get_title() for axes in figure.axes if axes.get_title()]


def test_each_image_with_its_class_what_it_was_taken_for_and_its_distance(drawn):
    x = torch.full((3, 1, 4, 4), 0.5)
    draw_perturbations("a.png", x, torch.tensor([0, 2, 0]), {"l2": result(x + 0.25, [0.5, 0.125, math.inf])}, "abc")
    assert titles(drawn[0]) == [
        "c", "a",  # the most fragile first; the third has no perturbation to show
        "b", "0.125 (\u00d74)", "b", "0.5 (\u00d74)",
        "l2: magnitudes over 2 images",
    ]  # fmt: skip


def test_eight_images_are_spread_evenly_over_the_distances(drawn):
    x = torch.zeros(50, 1, 2, 2)
    distance = [float(value) for value in np.random.default_rng(0).permutation(50) + 1]
    draw_perturbations("a.png", x, torch.zeros(50, dtype=torch.int64), {"l2": result(x + 1, distance)})
    shown = [int(title.split()[0]) for title in titles(drawn[0]) if "\u00d7" in title]
    assert shown == [1, 8, 15, 22, 29, 36, 43, 50]


def test_only_images_that_every_norm_has_an_answer_for(drawn):
    x = torch.zeros(3, 1, 2, 2)
    answers = {"l1": result(x + 1, [1.0, 2.0, math.inf]), "l2": result(x + 1, [0.0, 3.0, 4.0])}
    draw_perturbations("a.png", x, torch.tensor([0, 1, 2]), answers)
    assert [title for title in titles(drawn[0]) if "\u00d7" in title] == ["2 (\u00d71)", "3 (\u00d71)"]


def test_zero_is_white_and_signs_have_colours():
    assert perturbations.SIGNED(0.5) == (1, 1, 1, 1)
    red, _, blue, _ = perturbations.SIGNED(0.9)
    assert red > 2 * blue
    red, _, blue, _ = perturbations.SIGNED(0.1)
    assert blue > 2 * red


def test_the_colour_that_changed_most_is_shown_with_its_sign():
    delta = torch.tensor([0.1, -0.3, 0.2]).view(3, 1, 1)
    assert perturbations.signed(delta) == pytest.approx(np.array([[-0.3]]))


@pytest.mark.parametrize("shape", [(3, 6, 5), (1, 6, 5), (6, 5), (4, 6, 5), (30,), (2, 3, 4, 5)])
def test_any_shape_can_be_drawn(tmp_path, shape):
    x = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))
    y = torch.tensor([0, 1])
    draw_perturbations(tmp_path / "a.png", x, y, {"l2": result(1 - x, [1.0, 2.0])})
    picture = imread(tmp_path / "a.png")
    assert picture.ndim == 3
    assert picture[..., :3].std() > 0.05  # a blank page has none


def test_two_images_leave_no_room_for_four(drawn):
    x = torch.full((2, 1, 4, 4), 0.5)
    draw_perturbations("a.png", x, torch.tensor([0, 2]), {"l2": result(x + 0.25, [0.5, 0.125])})
    *images, histogram = [axes.get_position() for axes in drawn[0].axes]
    cell = images[0].width
    assert histogram.x0 - max(box.x1 for box in images) < cell


def test_nothing_found_is_said_in_words(tmp_path, drawn):
    x = torch.rand(2, 3, 4, 4)
    draw_perturbations(tmp_path / "a.png", x, torch.tensor([0, 1]), {"l2": result(x, [0.0, math.inf])})
    assert [text.get_text() for text in drawn[0].axes[0].texts] == ["No image has a perturbation to show."]


def test_rounding_beside_a_changed_pixel_is_no_pattern():
    change = np.full(1024, 1e-7)
    change[3] = -0.5
    assert perturbations.scale(change) == pytest.approx(0.1)
    assert perturbations.scale(np.zeros(4)) == 1
    assert perturbations.scale(np.random.default_rng(0).normal(size=100_000)) == pytest.approx(
        3.29, abs=0.15
    )  # a normal
