"""What is written is what is read: arrays of any type, shape and values, and rows written as text."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors.numpy import save_file

from plica.data import open_data
from plica.data.indices import parse_indices
from plica.data.sample import select

QUICK = settings(max_examples=40, deadline=None)


@st.composite
def labelled_images(draw):
    """x (n, *image) of uint8 or floats in [0, 1], C- or Fortran-ordered, and integer labels from 0."""
    shape = draw(arrays.array_shapes(min_dims=2, max_dims=4, max_side=4))
    dtype = draw(st.sampled_from([np.uint8, np.float16, np.float32, np.float64]))
    unit = st.floats(0, 1, width=16) if dtype != np.uint8 else None
    x = draw(arrays.arrays(dtype, shape, elements=unit))
    y = draw(
        arrays.arrays(draw(st.sampled_from([np.uint8, np.int32, np.int64])), shape[0], elements=st.integers(0, 99))
    )
    return (np.asfortranarray(x) if draw(st.booleans()) else x), y


def save_npy(folder, x, y):
    np.save(folder / "x.npy", x)
    np.save(folder / "y.npy", y)
    return folder


def save_npz(folder, x, y):
    np.savez(folder / "d.npz", x=x, y=y)
    return folder / "d.npz"


def save_compressed(folder, x, y):
    np.savez_compressed(folder / "d.npz", x=x, y=y)
    return folder / "d.npz"


def save_safetensors(folder, x, y):
    save_file({"x": np.ascontiguousarray(x), "y": y}, folder / "d.safetensors")
    return folder / "d.safetensors"


@pytest.mark.parametrize("save", [save_npz, save_compressed, save_npy, save_safetensors])
@given(labelled=labelled_images(), data=st.data())
@QUICK
def test_what_is_written_is_what_is_read(save, labelled, data):
    x, y = labelled
    ids = data.draw(st.lists(st.integers(0, len(x) - 1), min_size=1, max_size=5))
    with tempfile.TemporaryDirectory() as folder:
        source = open_data(save(Path(folder), x, y))
        pixels, labels = source.read(torch.tensor(ids))
    expected = x[ids].astype(np.float32) / (np.float32(255) if x.dtype == np.uint8 else 1)
    assert np.array_equal(pixels.numpy(), expected)
    assert labels.tolist() == y[ids].tolist()
    assert source.labels.tolist() == y.tolist()
    assert (len(source), tuple(source.shape)) == (len(x), x.shape[1:])


@given(
    ranges=st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 50)), min_size=1, max_size=20),
    separator=st.sampled_from([",", ", ", " ", "\n", " ,\t"]),
)
@QUICK
def test_rows_written_as_text_are_those_read(ranges, separator):
    text = separator.join(str(low) if more == 0 else f"{low}-{low + more}" for low, more in ranges)
    assert parse_indices(text) == [row for low, more in ranges for row in range(low, low + more + 1)]


@given(
    labels=st.lists(st.integers(0, 5), min_size=1, max_size=60),
    sample=st.sampled_from(["first", "random", "balanced"]),
    seed=st.integers(0, 2**32 - 1),
    data=st.data(),
)
@QUICK
def test_a_sample_is_so_many_images_each_once(labels, sample, seed, data):
    n = data.draw(st.integers(1, len(labels)))
    y = torch.tensor(labels)
    ids = select(y, n, None, sample, seed)
    assert len(ids) == n
    assert ids.tolist() == sorted(set(ids.tolist()) & set(range(len(labels))))
    if sample == "balanced":  # a class falls behind another only where all its images are taken
        taken, total = y[ids].bincount(minlength=6), y.bincount(minlength=6)
        assert (taken[taken < total] >= taken.max() - 1).all()
