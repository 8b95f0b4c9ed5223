"""Every form of labelled images is really read, image by image and at once; malicious ones are refused."""

import io
import json
import pickle
import struct
import sys
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from plica.data import load_data, open_data
from plica.utils.limits import DEFLATE

N = 6
X = np.random.default_rng(0).integers(0, 256, (N, 3, 5, 4), dtype=np.uint8)
Y = np.arange(N) % 2


def png(x, mode="PNG"):
    stream = io.BytesIO()
    Image.fromarray(x.transpose(1, 2, 0) if x.ndim == 3 else x).save(stream, mode)
    return stream.getvalue()


def same(spec, classes=None, order=None):
    """Read at once, and in another order from the source."""
    order = np.arange(N) if order is None else order
    x, y = load_data(spec)
    assert torch.equal(x, torch.from_numpy(X[order]).float() / 255)
    assert y.tolist() == Y[order].tolist()
    source = open_data(spec)
    assert len(source) == N
    assert tuple(source.shape) == (3, 5, 4)
    assert source.labels.tolist() == y.tolist()
    assert source.classes == classes
    assert source.hash() == open_data(spec).hash()
    ids = torch.tensor([4, 1])
    part, labels = source.read(ids)
    assert torch.equal(part, x[ids])
    assert torch.equal(labels, y[ids])
    assert load_data(spec, n=3)[0].shape == (3, 3, 5, 4)
    with pytest.raises(ValueError, match="between 1 and 6"):
        load_data(spec, n=7)


def refusal(spec):
    with pytest.raises((ValueError, FileNotFoundError)) as refused:
        load_data(spec)
    said = str(refused.value)
    assert "\n" not in said
    assert said.endswith(".")
    with pytest.raises((ValueError, FileNotFoundError)):
        all_of(open_data, spec)
    return said


def all_of(open_it, spec):
    source = open_it(spec)
    return source.read(torch.arange(len(source)))


def folder(root):
    for i in range(N):
        (root / "ab"[Y[i]]).mkdir(parents=True, exist_ok=True)
        (root / "ab"[Y[i]] / f"{i}.png").write_bytes(png(X[i]))
    return root


def test_npy_pairs(tmp_path):
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "y.npy", Y)
    same(tmp_path)
    same(f"{tmp_path}/x.npy,{tmp_path}/y.npy")
    np.save(tmp_path / "y.npy", Y[:3])
    assert "shape (3,)" in refusal(tmp_path)
    (tmp_path / "y.npy").unlink()
    assert "no file" in refusal(tmp_path)


def test_safetensors(tmp_path):
    file = tmp_path / "d.safetensors"
    save_file({"x": torch.from_numpy(X), "y": torch.from_numpy(Y)}, file)
    same(file)
    save_file({"x": torch.from_numpy(X)}, file)
    assert "no tensor y" in refusal(file)
    file.write_bytes(b"broken")
    assert "cannot be read as safetensors" in refusal(file)
    assert "no file" in refusal(tmp_path / "none.safetensors")


def test_a_folder_of_pictures_per_class(tmp_path):
    root = folder(tmp_path / "root")
    (root / "a" / "notes.txt").write_text("no picture")
    (root / ".git").mkdir()
    same(root, ["a", "b"], np.argsort(Y, kind="stable"))


def test_grey_pictures_have_one_channel(tmp_path):
    (tmp_path / "k").mkdir()
    (tmp_path / "k" / "0.png").write_bytes(png(X[0, 0]))
    x, _ = load_data(tmp_path)
    assert torch.equal(x[0, 0], torch.from_numpy(X[0, 0]).float() / 255)


def test_a_grey_picture_that_comes_first_does_not_take_the_colour_of_the_others(tmp_path):
    root = folder(tmp_path / "root")
    x, _ = load_data(root)
    (root / "a" / "0.png").write_bytes(png(X[0, 0]))
    first = torch.from_numpy(X[0, :1]).float().expand(3, -1, -1) / 255
    assert torch.equal(load_data(root)[0], torch.cat([first[None], x[1:]]))


