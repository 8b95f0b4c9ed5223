"""Images are read when they are needed, and are those that load_data gives."""

import zipfile

import numpy as np
import pytest
import torch

from plica.data import load_data, open_data
from plica.data.source import HeldSource, NpzSource, select

DICE = np.random.default_rng(0)
X = DICE.integers(0, 256, (30, 3, 4, 5), dtype=np.uint8)
Y = np.arange(30) % 4


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("kind", ["uint8", "float16", "float32", "float64", ">f4"])
def test_every_image_is_that_of_load_data(tmp_path, save, kind):
    x = X if kind == "uint8" else (X / 255).astype(kind)
    save(tmp_path / "d.npz", more=Y, x=x, y=Y.astype(np.int16))
    source, (x, y) = open_data(tmp_path / "d.npz"), load_data(tmp_path / "d.npz")
    assert isinstance(source, NpzSource)
    assert len(source) == 30
    assert source.shape == (3, 4, 5)
    assert torch.equal(source.labels, y)
    for ids in (torch.tensor([29, 0, 7]), torch.tensor([3]), torch.arange(30)):
        images, labels = source.read(ids)
        assert torch.equal(images, x[ids])
        assert torch.equal(labels, y[ids])


def test_an_image_that_is_wrong_is_refused_alone(tmp_path):
    x = X / 255
    x[4, 0, 0, 0] = np.inf
    np.savez(tmp_path / "d.npz", x=x, y=Y)
    source = open_data(tmp_path / "d.npz")
    with pytest.raises(ValueError, match="not finite"):
        source.read(torch.tensor([3, 4]))
    source.read(torch.tensor([3, 5]))


def test_a_file_that_shrinks_meanwhile(tmp_path):
    np.savez(tmp_path / "d.npz", x=X, y=Y)
    source = open_data(tmp_path / "d.npz")
    with (tmp_path / "d.npz").open("r+b") as stream:
        stream.truncate(source.start + 10 * source.bytes)
    source.read(torch.tensor([9]))
    with pytest.raises(ValueError, match="ends before image 10"):
        source.read(torch.tensor([10]))


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        (dict(x=X), "no array y"),
        (dict(x=X, y=Y[:3]), "need one label each"),
        (dict(x=X.astype(object), y=Y), "Python objects"),
        (dict(x=X.astype(int), y=Y), "save uint8 pixels"),
        (dict(x=X, y=Y - 1), "counted from 0"),
    ],
)
def test_what_load_data_refuses_is_refused_with_its_words(tmp_path, arrays, said):
    np.savez(tmp_path / "d.npz", **arrays)
    with pytest.raises(ValueError, match=said):
        open_data(tmp_path / "d.npz")
    with pytest.raises(FileNotFoundError):
        open_data(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(ValueError, match=r"text\.npz"):
        open_data(tmp_path / "text.npz")


def test_other_layouts_are_held_in_memory(tmp_path):
    np.savez(tmp_path / "d.npz", x=np.asfortranarray(X), y=Y)
    source = open_data(tmp_path / "d.npz")
    assert isinstance(source, HeldSource)
    assert torch.equal(source.read(torch.tensor([2]))[0], load_data(tmp_path / "d.npz")[0][2:3])
    same = HeldSource(source.x, source.labels)
    assert same.hash() == source.hash()
    assert HeldSource(source.x, 3 - source.labels).hash() != source.hash()
    assert HeldSource(source.x.reshape(30, 5, 4, 3), source.labels).hash() != source.hash()


def test_a_compressed_file_that_swells_beyond_the_disk_is_refused(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "d.npz", x=np.zeros((500, 100, 100), np.uint8), y=np.zeros(500, int))
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 10**6}))
    with pytest.raises(ValueError, match=r"needs 0\.0 GB of temporary space"):
        open_data(tmp_path / "d.npz")


def test_a_broken_compressed_file_is_one_sentence(tmp_path):
    np.savez_compressed(tmp_path / "d.npz", x=X, y=Y)
    content = bytearray((tmp_path / "d.npz").read_bytes())
    content[400:420] = bytes(20)
    (tmp_path / "d.npz").write_bytes(content)
    with pytest.raises(ValueError, match="cannot be read"):
        open_data(tmp_path / "d.npz")


def test_a_local_header_with_an_extra_field(tmp_path):
    np.savez(tmp_path / "d.npz", x=X, y=Y)
    with zipfile.ZipFile(tmp_path / "d.npz") as old, zipfile.ZipFile(tmp_path / "e.npz", "w") as new:
        for name in old.namelist():
            info = zipfile.ZipInfo(name)
            info.extra = b"\x55\x54\x05\x00\x01\x00\x00\x00\x00"
            new.writestr(info, old.read(name))
    assert torch.equal(open_data(tmp_path / "e.npz").read(torch.tensor([5]))[0], load_data(tmp_path / "d.npz")[0][5:6])


def test_samples():
    labels = torch.tensor([0] * 50 + [1] * 10 + [2] * 3)
    assert select(labels, 4, None, "first", 0).tolist() == [0, 1, 2, 3]
    assert select(labels, None, [7, 2], "first", 0).tolist() == [2, 7]
    balanced = select(labels, 15, None, "balanced", 0)
    assert labels[balanced].bincount().tolist() == [6, 6, 3]
    assert balanced.tolist() == sorted(set(balanced.tolist()))
    assert torch.equal(balanced, select(labels, 15, None, "balanced", 0))
    assert not torch.equal(balanced, select(labels, 15, None, "balanced", 1))
    assert len(select(labels, None, None, "random", 0)) == 63
    drawn = select(labels, 20, None, "random", 0)
    assert len(set(drawn.tolist())) == 20
    assert labels[drawn].bincount()[0] > 10
