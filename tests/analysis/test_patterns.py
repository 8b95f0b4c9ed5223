"""Each measure on perturbations whose value is known by hand, and on a run written by hand."""

import math

import pytest
import torch

from byhand import made_up, write_inputs, write_task
from plica import runs
from plica.analysis import patterns

N = 3 * 8 * 8


def board(h=8, w=8):
    return ((torch.arange(h)[:, None] + torch.arange(w)) % 2 * 2.0 - 1).expand(1, 3, h, w)


def one_entry():
    delta = torch.zeros(1, 3, 8, 8)
    delta[0, 1, 2, 3] = -0.5
    return delta


def even():
    return torch.full((1, 3, 8, 8), 0.25)


@pytest.mark.parametrize(
    ("measure", "one", "alike"),
    [
        ("l1_over_l2", 1.0, math.sqrt(N)),
        ("hoyer", 1.0, 0.0),
        ("gini", 1 - 1 / N, 0.0),
        ("changed", 1 / 64, 1.0),
        ("high_frequency", None, 0.0),
    ],
)
def test_one_entry_and_all_alike(measure, one, alike):
    if one is not None:
        assert patterns.MEASURES[measure](one_entry()).item() == pytest.approx(one)
    assert patterns.MEASURES[measure](even()).item() == pytest.approx(alike, abs=1e-12)


def test_smoothness_of_a_constant_a_chessboard_and_noise():
    noise = torch.randn(1, 3, 200, 200, generator=torch.Generator().manual_seed(0))
    assert patterns.total_variation(even()).item() == 0
    assert patterns.total_variation(board()).item() == pytest.approx(2)
    assert patterns.total_variation(noise).item() == pytest.approx(math.sqrt(2), rel=0.01)  # 120 000 entries
    assert patterns.high_frequency(board()).item() == pytest.approx(1)
    assert patterns.high_frequency(noise).item() == pytest.approx(3 / 4, rel=0.02)  # white: by the area of the band
    wave = torch.cos(2 * math.pi * torch.arange(16) / 8)  # an eighth of a cycle per pixel
    assert patterns.high_frequency(wave.expand(1, 1, 16, 16)).item() == pytest.approx(0, abs=1e-12)


def test_a_pixel_counts_as_changed_from_half_a_grey_level_on():
    delta = torch.zeros(1, 3, 8, 8)
    delta[0, :, 0, 0], delta[0, :, 0, 1] = 0.49 / 255, 0.51 / 255
    assert patterns.changed(delta).item() == 1 / 64


@pytest.mark.parametrize(("waves", "share"), [(3, 0.0), (4, 0.0), (5, 1.0), (8, 1.0)])
def test_fine_is_more_than_a_quarter_cycle_per_pixel(waves, share):
    """So many waves on sixteen pixels; four are exactly a quarter cycle."""
    wave = torch.cos(2 * math.pi * waves * torch.arange(16, dtype=torch.float64) / 16)
    for delta in (wave.expand(1, 1, 16, 16), wave.expand(1, 1, 16, 16).transpose(2, 3)):
        assert patterns.high_frequency(delta).item() == pytest.approx(share, abs=1e-12)


@pytest.mark.parametrize("measure", [name for name in patterns.MEASURES if name != "changed"])
@pytest.mark.parametrize("shape", [(3, 8, 8), (8, 8), (64,)])
def test_scale_does_not_matter_and_nothing_has_no_pattern(measure, shape):
    delta = torch.randn(4, *shape, generator=torch.Generator().manual_seed(0))
    delta[1] = 0
    value = patterns.MEASURES[measure](delta)
    assert value.isnan().tolist() == [False, True, False, False]
    other = patterns.MEASURES[measure](-0.01 * delta)
    assert torch.allclose(value, other, rtol=1e-5, equal_nan=True)  # float32 scaling


def test_gini_against_its_definition_by_pairs():
    """Half the mean absolute difference of all pairs over the mean."""
    size = torch.rand(1, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    slow = (size[0, :, None] - size[0]).abs().mean() / (2 * size.mean())
    assert patterns.gini(size).item() == pytest.approx(slow.item())


def test_magnitudes_are_counted_in_their_bins():
    delta = torch.tensor([[0.0, -0.1, 0.25, 0.5, -1.0, 2.0]])
    assert patterns.magnitudes(delta, [0, 0.25, 0.5, 1]).tolist() == [[2, 1, 2]]  # the last bin has its end; 2.0 is out


def test_cosine():
    a = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    b = torch.tensor([[0.0, 2.0], [-3.0, -3.0], [1.0, 0.0]])
    assert torch.allclose(patterns.cosine(a, b), torch.tensor([0, -1, math.nan]).double(), equal_nan=True)


def test_the_measures_of_a_run_are_columns_of_its_samples(tmp_path):
    x = torch.full((3, 3, 8, 8), 0.5)
    y = torch.zeros(3, dtype=torch.int64)
    write_inputs(tmp_path / "run", x, y)
    write_task(tmp_path / "run", made_up(x, x + torch.cat([one_entry(), even(), 0 * even()]), [0.5, 1, math.inf]), y)
    table = patterns.samples(runs.load(tmp_path / "run"))
    assert table["l1_over_l2"].to_pylist() == [pytest.approx(1), pytest.approx(math.sqrt(N)), None]
    assert table["distance"].to_pylist() == [0.5, 1, math.inf]


def test_chunks_of_images_and_points_need_not_agree():
    class Uneven:
        def inputs(self):
            for part in torch.arange(7).split(3):
                yield part, part[:, None].float(), part

        def points(self, task):
            for part in (torch.tensor([1, 0]), torch.tensor([2, 3, 6])):
                yield part, part[:, None] + 0.5

    seen = [(ids.tolist(), (x_adv - x).flatten().tolist()) for ids, x, x_adv in patterns.pairs(Uneven(), None)]
    assert seen == [([1, 0], [0.5, 0.5]), ([2, 3, 6], [0.5, 0.5, 0.5])]