@pytest.mark.parametrize("kind", [np.uint16, np.int32, np.float32])
def test_pictures_of_more_than_8_bits_are_refused(tmp_path, kind):
    """A conversion would cut off all that is above 255."""
    (tmp_path / "k").mkdir()
    Image.fromarray(np.full((5, 4), 1000, kind)).save(tmp_path / "k" / "0.tiff")
    assert "has more than 8 bits" in refusal(tmp_path)


def png_of_16_bits(channels):
    def part(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = np.full((5, 4 * channels), 1000, ">u2")
    header = struct.pack(">IIBBBBB", 4, 5, 16, kind, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", header) + part(b"IDAT", pixels) + part(b"IEND", b"")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *((f"{channels}.png", png_of_16_bits(channels)) for channels in (1, 2, 3, 4)),
        ("0.ppm", b"P6 4 5 65535\n" + bytes(4 * 5 * 6)),
        ("0.pgm", b"P5 4 5 1023\n" + bytes(4 * 5 * 2)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_pictures_of_more_than_8_bits_a_channel_are_refused(tmp_path, name, content):
    """Of several channels the lower 8 bits were dropped without a word."""
    (tmp_path / "k").mkdir()
    (tmp_path / "k" / name).write_bytes(content)
    assert "has more than 8 bits a channel" in refusal(tmp_path)


@pytest.mark.parametrize("name", ["0.png", "0.bmp", "0.gif", "0.webp", "0.tiff", "0.ppm", "0.jpg"])
def test_pictures_of_8_bits_are_taken(tmp_path, name):
    (tmp_path / "k").mkdir()
    Image.fromarray(np.ascontiguousarray(X[0].transpose(1, 2, 0))).save(tmp_path / "k" / name)
    assert load_data(tmp_path)[0].shape == (1, 3, 5, 4)


@pytest.mark.parametrize("embedded", ["plain", "huggingface"])
def test_parquet(tmp_path, embedded):
    content = [png(x) for x in X]
    meta = {"info": {"features": {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}}
    if embedded == "plain":
        table, classes = pa.table({"picture": content, "label": Y}), None
    else:
        records = [{"bytes": c, "path": "/etc/passwd"} for c in content]
        table = pa.table({"image": records, "label": Y}).replace_schema_metadata({"huggingface": json.dumps(meta)})
        classes = ["cat", "dog"]
    pq.write_table(table, tmp_path / "d.parquet", row_group_size=4)
    same(tmp_path / "d.parquet", classes)


def test_parquet_that_points_elsewhere_or_has_no_pictures(tmp_path):
    file = tmp_path / "d.parquet"
    (tmp_path / "secret.png").write_bytes(png(X[0]))
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    stray = pa.array([{"bytes": None, "path": str(tmp_path / "secret.png")}], kind)
    pq.write_table(pa.table({"image": stray, "label": [0]}), file)
    assert "is not in the file itself" in refusal(file)
    pq.write_table(pa.table({"text": ["a"], "label": [0]}), file)
    assert "it has text, label" in refusal(file)
    pq.write_table(pa.table({"image": [b"x"], "label": [-1]}), file)
    assert "class numbers from 0" in refusal(file)
    file.write_bytes(b"PAR1")
    assert "cannot be read as Parquet" in refusal(file)


@pytest.mark.parametrize(
    ("labels", "kind"),
    [
        (pa.array([1.0, None]), "double"),  # as pandas writes integers of which one is missing
        (pa.array(["cat", "dog"]), "string"),
        (pa.nulls(2), "null"),
    ],
)
def test_parquet_whose_labels_are_no_integers(tmp_path, labels, kind):
    """The message said that a column called label is needed, and that the file has one."""
    file, columns = tmp_path / "d.parquet", {"image": [png(x) for x in X[:2]], "label": labels}
    pq.write_table(pa.table(columns), file)
    assert f"Column label of {file} is {kind}; labels must be integers" in refusal(file)
    pq.write_table(pa.table(columns | {"id": [7, 8]}), file)
    assert f"is {kind}; labels must be integers" in refusal(file)  # id was taken for the labels


def test_parquet_with_the_index_of_pandas(tmp_path):
    content, index = [png(x) for x in X], list(range(3, 3 + len(X)))
    pq.write_table(pa.table({"image": content, "kind": Y, "__index_level_0__": index}), tmp_path / "d.parquet")
    same(tmp_path / "d.parquet", None)
    pq.write_table(pa.table({"image": content, "__index_level_0__": index}), tmp_path / "d.parquet")
    assert "needs a column of images" in refusal(tmp_path / "d.parquet")  # the index was taken for the labels


def test_parquet_without_rows(tmp_path):
    for kind in (pa.null(), pa.binary()):
        columns = {"image": pa.array([], kind), "label": pa.array([], pa.null())}
        pq.write_table(pa.table(columns), tmp_path / "d.parquet")
        assert "d.parquet has no rows; it must have at least one image" in refusal(tmp_path / "d.parquet")


def test_a_data_set_that_hugging_face_saved(tmp_path):
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    held = datasets.Dataset.from_dict({"image": [{"bytes": png(x), "path": None} for x in X], "label": Y}, features)
    held.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"train": held.select([0]), "test": held}).save_to_disk(str(tmp_path / "parts"))
    same(tmp_path / "one", ["cat", "dog"])
    same(tmp_path / "parts", ["cat", "dog"])
    (tmp_path / "one" / "state.json").write_text("{")
    assert "cannot be read as a saved data set" in refusal(tmp_path / "one")


def idx(array):
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def test_a_data_set_of_torchvision(tmp_path):
    pytest.importorskip("torchvision.datasets")
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    grey = np.random.default_rng(1).integers(0, 256, (4, 28, 28), dtype=np.uint8)
    for part in ("train", "t10k"):
        (raw / f"{part}-images-idx3-ubyte").write_bytes(idx(grey))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(idx(np.array([3, 1, 4, 1])))
    x, y = load_data(f"torchvision:MNIST:{tmp_path}")
    assert torch.equal(x[:, 0], torch.from_numpy(grey).float() / 255)
    assert y.tolist() == [3, 1, 4, 1]
    source = open_data(f"torchvision:MNIST:{tmp_path}")
    assert source.classes[3] == "3 - three"
    assert torch.equal(source.read(torch.tensor([2]))[0], x[2:3])
    assert "finds no CIFAR10" in refusal(f"torchvision:CIFAR10:{tmp_path}")
    assert "NAME one of MNIST" in refusal("torchvision:Nothing:here")


def test_pickled_data_sets_run_nothing(tmp_path):
    """A CIFAR-10 folder whose files are not the known ones is never unpickled; nor are object arrays."""
    pytest.importorskip("torchvision.datasets")
    batches = tmp_path / "cifar-10-batches-py"
    batches.mkdir()
    for name in ("test_batch", "batches.meta", *(f"data_batch_{i}" for i in range(1, 6))):
        (batches / name).write_bytes(pickle.dumps(Vault(tmp_path / "ran")))
    assert "finds no CIFAR10" in refusal(f"torchvision:CIFAR10:{tmp_path}")
    np.save(tmp_path / "x.npy", np.array([Vault(tmp_path / "ran")] * 2, object), allow_pickle=True)
    np.save(tmp_path / "y.npy", Y[:2])
    assert "Python objects, which are refused" in refusal(f"{tmp_path}/x.npy,{tmp_path}/y.npy")
    np.savez(tmp_path / "d.npz", x=np.array([Vault(tmp_path / "ran")] * 2, object), y=Y[:2])
    assert "refused" in refusal(tmp_path / "d.npz")
    assert not (tmp_path / "ran").exists()


class Vault:
    """Unpickling one runs code: it makes a file."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return Path.touch, (Path(self.file),)


FACTORY = """
import numpy, torch

X, Y = numpy.load({file!r}), [0, 1, 0, 1, 0, 1]

def arrays():
    return X, torch.tensor(Y)

class Pairs(torch.utils.data.Dataset):
    classes = ["cat", "dog"]
    def __len__(self):
        return 6
    def __getitem__(self, i):
        return torch.from_numpy(X[i]).float() / 255, Y[i]

def pairs():
    return Pairs()

def pictures():
    from PIL import Image
    return [(Image.fromarray(x.transpose(1, 2, 0)), y) for x, y in zip(X, Y)]

def number():
    return 3

def fails():
    raise OSError("no disk")
"""


def test_a_factory_of_data(tmp_path):
    np.save(tmp_path / "pixels.npy", X)
    file = tmp_path / "sets.py"
    file.write_text(FACTORY.format(file=str(tmp_path / "pixels.npy")))
    same(f"{file}:arrays")
    same(f"{file}:pairs", ["cat", "dog"])
    same(f"{file}:pictures")
    assert "object of type int" in refusal(f"{file}:number")
    assert "data set factory" in refusal(f"{file}:fails")
    assert "no data set file" in refusal(f"{tmp_path}/none.py:make")


def test_pictures_that_are_not_what_they_seem(tmp_path):
    root = folder(tmp_path / "root")
    (root / "b" / "5.png").write_bytes(png(np.zeros((3, 9, 9), np.uint8)))
    assert "has 9 x 9 pixels and the first 4 x 5" in refusal(root)
    (root / "b" / "5.png").write_bytes(png(X[5])[:60])
    assert "Image 5" in refusal(root)
    (root / "b" / "5.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 5\n")  # would start Ghostscript
    assert "not an image that can be read" in refusal(root)
    assert "no folder of images" in refusal(tmp_path / "root" / "a")


def bomb(width, height):
    """A PNG of a few bytes that claims to be so large."""
    import zlib

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("place", "said"), [(0, "Image 0 of"), (5, "has 8000 x 8000 pixels and the first 4 x 5")])
def test_decompression_bombs(tmp_path, place, said):
    root = folder(tmp_path / "root")
    (root / "ab"[Y[place]] / f"{place}.png").write_bytes(bomb(60000, 60000))
    assert "bomb" in refusal(root).lower()
    (root / "ab"[Y[place]] / f"{place}.png").write_bytes(bomb(8000, 8000))
    assert said in refusal(root)


def test_arrays_that_claim_terabytes(tmp_path):
    """The header of an .npy member, that of a single file, and the directory of the archive."""
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "<f4", "fortran_order": False, "shape": (10**6, 1000, 1000)})
    with zipfile.ZipFile(tmp_path / "d.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", head.getvalue() + bytes(1000))
        archive.writestr("y.npy", np_bytes(Y))
    assert "4e+03 GB, and contains 1000 bytes" in refusal(tmp_path / "d.npz")
    (tmp_path / "x.npy").write_bytes(head.getvalue() + bytes(1000))
    np.save(tmp_path / "y.npy", Y)
    assert "cannot be read as an array" in refusal(f"{tmp_path}/x.npy,{tmp_path}/y.npy")
    with zipfile.ZipFile(tmp_path / "e.npz", "w") as archive:
        archive.writestr("x.npy", np_bytes(X))
        archive.writestr("y.npy", np_bytes(Y))
        archive.getinfo("x.npy").file_size = 100 * DEFLATE * len(np_bytes(X))
    assert "more than it can hold" in refusal(tmp_path / "e.npz")


def test_what_unfolds_to_more_than_the_memory(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "d.npz", x=np.zeros((50, 3, 32, 32), np.float32), y=np.zeros(50, np.int64))
    monkeypatch.setattr("plica.utils.limits.memory", lambda: 100_000)
    with pytest.raises(ValueError, match="and this machine has"):
        load_data(tmp_path / "d.npz")
    folder(tmp_path / "root")
    monkeypatch.setattr("plica.utils.limits.memory", lambda: 1000)
    with pytest.raises(ValueError, match="and this machine has"):
        load_data(tmp_path / "root")


def test_members_that_point_out_of_the_archive(tmp_path):
    with zipfile.ZipFile(tmp_path / "d.npz", "w") as archive:
        archive.writestr("x.npy", np_bytes(X))
        archive.writestr("y.npy", np_bytes(Y))
        archive.writestr("../../outside.npy", np_bytes(Y))
    assert "points outside it" in refusal(tmp_path / "d.npz")


def np_bytes(array):
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("spec", "package", "said"),
    [("torchvision:MNIST:here", "torchvision.datasets", "plica[torchvision]"), ("saved", "datasets", "plica[hf]")],
)
def test_a_package_that_is_not_there(tmp_path, monkeypatch, spec, package, said):
    monkeypatch.chdir(tmp_path)
    Path("saved").mkdir()
    Path("saved/dataset_info.json").touch()
    monkeypatch.setitem(sys.modules, package, None)
    assert said in refusal(spec)
