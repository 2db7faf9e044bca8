"""The daily job from log to state."""

import dataclasses

import numpy as np
import pytest
from daily_run import (
    ITEMS,
    ROWS,
    TRAINED,
    contents,
    day,
    events_of,
    expected,
    of_days,
    publish,
    run_day,
    users_of,
    write_log,
)
from logs import write_parquet

from pinnerformer_jax.retrieval.scann_index import ScannIndex
from pinnerformer_jax.serving import daily, snapshot, state
from pinnerformer_jax.serving.manifest import IndexReport, read_manifest, verify_state
from pinnerformer_jax.serving.plan import Job
from pinnerformer_jax.serving.trained_model import TrainedModel


def test_the_first_run_embeds_everyone_of_the_timelines(first_state):
    _, workdir, snapshots = first_state
    row, table = users_of(snapshots)
    want = expected(workdir, of_days(ROWS, 0, TRAINED))
    assert row.keys() == want.keys()
    for user, vector in want.items():
        np.testing.assert_allclose(snapshot.vectors_of(table)[row[user]], vector, atol=1e-6)
    newest = {user: max(r["time"] for r in of_days(ROWS, 0, TRAINED) if r["user"] == user) for user in row}
    for user, moment in zip(row, table["event_timestamp"].to_pylist(), strict=True):
        assert moment.timestamp() == newest[user]
    assert set(table["created_timestamp"].to_pylist()) == {state.day_end(day(TRAINED - 1))}


def test_days_merged_equal_a_run_from_scratch(copied_state, tmp_path):
    folder, workdir, snapshots = copied_state
    for number in range(TRAINED, TRAINED + 3):
        before, _ = users_of(snapshots)
        name = run_day(copied_state, number)
        row, table = users_of(snapshots)
        active = {r["user"] for r in of_days(ROWS, number, number + 1)}
        counts = read_manifest(snapshots, name).counts
        assert counts.users.embedded_users == len(active)
        assert row.keys() == before.keys() | active
        created = dict(zip(row, table["created_timestamp"].to_pylist(), strict=True))
        assert {user for user in row if created[user] == state.day_end(day(number))} == active
        want = expected(workdir, of_days(ROWS, 0, number + 1))
        assert row.keys() == want.keys()
        for user in active:
            np.testing.assert_allclose(snapshot.vectors_of(table)[row[user]], want[user], atol=1e-6)

    everything = write_parquet(folder / "all.parquet", of_days(ROWS, 0, TRAINED + 3))
    publish(workdir, tmp_path / "new", date=day(TRAINED + 2), events=(everything,), dtype="float32")
    scratch_row, scratch = users_of(tmp_path / "new")
    assert scratch_row == row  # the same users
    np.testing.assert_allclose(snapshot.vectors_of(scratch), snapshot.vectors_of(table), atol=1e-6)
    assert scratch["n_events"].equals(table["n_events"])
    first, second = (events_of(root) for root in (snapshots, tmp_path / "new"))
    assert first.equals(second)


def test_the_same_days_give_the_same_bytes(first_state, tmp_path):
    _, workdir, _ = first_state
    log = write_log(tmp_path, ROWS, TRAINED)
    for root in ("a", "b"):
        publish(workdir, tmp_path / root, date=day(TRAINED - 1))
        publish(workdir, tmp_path / root, date=day(TRAINED), events=(log,))
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert len(contents(tmp_path / "a")) > 10


def test_a_day_can_be_run_again(copied_state):
    first = run_day(copied_state, TRAINED)
    before = contents(copied_state[2])
    assert run_day(copied_state, TRAINED) == first
    assert contents(copied_state[2]) == before
    mended = [row for row in ROWS if row["user"] != "u003"]
    base = read_manifest(copied_state[2], first).base
    second = run_day(copied_state, TRAINED, mended)
    assert second != first
    assert read_manifest(copied_state[2], second).base == base
    with pytest.raises(ValueError, match=f"--date {day(TRAINED - 1)}: .* of a later day is served"):
        run_day(copied_state, TRAINED - 1)


