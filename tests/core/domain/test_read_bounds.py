"""Bounds from text and files: what is read, and one sentence for what is none."""

import sys
import zipfile
from contextlib import nullcontext

import numpy as np
import pytest
import torch

from plica.core.domain.read_bounds import read_bounds

SHAPE = (2, 3)


def written(tmp_path, **arrays):
    np.savez(tmp_path / "b.npz", **arrays)
    return tmp_path / "b.npz"


@pytest.mark.parametrize("source", ["0,2", "(0, 2)", "[0,2]", (0, 2), [0.0, 2.0]])
def test_two_numbers(source):
    bounds = read_bounds(source)
    assert (float(bounds.low), float(bounds.high), bounds.mask) == (0, 2, None)
    assert bounds.low.dtype == bounds.high.dtype == torch.float64


@pytest.mark.parametrize("dtype", ["f4", "f8", "i8", "u1"])
def test_a_file_of_numbers_and_a_mask(tmp_path, dtype):
    low, mask = np.arange(6).reshape(SHAPE).astype(dtype), np.array([[True, False, True], [False, True, True]])
    bounds = read_bounds(written(tmp_path, low=low, high=low + 1, mask=mask))
    assert bounds.low.dtype == torch.float64
    assert bounds.low.tolist() == low.tolist()
    assert bounds.high.tolist() == (low + 1).tolist()
    assert bounds.mask is not None
    assert bounds.mask.tolist() == mask.tolist()


def test_what_a_file_leaves_out_is_0_and_1(tmp_path):
    only_high = read_bounds(written(tmp_path, high=np.full(SHAPE, 0.5)))
    assert (float(only_high.low), only_high.high.tolist()) == (0, [[0.5] * 3] * 2)
    only_low = read_bounds(written(tmp_path, low=np.full(SHAPE, -0.5)))
    assert (only_low.low.tolist(), float(only_low.high)) == ([[-0.5] * 3] * 2, 1)
    only_mask = read_bounds(written(tmp_path, mask=np.array([True, False])))
    assert (float(only_mask.low), float(only_mask.high)) == (0, 1)


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"low": np.zeros(3), "mask": np.ones(3)}, "mask in .* is float64; save booleans"),
        ({"low": np.zeros(3, bool)}, "low in .* is bool; save numbers"),
        ({"high": np.array(["a"])}, "high in .* is <U1; save numbers"),
        ({"lower": np.zeros(3)}, "has the arrays lower; name them low, high and mask"),
        ({"low": np.zeros(3), "high": np.ones(2)}, "have different shapes"),
        ({"low": np.ones(3), "high": np.ones(3)}, "low < high somewhere"),
        ({"low": np.array([0.0, 2.0])}, "low <= high everywhere"),
        ({"low": np.array([0.0, np.nan])}, "must be finite"),
        ({"mask": np.zeros(3, bool)}, "lets nothing move"),
    ],
)
def test_files_that_hold_no_bounds(tmp_path, arrays, says):
    with pytest.raises(ValueError, match=says):
        read_bounds(written(tmp_path, **arrays))


@pytest.mark.parametrize("text", ["0", "0,1,2", "a,b", "", "1,0", "0,0", "nan,1"])
def test_texts_that_are_no_bounds(text):
    with pytest.raises(ValueError, match="bounds"):
        read_bounds(text)


def test_a_file_that_is_not_there_and_one_that_is_none(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no file of bounds"):
        read_bounds(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("low")
    with pytest.raises(ValueError, match="cannot be read as bounds"):
        read_bounds(tmp_path / "text.npz")


class Runs:
    """Pickled, it is a call."""

    def __reduce__(self):
        return (exec, ("import sys; sys.modules['plica_bounds_ran'] = sys",))


def test_pickled_objects_are_refused_and_do_not_run(tmp_path):
    with pytest.raises(ValueError, match="cannot be read as bounds"):
        read_bounds(written(tmp_path, low=np.array([Runs()], dtype=object)))
    assert "plica_bounds_ran" not in sys.modules


def test_an_archive_is_checked_before_it_is_read_and_must_fit_into_memory(tmp_path, monkeypatch):
    file = written(tmp_path, low=np.zeros(SHAPE, "f8"), high=np.ones(SHAPE, "f8"))
    content = 2 * (128 + 6 * 8)  # of two members, each with its header
    for memory, fits in ((content / 0.8 + 4, True), (content / 0.8 - 4, False)):
        monkeypatch.setattr("plica.utils.limits.memory", lambda memory=memory: memory)
        with nullcontext() if fits else pytest.raises(ValueError, match=r"claims .* GB of pixels"):
            read_bounds(file)
    monkeypatch.undo()
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("../low.npy", b"")
    with pytest.raises(ValueError, match="points outside it"):
        read_bounds(file)
