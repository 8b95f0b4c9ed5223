"""Paths that never end, and files that unfold to far more than was asked for."""

import os
import zipfile

import numpy as np
import pytest

from plica.data import load_data, npz, open_data
from plica.data.indices import parse_indices
from plica.data.npz import Unfolding
from plica.utils.files import read_small

X = np.linspace(0, 1, 40 * 12, dtype=np.float32).reshape(40, 3, 2, 2)
Y = np.arange(40)


def pipe(path):
    if not hasattr(os, "mkfifo"):
        pytest.skip("there are no named pipes here")
    os.mkfifo(path)
    return path


@pytest.mark.parametrize("name", ["f", "f.npz", "f.safetensors", "f.parquet", "f.npy,f.npy", "f.py:data"])
def test_data_from_a_pipe(tmp_path, name):
    pipe(tmp_path / name.partition(",")[0].partition(":")[0])
    with pytest.raises(FileNotFoundError, match=r"not a regular file|no data set file"):
        open_data(f"{tmp_path}/{name}".replace(",", f",{tmp_path}/"))


def test_a_pipe_among_pictures(tmp_path):
    (tmp_path / "a").mkdir()
    pipe(tmp_path / "a" / "0.png")
    with pytest.raises(ValueError, match="no folder of images"):
        open_data(tmp_path)


def test_rows_from_a_pipe_or_a_device(tmp_path):
    for path in (pipe(tmp_path / "rows"), "/dev/zero"):
        with pytest.raises(ValueError, match="not a regular file"):
            parse_indices(str(path))


def test_a_text_that_nobody_wrote(tmp_path):
    with (tmp_path / "long").open("wb") as stream:
        stream.truncate(10**9)
    with pytest.raises(OSError, match="longer than 20 MB"):
        read_small(tmp_path / "long")


@pytest.mark.parametrize("order", ["C", "F"])
def test_only_the_images_that_are_asked_for_are_unfolded(tmp_path, monkeypatch, order):
    """An archive of 2 MB that unfolds to 2 GB took 40 seconds for two images."""
    np.savez_compressed(tmp_path / "d.npz", x=np.asarray(X, order=order), y=Y)
    monkeypatch.setattr(npz, "SMALL", 0)
    source = open_data(tmp_path / "d.npz")
    assert isinstance(source.x, Unfolding)
    for needed, unfolded in ((2, 2), (3, 4), (40, 40)):
        x, y = source.read(source.labels[:needed])
        assert np.array_equal(x.numpy(), X[:needed])
        assert y.tolist() == list(range(needed))
        assert len(source.x.rows) == (unfolded if order == "C" else 40)


def test_an_archive_that_ends_early_is_said_when_its_images_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(npz, "SMALL", 0)
    with zipfile.ZipFile(tmp_path / "d.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in (("x", np.random.default_rng(0).random((40, 3, 2, 2))), ("y", Y)):
            with archive.open(f"{name}.npy", "w") as member:
                np.lib.format.write_array(member, array)
    content = bytearray((tmp_path / "d.npz").read_bytes())
    content[2000:2100] = bytes(100)
    (tmp_path / "d.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"cannot be read as an \.npz file"):
        load_data(tmp_path / "d.npz")


def test_a_header_that_python_cannot_read(tmp_path):
    """numpy takes the header for Python: a bracket that is missing raised tokenize's error."""
    for name, array in (("x", X), ("y", Y)):
        np.save(tmp_path / f"{name}.npy", array)
    content = (tmp_path / "x.npy").read_bytes()
    (tmp_path / "x.npy").write_bytes(content.replace(b"), }", b"(, }"))
    with pytest.raises(ValueError, match="cannot be read as an array"):
        open_data(tmp_path)
    with zipfile.ZipFile(tmp_path / "d.npz", "w") as archive:
        archive.write(tmp_path / "x.npy", "x.npy")
        archive.write(tmp_path / "y.npy", "y.npy")
    with pytest.raises(ValueError, match="the header of an array is broken"):
        open_data(tmp_path / "d.npz")
