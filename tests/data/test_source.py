"""Images are read when they are needed, and are those that load_data gives."""

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from plica.data import load_data, open_data, registry
from plica.data.arrays import ArraySource
from plica.data.registry import DataForm
from plica.data.sample import select

RNG = np.random.default_rng(0)
X = RNG.integers(0, 256, (30, 3, 4, 5), dtype=np.uint8)
Y = np.arange(30) % 4


def save_npy(file, x, y):
    file.mkdir()
    np.save(file / "x.npy", x)
    np.save(file / "y.npy", y)


def save_safetensors(file, x, y):
    save_file({"x": np.ascontiguousarray(x), "y": y}, file)


SAVE = {
    "d.npz": lambda file, x, y: np.savez(file, more=y, x=x, y=y),
    "compressed.npz": lambda file, x, y: np.savez_compressed(file, x=x, y=y),
    "folder": save_npy,
    "d.safetensors": save_safetensors,
}


@pytest.mark.parametrize("name", SAVE)
@pytest.mark.parametrize("kind", ["uint8", "float16", "float32", "float64", ">f4", "fortran"])
def test_every_image_is_that_of_load_data(tmp_path, name, kind):
    if kind == ">f4" and name == "d.safetensors":
        pytest.skip("safetensors are little-endian")
    x = np.asfortranarray(X) if kind == "fortran" else X if kind == "uint8" else (X / 255).astype(kind)
    SAVE[name](tmp_path / name, x, Y.astype(np.int16))
    source, (pixels, labels) = open_data(tmp_path / name), load_data(tmp_path / name)
    expected = x.astype(np.float32) / (255 if x.dtype == np.uint8 else np.float32(1))
    assert np.array_equal(pixels.numpy(), expected)
    assert len(source) == 30
    assert source.shape == (3, 4, 5)
    assert torch.equal(source.labels, labels)
    for ids in (torch.tensor([29, 0, 7]), torch.tensor([3]), torch.arange(30)):
        part, part_labels = source.read(ids)
        assert torch.equal(part, pixels[ids])
        assert torch.equal(part_labels, labels[ids])


@pytest.mark.parametrize("name", SAVE)
def test_a_change_of_what_was_read_does_not_reach_the_source(tmp_path, name):
    SAVE[name](tmp_path / name, (X / 255).astype(np.float32), Y)
    source = open_data(tmp_path / name)
    first, _ = source.read(torch.arange(30))
    first.zero_()
    assert source.read(torch.arange(30))[0].any()


def test_an_image_that_is_wrong_is_refused_alone(tmp_path):
    x = X / 255
    x[4, 0, 0, 0] = np.inf
    np.savez(tmp_path / "d.npz", x=x, y=Y)
    source = open_data(tmp_path / "d.npz")
    with pytest.raises(ValueError, match="not finite"):
        source.read(torch.tensor([3, 4]))
    source.read(torch.tensor([3, 5]))


def test_pixels_may_lie_out_of_range_where_that_is_allowed(tmp_path):
    np.savez(tmp_path / "d.npz", x=X / 255 - 2, y=Y)
    with pytest.raises(ValueError, match=r"values from -2 to -1"):
        load_data(tmp_path / "d.npz")
    assert torch.equal(load_data(tmp_path / "d.npz", allow_out_of_range=True)[0], torch.from_numpy(X / 255 - 2).float())


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        (dict(x=X), "no array y"),
        (dict(x=X, y=Y[:3]), "need one label each"),
        (dict(x=X.astype(object), y=Y), "Python objects"),
        (dict(x=X, y=Y - 1), "counted from 0"),
    ],
)
def test_unusable_arrays_are_refused_before_an_image_is_read(tmp_path, arrays, said):
    np.savez(tmp_path / "d.npz", **arrays)
    with pytest.raises(ValueError, match=said):
        open_data(tmp_path / "d.npz")


def test_the_hash_is_of_the_content(tmp_path):
    x = X / 255
    source = ArraySource("a", x, Y)
    assert source.hash() == ArraySource("b", x.copy(), Y).hash()
    others = (ArraySource("a", x, 3 - Y), ArraySource("a", x.reshape(30, 5, 4, 3), Y), ArraySource("a", x * 0.5, Y))
    assert source.hash() not in {other.hash() for other in others}


def test_a_broken_compressed_file_is_one_sentence(tmp_path):
    np.savez_compressed(tmp_path / "d.npz", x=X, y=Y)
    content = bytearray((tmp_path / "d.npz").read_bytes())
    content[400:420] = bytes(20)
    (tmp_path / "d.npz").write_bytes(content)
    with pytest.raises(ValueError, match="cannot be read"):
        open_data(tmp_path / "d.npz")


def test_a_form_of_the_users_is_tried_first(tmp_path, monkeypatch):
    form = DataForm("noise:COUNT", lambda text: text.startswith("noise:"), lambda text, _: ArraySource(text, X, Y))
    monkeypatch.setitem(registry.FORMS, "noise", form)
    assert len(open_data("noise:30")) == 30
    with pytest.raises(FileNotFoundError, match=r"data are one of npz, .* noise"):
        open_data(tmp_path / "none.npz")


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
