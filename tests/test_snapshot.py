"""The Parquet of users and items."""

import datetime

import numpy as np
import pyarrow as pa
import pytest

from pinnerformer_jax.serving import snapshot
from pinnerformer_jax.serving.event_file import overlay
from pinnerformer_jax.serving.snapshot import SnapshotVectors, user_table

CREATED = datetime.datetime(2026, 3, 2, tzinfo=datetime.UTC)
NONE = pa.array([], pa.string())


def merge_users(old, new, deleted):
    return pa.concat_tables(overlay([old], [new], old.schema, deleted)).combine_chunks()


def users(ids, value, version="a", dtype=np.float16):
    count = len(ids)
    vectors = np.full((count, 3), value, dtype)
    return user_table(
        pa.array(ids, pa.string()), np.arange(count), CREATED, vectors, np.ones(count, int), version
    )


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_a_snapshot_comes_back_as_it_was(tmp_path, dtype):
    table = users(["a", "b"], 0.25, dtype=dtype)
    for name in ("one", "two"):
        snapshot.write_parquet(table, tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    back = snapshot.read_parquet(tmp_path / "one")
    assert back.schema.equals(table.schema)
    assert back.equals(table)
    assert snapshot.version_of(back) == "a"
    assert snapshot.vectors_of(back).dtype == dtype
    kind = back.schema.field("embedding").type
    assert (kind.list_size, kind.value_type) == (3, pa.from_numpy_dtype(dtype))
    assert [str(back.schema.field(f"{name}_timestamp").type) for name in ("event", "created")] == [
        "timestamp[us, tz=UTC]"
    ] * 2
    assert back["created_timestamp"].to_pylist() == [CREATED] * 2


def test_the_new_vector_wins_and_the_old_stays():
    merged = merge_users(users(["a", "b", "d"], 0.0), users(["b", "c"], 1.0), NONE)
    assert merged["user_id"].to_pylist() == ["a", "b", "c", "d"]
    assert snapshot.vectors_of(merged)[:, 0].tolist() == [0, 1, 1, 0]
    assert snapshot.version_of(merged) == "a"


def test_who_is_gone_leaves():
    merged = merge_users(users(["a", "b"], 0.0), users([], 1.0), pa.array(["a", "x"]))
    assert merged["user_id"].to_pylist() == ["b"]


def test_versions_are_not_mixed():
    with pytest.raises(ValueError, match="the earlier snapshot of model version a, the new one of b: vec"):
        snapshot.check_same_version({"the earlier snapshot": "a", "the new one": "b"})
    snapshot.check_same_version({"users": "a", "items": "a"})


@pytest.mark.parametrize(
    "ids",
    [
        pa.array(["", "B", "a", "aa", "é", "日本", "\U0001f600"]),
        pa.array([-5, 0, 7, 2**40]),
        pa.array([1.5, 2.5]),
        pa.array([b"\x00", b"\xff"]),
    ],
)
def test_every_user_is_found_and_no_other(ids):
    shuffled = ids.take(pa.array(np.random.default_rng(0).permutation(len(ids))))
    vectors = np.arange(len(ids) * 2, dtype=np.float16).reshape(-1, 2)
    table = user_table(shuffled, np.zeros(len(ids), int), CREATED, vectors, np.ones(len(ids), int), "a")
    table = table.sort_by("user_id")
    found = SnapshotVectors.of(table)
    assert found.model_version == "a"
    for user, vector in zip(shuffled.to_pylist(), vectors, strict=True):
        got = found.get(user)
        assert got.dtype == np.float32
        np.testing.assert_array_equal(got, vector)
    last = ids[-1].as_py()
    assert found.get(last + last) is None
    assert found.get(type(last)()) is None or type(last)() in ids.to_pylist()
