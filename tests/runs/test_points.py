"""Which points of a part are stored, and how they are put together with the images again."""

import math

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from plica.core.domain.bounds import Bounds
from plica.runs.check.tensors import read_images
from plica.runs.points import moved, point_tensors, unmoved_ids, with_unmoved
from plica.runs.schema import BOUNDS, NOTES
from plica.runs.write import Store, write_bounds

X = torch.tensor([[[0.0, 0.2]], [[0.4, 0.6]], [[0.8, 1.0]]])
IMAGES = {"id": torch.tensor([4, 7, 9]), "x": (255 * X).round().to(torch.uint8)}


def test_a_point_with_one_other_pixel_has_moved():
    x_adv = X.clone()
    x_adv[1, 0, 1] = 0.5
    assert moved(X, x_adv).tolist() == [False, True, False]
    assert moved(X.double(), X).tolist() == [False] * 3  # in the dtype of the points
    one = torch.zeros(2, 1)
    assert moved(one, one + torch.tensor([[0.0], [1.0]])).tolist() == [False, True]


def test_tensors_that_are_none_are_left_out():
    assert set(point_tensors(X, None, None)) == {"x_adv"}
    assert set(point_tensors(X, torch.zeros(3, 2), IMAGES["id"])) == {"x_adv", "theta", "id"}


def test_images_without_a_point_and_at_distance_0_are_their_own(tmp_path):
    columns = {"id": [4, 7, 9, 11], "success": [True, False, True, False], "distance": [0.5, 0.5, 0.0, math.inf]}
    pq.write_table(pa.table(columns), tmp_path / "part.parquet")
    assert unmoved_ids(tmp_path / "part.parquet").tolist() == [7, 9, 11]


@pytest.mark.parametrize("theta", [None, torch.tensor([[1.0, 2.0]])])
def test_images_are_put_among_the_points_by_their_ids(theta):
    points = point_tensors(X[1:2] + 0.1, theta, torch.tensor([7]))
    together = with_unmoved(points, torch.tensor([4, 7, 9]), IMAGES)  # 7 has a point all the same
    assert together["id"].tolist() == [4, 7, 9]
    torch.testing.assert_close(together["x_adv"], torch.stack([X[0], X[1] + 0.1, X[2]]))
    if theta is None:
        assert "theta" not in together
    else:
        assert together["theta"][1].tolist() == [1.0, 2.0]
        assert together["theta"][[0, 2]].isnan().all()
    assert with_unmoved(points, torch.tensor([7]), IMAGES) is points
    only = with_unmoved(points, torch.tensor([9]), IMAGES)
    assert only["id"].tolist() == [7, 9]


def test_the_files_of_a_part(tmp_path):
    store = Store(tmp_path)
    samples, leaves = pa.table({"id": [4], "success": [True]}), pa.table({"id": [4]})
    store.write("task", 3, samples, torch.tensor([4]), X[:1], ["a note"], leaves=leaves)
    store.write("plain", 3, samples, torch.tensor([4]), X[:1])
    files = sorted(str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*") if file.is_file())
    assert files == [
        "parts/plain/00003.parquet", "parts/plain/00003.safetensors", "parts/task/00003.parquet",
        "parts/task/00003.safetensors", "parts/task/leaves-00003.parquet",
    ]  # fmt: skip
    assert pq.read_table(tmp_path / "parts/task/leaves-00003.parquet").to_pydict() == {"id": [4]}
    written = pq.read_table(tmp_path / "parts/task/00003.parquet")
    assert written.to_pydict() == {"id": [4], "success": [True]}
    assert written.schema.metadata[NOTES] == b'["a note"]'
    assert store.has("task", 3)
    assert not store.has("task", 4)


@pytest.mark.parametrize(("notes", "kept"), [(None, "{}"), ({"4": "broken"}, '{"4": "broken"}')])
def test_the_images_of_a_chunk_and_why_some_could_not_be_read(notes, kept, tmp_path):
    store = Store(tmp_path)
    assert not store.has_inputs(0)
    store.write_inputs(0, IMAGES["id"], X, torch.tensor([0, 1, 0]), notes)
    assert store.has_inputs(0)
    found = store.read_inputs(0)
    assert torch.equal(found["x"], IMAGES["x"])
    assert found["id"].tolist() == [4, 7, 9]
    assert found["y"].tolist() == [0, 1, 0]
    (file,) = (file for file in tmp_path.rglob("*") if file.is_file())
    assert kept.encode().replace(b'"', b'\\"') in file.read_bytes()
    assert set(read_images(file)) == {"x", "y", "id"}


def test_bounds_are_written_where_they_are_not_0_and_1(tmp_path):
    zero, one = torch.tensor(0.0).double(), torch.tensor(1.0).double()
    write_bounds(tmp_path, Bounds(zero, one))
    assert not (tmp_path / BOUNDS).exists()
    write_bounds(tmp_path, Bounds(zero, 2 * one))
    assert (tmp_path / BOUNDS).is_file()
