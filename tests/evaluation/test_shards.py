"""Shards divide the chunks of a plan."""

import pytest

from plica.evaluation.shards import parse_shard, shard_chunks
from plica.evaluation.strict import PlanError


@pytest.mark.parametrize("shards", range(1, 8))
@pytest.mark.parametrize("images", [0, 1, 5, 6, 7, 40])
@pytest.mark.parametrize("chunk", [1, 3, 6, 128])
def test_every_chunk_is_in_exactly_one_shard(images, chunk, shards):
    """And chunk k has the images k * chunk, ..., so that together they are all of them."""
    chunks = sorted(k for i in range(shards) for k in shard_chunks(f"{i + 1}/{shards}", images, chunk))
    assert chunks == list(shard_chunks(None, images, chunk))
    assert [i for k in chunks for i in range(k * chunk, min((k + 1) * chunk, images))] == list(range(images))


@pytest.mark.parametrize("text", ["0/4", "5/4", "1/0", "a/b", "1", "1/2/3", "-1/2"])
def test_what_is_not_a_shard(text):
    with pytest.raises(PlanError, match=r"is not valid; write i/N"):
        parse_shard(text)
