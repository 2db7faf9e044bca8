"""Files of events, one laid over another as they are streamed."""

from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pinnerformer_jax.serving import event_file
from pinnerformer_jax.serving.event_file import event_files, merged, overlay, write_event_files, write_sorted

NOBODY = pa.array([], pa.string())


def table(users, seed):
    """One to five events of each user, told apart by their micros; the other columns are no matter here."""
    rng = np.random.default_rng(seed)
    owner = np.repeat(users, rng.integers(1, 6, len(users)))
    return pa.table({"user_id": [f"u{user:02d}" for user in owner], "micros": rng.permutation(len(owner))})


def laid_over(older, newer, deleted=()):
    """What `overlay` should give, in plain Python."""
    leaving = {*deleted, *(row["user_id"] for row in newer)}
    stays = [row for row in older if row["user_id"] not in leaving]
    return sorted(stays + newer, key=lambda row: row["user_id"])  # stable


def parts(of, size):
    return [pa.Table.from_batches([batch]) for batch in of.to_batches(max_chunksize=size)]


@pytest.mark.parametrize("group", [1, 3, 7, 1000])
@pytest.mark.parametrize("batch", [1, 4, 1000])
def test_changed_users_take_the_place_of_their_old_events(tmp_path, group, batch):
    old, new = table(range(2, 60, 2), 0), table([0, 1, 4, 7, 8, 31, 58, 59, 98, 99], 1)
    deleted = pa.array(["u77", "u58", "u02", "u20"])
    want = laid_over(old.to_pylist(), new.to_pylist(), deleted.to_pylist())
    rows = overlay(parts(old, 7), parts(new, batch), old.schema, deleted)
    assert write_sorted(rows, old.schema, tmp_path / "new.parquet", group) == len(want)
    written = pq.ParquetFile(tmp_path / "new.parquet")
    assert written.read().to_pylist() == want
    sizes = [written.metadata.row_group(k).num_rows for k in range(written.num_row_groups)]
    assert set(sizes[:-1]) <= {group}
    assert sizes[-1] <= group


def test_nothing_stored_or_nothing_changed(tmp_path):
    some, none = table(range(5), 0), table(range(5), 0).slice(0, 0)
    for old, new in ((some, none), (none, some), (none, none)):
        rows = overlay([old], [new], old.schema, NOBODY)
        assert write_sorted(rows, old.schema, tmp_path / "new.parquet", 9) == len(old) + len(new)
        assert pq.read_table(tmp_path / "new.parquet").equals(some if len(old) + len(new) else none)


def test_tables_of_whole_users(monkeypatch):
    monkeypatch.setattr(event_file, "AT_ONCE", 8)
    old = table(range(30), 0)
    found = list(event_file.by_user(parts(old, 3)))
    assert pa.concat_tables(found).equals(old)
    users = [set(part["user_id"].to_pylist()) for part in found]
    assert sum(map(len, users)) == 30
    assert all(3 < len(part) < 16 for part in found[:-1])


def write_day(before, folder, new, deleted=NOBODY, *, whole=False):
    folder.mkdir()
    write_event_files(event_files(before), new.to_batches(), len(new), deleted, folder, whole=whole)
    return [file.name for file in event_files(folder)]


def test_a_night_writes_what_changed(tmp_path, monkeypatch):
    monkeypatch.setattr(event_file, "AT_ONCE", 8)
    first = tmp_path / "0"
    first.mkdir()
    pq.write_table(table(range(60), 0), first / "events.parquet")
    want = table(range(60), 0).to_pylist()
    names = {}
    for day, users in enumerate([[3, 61], [4], [], [3, 5, 6, 7], [5, 8, 70], [9], range(40)], 1):
        new = table(list(users), day)
        names[day] = write_day(tmp_path / f"{day - 1}", tmp_path / f"{day}", new)
        want = laid_over(want, new.to_pylist())
        files = event_files(tmp_path / f"{day}")
        assert pa.concat_tables(merged(files)).to_pylist() == want
        sizes = [pq.read_metadata(file).num_rows for file in files]
        assert all(older >= 2 * newer for older, newer in pairwise(sizes))
    assert names[1] == ["events.parquet", "events-00001.parquet"]
    assert names[2] == names[3]  # the day before is short, and merged; a day without events writes nothing
    assert (tmp_path / "3" / names[3][1]).samefile(tmp_path / "2" / names[2][1])
    assert (tmp_path / "6" / "events.parquet").samefile(first / "events.parquet")
    assert names[7] == ["events.parquet"]
    assert max(map(len, names.values())) >= 3


def test_deleted_users_leave_every_file(tmp_path):
    first = tmp_path / "0"
    first.mkdir()
    pq.write_table(table(range(60), 0), first / "events.parquet")
    write_day(first, tmp_path / "1", table([3, 4], 1))
    assert write_day(tmp_path / "1", tmp_path / "2", table([5], 2), pa.array(["u03"]), whole=True) == [
        "events.parquet"
    ]
    users = pq.read_table(tmp_path / "2" / "events.parquet")["user_id"].unique().to_pylist()
    assert users == [f"u{user:02d}" for user in range(60) if user != 3]
