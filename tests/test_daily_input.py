"""What the daily job makes of a log, of deleted users and of wrong input."""

import dataclasses

import pyarrow.parquet as pq
import pytest
from daily_run import (
    ROWS,
    TRAINED,
    contents,
    day,
    events_of,
    of_days,
    publish,
    run_day,
    users_of,
)
from logs import write_parquet

from pinnerformer_jax.serving import daily
from pinnerformer_jax.serving.event_file import event_files
from pinnerformer_jax.serving.manifest import read_manifest
from pinnerformer_jax.serving.plan import Job
from pinnerformer_jax.serving.trained_model import TrainedModel


def test_an_overlapping_log_counts_once(copied_state):
    folder, workdir, snapshots = copied_state
    log = write_parquet(folder / "two.parquet", of_days(ROWS, TRAINED - 5, TRAINED + 2))
    name = publish(workdir, snapshots, date=day(TRAINED), events=(log,), dtype="float32")
    counts = read_manifest(snapshots, name).counts
    assert counts.log.after_day == len(of_days(ROWS, TRAINED + 1, TRAINED + 2)) > 0
    assert counts.events.new_events == len(of_days(ROWS, TRAINED, TRAINED + 1))
    assert counts.users.embedded_users == len({r["user"] for r in of_days(ROWS, TRAINED, TRAINED + 1)})
    log = counts.log
    assert log.rows == log.out_of_scope + log.other_actions + log.after_day + log.arrived + sum(
        log.rejected.values()
    )


def test_bad_rows_and_unknown_items_are_set_aside(copied_state):
    rows = of_days(ROWS, TRAINED, TRAINED + 1)
    odd = [
        rows[0] | {"item": "never heard of"},
        rows[1] | {"duration": -1.0},
        rows[2],  # an exact duplicate
    ]
    with pytest.raises(ValueError, match="2 of 36 rows") as refused:
        run_day(copied_state, TRAINED, rows + odd)
    assert str(copied_state[2] / "rejects.parquet") in str(refused.value)
    assert pq.read_table(copied_state[2] / "rejects.parquet").num_rows == 3
    name = run_day(copied_state, TRAINED, rows + odd, max_reject_share=0.1)
    assert not (copied_state[2] / "rejects.parquet").exists()
    counts = read_manifest(copied_state[2], name).counts
    assert counts.log.rejected == {
        "negative, NaN or infinite duration": 1, "item without a feature vector": 1, "exact duplicate": 1
    }  # fmt: skip
    rejected = pq.read_table(copied_state[2] / name / "rejects.parquet", partitioning=None)
    assert sorted(rejected["row"].to_pylist()) == [len(rows) + 1, len(rows) + 2, len(rows) + 3]


def test_a_log_may_have_columns_named_like_our_folders(copied_state):
    folder, workdir, snapshots = copied_state
    rows = of_days(ROWS, TRAINED, TRAINED + 1)
    lines = [",".join([*rows[0], "ds"])] + [",".join(map(str, [*row.values(), "app"])) for row in rows]
    (folder / "day.csv").write_text("\n".join(lines) + "\n")
    config = TrainedModel.load(workdir, "best").config
    data = dataclasses.replace(config.data, where="CAST(ds AS VARCHAR) = 'app'", max_reject_share=1.0)
    job = Job(workdir, snapshots, day(TRAINED), events=(str(folder / "day.csv"),), dtype="float32")
    model = dataclasses.replace(
        TrainedModel.load(workdir, "best"), config=dataclasses.replace(config, data=data)
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainedModel, "load", classmethod(lambda *_: model))
        name = daily.run(job, lambda text: None)
    counts = read_manifest(snapshots, name).counts
    assert (counts.log.out_of_scope, counts.events.new_events) == (0, len(rows))


def test_deleted_users_leave_and_stay_out(copied_state):
    folder, _, snapshots = copied_state
    user = "u001"
    (folder / "gone.txt").write_text(f"{user}\n")
    name = run_day(copied_state, TRAINED, tombstones=folder / "gone.txt")
    assert user not in users_of(snapshots)[0]
    assert user not in events_of(snapshots, name)["user_id"].to_pylist()
    for file in event_files(snapshots / name):
        assert user not in pq.read_table(file, partitioning=None)["user_id"].to_pylist()
    assert read_manifest(snapshots, name).counts.events.deleted_users == 1

    rows = [row | {"user": user} for row in of_days(ROWS, TRAINED + 1, TRAINED + 2)]
    name = run_day(copied_state, TRAINED + 1, rows)  # they come back
    counts = read_manifest(snapshots, name).counts
    assert counts.events.of_deleted_users == counts.log.arrived > 0
    assert counts.users.embedded_users == 0
    assert user not in users_of(snapshots)[0]


def test_nothing_of_a_deleted_user_is_among_the_rejects(copied_state):
    folder, _, snapshots = copied_state
    (folder / "gone.txt").write_text("\ufeffu001\r\n", encoding="utf-8")  # as some editors write it
    rows = of_days(ROWS, TRAINED, TRAINED + 1)
    odd = [rows[0] | {"user": user, "item": "never heard of"} for user in ("u001", "u002")]
    again = rows[0] | {"user": "u001"}
    name = run_day(copied_state, TRAINED, [*rows, *odd, again, again], tombstones=folder / "gone.txt")
    rejected = pq.read_table(snapshots / name / "rejects.parquet", partitioning=None)
    assert rejected["user"].to_pylist() == ["u002"]


def test_wrong_input_changes_nothing(copied_state):
    folder, workdir, snapshots = copied_state
    before = contents(snapshots)
    numbers = [row | {"user": int(row["user"][1:])} for row in of_days(ROWS, TRAINED, TRAINED + 1)]
    (folder / "empty.txt").write_text("")
    for job, message in (
        ({"events": ("none.parquet",)}, "--events = 'none.parquet': no such file"),
        ({"events": (write_parquet(folder / "numbers.parquet", numbers),)},
         "data.columns.user = 'user' is of type BIGINT, in the data .* it was VARCHAR"),
        ({"events": ("tfds:movielens",)}, "a day's log is files"),
        ({"date": "yesterday"}, "--date 'yesterday': write a day such as"),
        ({"date": "9999-12-31"}, "--date '9999-12-31': write a day such as"),
        ({"users": folder / "none.txt"}, "none.txt"),
        ({"date": day(0), "tombstones": folder / "empty.txt"}, "of a later day is served"),
    ):  # fmt: skip
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            publish(workdir, snapshots, **{"date": day(TRAINED), "dtype": "float32"} | job)
        assert contents(snapshots) == before
