"""Users embedded from a table of their events."""

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from daily_run import ROWS, TRAINED, make_first_state, of_days

from pinnerformer_jax.serving import snapshot, state
from pinnerformer_jax.serving.embed_events import embed_events


class Interchanged:
    """A table of a library that speaks the interchange protocol alone."""

    def __init__(self, table):
        self._table = table

    def __dataframe__(self, *arguments, **named):
        return self._table.__dataframe__(*arguments, **named)


class Streamed:
    """A table of a library that speaks Arrow."""

    def __init__(self, table):
        self._table = table

    def __arrow_c_stream__(self, schema=None):
        return self._table.__arrow_c_stream__(schema)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """(workdir, the trained log as a table, users of the state that the daily job makes of it)"""
    folder = tmp_path_factory.mktemp("world")
    workdir, snapshots = make_first_state(folder, dtype="float32")
    users = snapshots / state.current(snapshots) / "users.parquet"
    return workdir, pq.read_table(folder / "log.parquet"), snapshot.read_parquet(users)


def test_vectors_are_those_of_the_daily_job(world):
    workdir, log, published = world
    found = embed_events(workdir, log)
    assert found.column_names == ["user_id", "event_timestamp", "n_events", "embedding"]
    row = {user: number for number, user in enumerate(found["user_id"].to_pylist())}
    rows = [row[user] for user in published["user_id"].to_pylist()]
    np.testing.assert_allclose(snapshot.vectors_of(found)[rows], snapshot.vectors_of(published), atol=1e-6)
    assert found["event_timestamp"].take(rows).to_pylist() == published["event_timestamp"].to_pylist()
    assert found["n_events"].take(rows).to_pylist() == published["n_events"].to_pylist()


def test_users_that_the_run_does_not_know(world):
    workdir, _, _ = world
    known = {row["user"] for row in of_days(ROWS, 0, TRAINED)}
    new = [row for row in of_days(ROWS, TRAINED, TRAINED + 5) if row["user"] not in known]
    found = embed_events(workdir, pa.Table.from_pylist(new))
    assert found["user_id"].to_pylist() == sorted({row["user"] for row in new})
    np.testing.assert_allclose(np.linalg.norm(snapshot.vectors_of(found), axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("kind", [Interchanged, Streamed])
def test_tables_of_any_library(world, kind):
    workdir, log, _ = world
    few = log.slice(0, 30)
    assert embed_events(workdir, kind(few)).equals(embed_events(workdir, few))


def test_what_does_not_do_is_said(world):
    workdir, log, _ = world
    with pytest.raises(ValueError, match="give a pandas, polars or Arrow table"):
        embed_events(workdir, [{"user": "u1"}])
    with pytest.raises(ValueError, match=r"data\.columns\.item"):
        embed_events(workdir, log.drop_columns(["item"]))
    foreign = log.set_column(log.column_names.index("item"), "item", pa.array(["x"] * len(log)))
    with pytest.raises(ValueError, match="none is of an item of the run's catalogue"):
        embed_events(workdir, foreign)
    broken = log.set_column(log.column_names.index("time"), "time", pa.nulls(len(log), pa.int64()))
    with pytest.raises(ValueError, match=r"\(100\.0%\) are bad; data\.max_reject_share") as stopped:
        embed_events(workdir, broken)
    listed = Path(re.search(r"Each is listed in (\S+)", str(stopped.value))[1])
    assert len(pq.read_table(listed)) == len(log)
    listed.unlink()
    with pytest.raises(FileNotFoundError, match="no run here"):
        embed_events("nowhere", log)
