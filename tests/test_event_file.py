"""The file of events, merged as it is streamed."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pinnerformer_jax.serving import event_file


def table(users, seed):
    """One to five events of each user, told apart by their micros; the other columns are no matter here."""
    rng = np.random.default_rng(seed)
    owner = np.repeat(users, rng.integers(1, 6, len(users)))
    return pa.table({"user_id": [f"u{user:02d}" for user in owner], "micros": rng.permutation(len(owner))})


@pytest.mark.parametrize("group", [1, 3, 7, 1000])
@pytest.mark.parametrize("batch", [1, 4, 1000])
def test_changed_users_take_the_place_of_their_old_events(tmp_path, monkeypatch, group, batch):
    monkeypatch.setattr(event_file, "GROUP", group)
    old, new = table(range(2, 60, 2), 0), table([0, 1, 4, 7, 8, 31, 58, 59, 98, 99], 1)
    pq.write_table(old, tmp_path / "old.parquet", row_group_size=7)
    leaving = pa.array(["u02", "u04", "u08", "u58", "u77"])
    reader = pa.RecordBatchReader.from_batches(new.schema, new.to_batches(max_chunksize=batch))
    rows = event_file.merge_event_file(tmp_path / "old.parquet", reader, leaving, tmp_path / "new.parquet")

    stays = [event for event in old.to_pylist() if event["user_id"] not in leaving.to_pylist()]
    want = sorted(stays + new.to_pylist(), key=lambda event: event["user_id"])  # stable
    written = pq.ParquetFile(tmp_path / "new.parquet")
    assert written.read().to_pylist() == want
    assert rows == len(want)
    sizes = [written.metadata.row_group(k).num_rows for k in range(written.num_row_groups)]
    assert set(sizes[:-1]) <= {group}
    assert sizes[-1] <= group


def test_nothing_stored_or_nothing_changed(tmp_path):
    some, none = table(range(5), 0), table(range(5), 0).slice(0, 0)
    for old, new in ((some, none), (none, some), (none, none)):
        pq.write_table(old, tmp_path / "old.parquet")
        reader = pa.RecordBatchReader.from_batches(new.schema, new.to_batches())
        nobody = pa.array([], pa.string())
        rows = event_file.merge_event_file(tmp_path / "old.parquet", reader, nobody, tmp_path / "new.parquet")
        assert rows == len(old) + len(new)
        assert pq.read_table(tmp_path / "new.parquet").equals(some if rows else none)
