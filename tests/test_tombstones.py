"""Deleted users."""

import pyarrow as pa
import pytest

from pinnerformer_jax.serving.tombstones import add_tombstones, deleted_users, tombstone_files


def test_deleted_users_add_up(tmp_path):
    assert deleted_users(tmp_path, pa.int64()).to_pylist() == []
    add_tombstones(tmp_path, pa.array([3, 1]))
    add_tombstones(tmp_path, pa.array([3, 1]))  # the same list again
    add_tombstones(tmp_path, pa.array([7]))
    assert sorted(deleted_users(tmp_path, pa.int64()).to_pylist()) == [1, 3, 7]
    assert len(tombstone_files(tmp_path)) == 2
    with pytest.raises(ValueError, match="user ids of type int64, in the data they are string"):
        deleted_users(tmp_path, pa.string())
    tombstone_files(tmp_path)[0].write_bytes(b"less")
    with pytest.raises(ValueError, match="altered, its checksum is not the recorded one"):
        deleted_users(tmp_path, pa.int64())
