"""Figures show the numbers that they were given, on the axes that they were given."""

import math

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

import plica
from byhand import made_up
from plica import plot

RADII = np.array([0.0, 0.1, 0.2, 0.4, math.inf])


def axes():
    return Figure().add_subplot()


def result():
    x = torch.zeros(5, 3, 4, 4)
    return made_up(x, x + 0.1, torch.tensor(RADII))


def test_accuracy_curve_falls_by_each_image():
    given = axes()
    drawn = plot.accuracy_curve({"net": result()}, given, budgets=[0.25], unit="l2 distance")
    assert drawn is given
    at, share = drawn.lines[0].get_data()
    assert share[0] == 0.8
    assert share[np.searchsorted(at, 0.15)] == pytest.approx(0.6)
    assert drawn.lines[1].get_xdata()[0] == 0.25
    assert drawn.get_xlabel() == "l2 distance"


def test_histograms_count_what_was_perturbed():
    drawn = plot.radii_histogram(RADII, budgets=[0.3], bins=3)
    assert sum(bar.get_height() for bar in drawn.patches) == 3
    assert all(tick == round(tick) for tick in drawn.get_yticks())
    images = plot.radii_by_image(torch.tensor(RADII), axes(), budgets=[0.3])
    assert np.isnan(images.lines[0].get_ydata()).tolist() == [False] * 4 + [True]


def test_a_histogram_of_few_images_has_few_bins():
    radii = np.linspace(0.1, 1, 10)
    assert len(plot.radii_histogram(radii).patches) == 4
    assert len(plot.radii_histogram(np.tile(radii, 20)).patches) == 32
    (outline,) = plot.measure_histogram({"a": radii}).patches
    assert len(outline.get_xy()) == 2 * 5 + 2  # of five bins


def test_budgets_are_labelled_with_their_values():
    for drawn in (
        plot.accuracy_curve({"net": result()}, budgets=[0.25]),
        plot.radii_histogram(RADII, budgets=[0.25]),
        plot.radii_by_image(RADII, budgets=[0.25]),
    ):
        assert [text.get_text().strip() for text in drawn.texts] == ["0.25"]


def test_labels_of_near_budgets_do_not_cover_each_other():
    drawn = plot.accuracy_curve({"net": [0.01, 0.06]}, budgets=[1 / 255, 2 / 255])
    first, second = (text.get_window_extent() for text in drawn.texts)
    assert not first.overlaps(second)


@pytest.mark.parametrize("spread", [1.0, 3.0, 1e4])
def test_the_axis_of_differences_has_ticks_enough_and_not_too_many(spread):
    change = 0.03 * np.geomspace(1 / spread, spread, 20) * np.tile([1, -1], 10)
    drawn = plot.radius_difference(np.ones(20), 1 + change)
    low, high = drawn.get_ylim()
    assert 5 <= len([tick for tick in drawn.get_yticks() if low <= tick <= high]) <= 13


def test_differences_are_sorted_and_lost_images_counted():
    drawn = plot.radius_difference([0, 1, 2, 3, 1], [0, 0.5, 3, 3, math.inf], names=("a", "b"))
    assert drawn.get_title() == "3 images, 1 without a point"
    assert [text.get_text() for text in drawn.get_legend().get_texts()] == ["b nearer: 1", "a nearer: 1"]


def test_an_image_without_a_point_of_either_leaves_no_warning():
    """Its difference, inf - inf, was taken before it was left out."""
    assert plot.radius_difference([1, 2, math.inf], [2, 1, math.inf]).get_title() == "2 images, 1 without a point"


def test_measures_are_shares_of_images_in_common_bins():
    generator = torch.Generator().manual_seed(0)
    dense, sparse = torch.randn(50, 3, 8, 8, generator=generator), torch.zeros(20, 3, 8, 8)
    sparse[:, 0, 0, 0] = 1
    drawn = plot.measure_histogram({"dense": dense, "sparse": sparse}, axes())
    outlines = {patch.get_label(): patch.get_xy() for patch in drawn.patches}
    assert outlines["sparse"][:, 1].max() == pytest.approx(1)  # all twenty in the first bin, l1/l2 = 1
    assert outlines["sparse"][outlines["sparse"][:, 1].argmax(), 0] == pytest.approx(1)
    assert outlines["dense"][:, 1].max() < 1
    assert plot.measure_histogram({"known": np.array([1.0, np.nan, 2.0])}, measure="gini").get_xlabel() == "gini"


@pytest.mark.parametrize("shape", [(3, 6, 6), (12,)])
def test_panels_have_a_column_per_method(shape):
    x = torch.full(shape, 0.5)
    drawn = plot.panels(x, {"one": x + 0.1, "two": x - 0.2})
    assert drawn.shape == (2, 2)
    assert [one.get_title() for one in drawn[0]] == ["one\n\u00b10.1", "two\n\u00b10.2"]
    root = math.sqrt(x.numel())
    assert drawn[1, 0].get_title() == f"l1/l2 {root:.3g}"
    assert (drawn[1, 0].get_xlabel(), drawn[1, 0].get_ylabel()) == ("magnitude", "entries")


def test_a_solvers_way_is_recorded():
    """min x^2 s.t. 1 - x <= 0 from 3: the objective falls to 1, the violation ends at 0."""
    way = plot.Recorded(lambda x: (x[:, 0] ** 2, 1 - x))
    solution = plica.minimize(way, torch.tensor([3.0], dtype=torch.float64))
    assert len(way.objective) == len(way.violation) == len(way.passed) >= int(solution.evaluations)
    assert way.objective[0] == 9
    assert way.objective[-1] == pytest.approx(1, abs=1e-4)
    assert 0 <= way.violation[-1] < 1e-4
    above, below = plot.trajectory({"solver": way}, tuple(Figure().subplots(2)))
    assert above.lines[0].get_ydata()[0] == 9
    assert below.get_yscale() == "log"


def test_a_recorded_function_ends_when_its_time_is_over():
    way = plot.Recorded(lambda x: (x**2).sum(1), seconds=0)
    with pytest.raises(plot.OutOfTime):
        plica.minimize(way, torch.ones(2))
    assert len(way.objective) == 1


def test_a_notebook_shows_panels_and_axes_as_pictures():
    x = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))
    panels = plot.panels(x, {"ours": x * 0.9, "theirs": x * 0.8})
    assert panels.shape == (2, 2)
    for shown in (panels, panels[:, :1], plot.magnitudes(x)):
        assert shown._repr_png_().startswith(b"\x89PNG")