def test_requested_users_are_embedded(copied_state):
    folder, workdir, snapshots = copied_state
    (folder / "users.txt").write_text("u000\n\nu001\nnobody\n")
    table = users_of(snapshots)[1]
    name = publish(workdir, snapshots, users=folder / "users.txt", dtype="float32")
    manifest = read_manifest(snapshots, name)
    assert manifest.date == day(TRAINED - 1)
    assert manifest.counts.users.embedded_users == 2
    assert manifest.counts.users.named_without_vector == 1
    repaired = users_of(snapshots)[1]
    np.testing.assert_allclose(snapshot.vectors_of(repaired), snapshot.vectors_of(table), atol=1e-6)


def test_more_events_asked_of_a_user_than_are_kept(first_state, tmp_path):
    model = TrainedModel.load(first_state[1], "best")
    data = dataclasses.replace(model.config.data, min_user_events=1000)
    model = dataclasses.replace(model, config=dataclasses.replace(model.config, data=data))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainedModel, "load", classmethod(lambda *_: model))
        name = publish(first_state[1], tmp_path / "snapshots", date=day(TRAINED - 1))
    full = [
        u for u in {r["user"] for r in ROWS} if sum(r["user"] == u for r in of_days(ROWS, 0, TRAINED)) >= 24
    ]
    assert read_manifest(tmp_path / "snapshots", name).counts.users.embedded_users == len(full) > 0


def test_popular_items_are_all_items(first_state):
    _, _, snapshots = first_state
    popular = np.load(snapshots / state.current(snapshots) / "popular.npy")
    items = snapshot.read_parquet(snapshots / state.current(snapshots) / "items.parquet")[
        "item_id"
    ].to_pylist()
    assert sorted(popular.tolist()) == list(range(ITEMS))
    recent = of_days(ROWS, TRAINED - 28, TRAINED)
    # the store has only the newest 24 events of each user
    kept = [
        r
        for user in {r["user"] for r in ROWS}
        for r in sorted((r for r in of_days(ROWS, 0, TRAINED) if r["user"] == user), key=lambda r: r["time"])[
            -24:
        ]
        if r in recent
    ]
    counts = [sum(r["item"] == items[row] for r in kept) for row in popular]
    assert counts == sorted(counts, reverse=True)


def test_where_scann_does_not_load_there_is_no_index(first_state, tmp_path, monkeypatch):
    def build(*_):
        raise ImportError("no AVX here")

    monkeypatch.setattr(ScannIndex, "build", build)
    lines = []
    name = daily.run(Job(first_state[1], tmp_path / "snapshots", day(TRAINED - 1)), lines.append)
    assert not (tmp_path / "snapshots" / name / "index").exists()
    assert lines[-1] == "no index, search is exact: no AVX here"
    assert read_manifest(tmp_path / "snapshots", name).index == IndexReport(error="no AVX here")


def test_a_day_long_after_the_log_says_that_nothing_is_popular(first_state, tmp_path):
    for date, said in ((day(TRAINED - 1), False), (day(TRAINED + 60), True)):
        lines = []
        daily.run(Job(first_state[1], tmp_path / date, date), lines.append)
        assert (
            any(line.startswith(f"no positive event in the 28 days up to {date}") for line in lines) == said
        )


def test_a_damaged_state_is_not_built_on(copied_state):
    run_day(copied_state, TRAINED)
    snapshots = copied_state[2]
    file = snapshots / state.current(snapshots) / "users.parquet"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(ValueError, match=r"users.parquet: altered, its checksum is not the recorded one"):
        run_day(copied_state, TRAINED + 1)
    assert run_day(copied_state, TRAINED) == state.current(snapshots)  # its own day mends it
    verify_state(snapshots, state.current(snapshots))
    run_day(copied_state, TRAINED + 1)


def test_old_states_go(copied_state):
    snapshots = copied_state[2]
    for number in range(TRAINED, TRAINED + 4):
        run_day(copied_state, number, keep=2)
    kept = sorted(path.name for path in snapshots.glob("model_version=*/ds=*"))
    assert kept == [f"ds={day(TRAINED + 2)}", f"ds={day(TRAINED + 3)}"]
    with pytest.raises(ValueError, match="--keep 1: at least 2"):
        run_day(copied_state, TRAINED + 4, keep=1)
