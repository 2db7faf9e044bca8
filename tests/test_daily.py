"""The daily job from log to state."""

import dataclasses
import hashlib
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from daily_run import ITEMS, TRAINED, day, make_rows, make_run, of_days, publish, write_log
from logs import write_parquet

from pinnerformer_jax.data.contracts import Events, to_device_time
from pinnerformer_jax.model.inference import Embedder
from pinnerformer_jax.retrieval.scann_index import ScannIndex
from pinnerformer_jax.serving import daily, snapshot, state
from pinnerformer_jax.serving.manifest import IndexReport, read_manifest, verify_state, write_manifest
from pinnerformer_jax.serving.plan import Job
from pinnerformer_jax.serving.trained_model import TrainedModel

ROWS = make_rows()


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """(folder, workdir, snapshots) of a run whose first state, of day 29, is published."""
    folder = tmp_path_factory.mktemp("world")
    workdir = make_run(folder, ROWS)
    publish(workdir, folder / "snapshots", date=day(TRAINED - 1), dtype="float32")
    return folder, workdir, folder / "snapshots"


@pytest.fixture
def copy(world, tmp_path):
    """(folder for logs, workdir, snapshots), the snapshots a copy to write to."""
    shutil.copytree(world[2], tmp_path / "snapshots")
    return tmp_path, world[1], tmp_path / "snapshots"


def users_of(snapshots, name=None):
    table = snapshot.read_parquet(snapshots / (name or state.current(snapshots)) / "users.parquet")
    return dict(zip(table["user_id"].to_pylist(), range(len(table)), strict=True)), table


def run_day(copy, number, rows=ROWS, **job):
    folder, workdir, snapshots = copy
    log = write_log(folder, rows, number)
    return publish(workdir, snapshots, date=day(number), dtype="float32", events=(log,), **job)


def expected(workdir, rows):
    """{user: vector}, straight from rows, by the model."""
    model = TrainedModel.load(workdir, "best")
    number = {item: row for row, item in enumerate(model.catalog.item_ids)}
    manifest, width = model.timelines.manifest, model.config.model.max_length
    embedder = Embedder(model.graphdef, model.params, model.catalog.features)
    vectors = {}
    for user in sorted({row["user"] for row in rows}):
        mine = sorted((row for row in rows if row["user"] == user), key=lambda row: row["time"])
        if len(mine) < 2:
            continue
        mine = mine[-width:]
        short = (0, width - len(mine))

        def column(name, dtype, fill, mine=mine, short=short):
            return np.pad(np.array([row[name] for row in mine], dtype), short, constant_values=fill)[None]

        seconds = to_device_time(np.array([row["time"] for row in mine]))
        events = Events(
            item=np.pad(np.array([number[row["item"]] for row in mine], np.int32), short)[None],
            action=np.pad(np.array([manifest.actions.index(row["action"]) for row in mine], np.uint8), short)[
                None
            ],
            surface=np.pad(
                np.array([manifest.surfaces.index(row["surface"]) for row in mine], np.uint8), short
            )[None],
            time=np.pad(seconds, short, constant_values=2**31 - 1)[None],
            duration=column("duration", np.float32, 0),
        )
        vectors[user] = embedder.users(events, np.array([len(mine)], np.int32))[0]
    return vectors


def test_the_first_run_embeds_everyone_of_the_timelines(world):
    _, workdir, snapshots = world
    row, table = users_of(snapshots)
    want = expected(workdir, of_days(ROWS, 0, TRAINED))
    assert row.keys() == want.keys()
    for user, vector in want.items():
        np.testing.assert_allclose(snapshot.vectors_of(table)[row[user]], vector, atol=1e-6)
    newest = {user: max(r["time"] for r in of_days(ROWS, 0, TRAINED) if r["user"] == user) for user in row}
    for user, moment in zip(row, table["event_timestamp"].to_pylist(), strict=True):
        assert moment.timestamp() == newest[user]
    assert set(table["created_timestamp"].to_pylist()) == {state.day_end(day(TRAINED - 1))}


def test_days_merged_equal_a_run_from_scratch(copy, tmp_path):
    folder, workdir, snapshots = copy
    for number in range(TRAINED, TRAINED + 3):
        before, _ = users_of(snapshots)
        name = run_day(copy, number)
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
    first, second = (
        pq.read_table(root / state.current(root) / "events.parquet", partitioning=None)
        for root in (snapshots, tmp_path / "new")
    )
    assert first.equals(second)


def contents(folder):
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def test_the_same_days_give_the_same_bytes(world, tmp_path):
    _, workdir, _ = world
    log = write_log(tmp_path, ROWS, TRAINED)
    for root in ("a", "b"):
        publish(workdir, tmp_path / root, date=day(TRAINED - 1))
        publish(workdir, tmp_path / root, date=day(TRAINED), events=(log,))
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert len(contents(tmp_path / "a")) > 10


def test_a_day_can_be_run_again(copy):
    first = run_day(copy, TRAINED)
    before = contents(copy[2])
    assert run_day(copy, TRAINED) == first
    assert contents(copy[2]) == before
    mended = [row for row in ROWS if row["user"] != "u003"]
    base = read_manifest(copy[2], first).base
    second = run_day(copy, TRAINED, mended)
    assert second != first
    assert read_manifest(copy[2], second).base == base
    with pytest.raises(ValueError, match=f"--date {day(TRAINED - 1)}: .* of a later day is served"):
        run_day(copy, TRAINED - 1)


def test_an_overlapping_log_counts_once(copy):
    folder, workdir, snapshots = copy
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


def test_bad_rows_and_unknown_items_are_set_aside(copy):
    rows = of_days(ROWS, TRAINED, TRAINED + 1)
    odd = [
        rows[0] | {"item": "never heard of"},
        rows[1] | {"duration": -1.0},
        rows[2],  # an exact duplicate
    ]
    with pytest.raises(ValueError, match="2 of 36 rows") as refused:
        run_day(copy, TRAINED, rows + odd)
    assert str(copy[2] / "rejects.parquet") in str(refused.value)
    assert pq.read_table(copy[2] / "rejects.parquet").num_rows == 3
    name = run_day(copy, TRAINED, rows + odd, max_reject_share=0.1)
    assert not (copy[2] / "rejects.parquet").exists()
    counts = read_manifest(copy[2], name).counts
    assert counts.log.rejected == {
        "negative, NaN or infinite duration": 1, "item without a feature vector": 1, "exact duplicate": 1
    }  # fmt: skip
    rejected = pq.read_table(copy[2] / name / "rejects.parquet", partitioning=None)
    assert sorted(rejected["row"].to_pylist()) == [len(rows) + 1, len(rows) + 2, len(rows) + 3]


def test_requested_users_are_embedded(copy):
    folder, workdir, snapshots = copy
    (folder / "users.txt").write_text("u000\n\nu001\nnobody\n")
    table = users_of(snapshots)[1]
    name = publish(workdir, snapshots, users=folder / "users.txt", dtype="float32")
    manifest = read_manifest(snapshots, name)
    assert manifest.date == day(TRAINED - 1)
    assert manifest.counts.users.embedded_users == 2
    assert manifest.counts.users.named_without_vector == 1
    repaired = users_of(snapshots)[1]
    np.testing.assert_allclose(snapshot.vectors_of(repaired), snapshot.vectors_of(table), atol=1e-6)


def test_deleted_users_leave_and_stay_out(copy):
    folder, _, snapshots = copy
    user = "u001"
    (folder / "gone.txt").write_text(f"{user}\n")
    name = run_day(copy, TRAINED, tombstones=folder / "gone.txt")
    assert user not in users_of(snapshots)[0]
    events = pq.read_table(snapshots / name / "events.parquet", partitioning=None)
    assert user not in events["user_id"].to_pylist()
    assert read_manifest(snapshots, name).counts.events.deleted_users == 1

    rows = [row | {"user": user} for row in of_days(ROWS, TRAINED + 1, TRAINED + 2)]
    name = run_day(copy, TRAINED + 1, rows)  # they come back
    counts = read_manifest(snapshots, name).counts
    assert counts.events.of_deleted_users == counts.log.arrived > 0
    assert counts.users.embedded_users == 0
    assert user not in users_of(snapshots)[0]


def test_nothing_of_a_deleted_user_is_among_the_rejects(copy):
    folder, _, snapshots = copy
    (folder / "gone.txt").write_text("\ufeffu001\r\n", encoding="utf-8")  # as some editors write it
    rows = of_days(ROWS, TRAINED, TRAINED + 1)
    odd = [rows[0] | {"user": user, "item": "never heard of"} for user in ("u001", "u002")]
    again = rows[0] | {"user": "u001"}
    name = run_day(copy, TRAINED, [*rows, *odd, again, again], tombstones=folder / "gone.txt")
    rejected = pq.read_table(snapshots / name / "rejects.parquet", partitioning=None)
    assert rejected["user"].to_pylist() == ["u002"]


def test_a_log_may_have_columns_named_like_our_folders(copy):
    folder, workdir, snapshots = copy
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


def test_more_events_asked_of_a_user_than_are_kept(world, tmp_path):
    model = TrainedModel.load(world[1], "best")
    data = dataclasses.replace(model.config.data, min_user_events=1000)
    model = dataclasses.replace(model, config=dataclasses.replace(model.config, data=data))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainedModel, "load", classmethod(lambda *_: model))
        name = publish(world[1], tmp_path / "snapshots", date=day(TRAINED - 1))
    full = [
        u for u in {r["user"] for r in ROWS} if sum(r["user"] == u for r in of_days(ROWS, 0, TRAINED)) >= 24
    ]
    assert read_manifest(tmp_path / "snapshots", name).counts.users.embedded_users == len(full) > 0


@pytest.mark.slow
def test_a_new_model_embeds_everyone_and_rolls_back_as_one(copy, world):
    snapshots = copy[2]
    run_day(copy, TRAINED)
    old = state.current(snapshots)
    other = make_run(world[0], ROWS, seed=1)
    name = publish(other, snapshots, dtype="float32")
    manifest = read_manifest(snapshots, name)
    assert manifest.date == day(TRAINED)
    assert manifest.base == old
    assert (
        manifest.counts.users.embedded_users
        == manifest.counts.users.users
        == len(users_of(snapshots, old)[0])
    )
    assert manifest.model_version != read_manifest(snapshots, old).model_version
    want = expected(other, of_days(ROWS, 0, TRAINED + 1))
    row, table = users_of(snapshots)
    for user in row:
        np.testing.assert_allclose(snapshot.vectors_of(table)[row[user]], want[user], atol=1e-6)
    items = snapshot.read_parquet(snapshots / name / "items.parquet")
    assert snapshot.version_of(items) == manifest.model_version
    assert state.rollback(snapshots) == (name, old)
    assert state.current(snapshots) == old


@pytest.mark.slow
def test_longer_histories_are_read_from_the_timelines_again(copy, world):
    snapshots = copy[2]
    run_day(copy, TRAINED)
    other = make_run(world[0], ROWS, seed=2, max_length=32)
    name = publish(other, snapshots, dtype="float32")
    want = expected(other, of_days(ROWS, 0, TRAINED + 1))
    row, table = users_of(snapshots, name)
    assert row.keys() == want.keys()
    assert max(table["n_events"].to_pylist()) > 24
    for user in row:
        np.testing.assert_allclose(snapshot.vectors_of(table)[row[user]], want[user], atol=1e-6)


def test_a_damaged_state_is_not_built_on(copy):
    run_day(copy, TRAINED)
    snapshots = copy[2]
    file = snapshots / state.current(snapshots) / "users.parquet"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(ValueError, match=r"users.parquet: altered, its checksum is not the recorded one"):
        run_day(copy, TRAINED + 1)
    assert run_day(copy, TRAINED) == state.current(snapshots)  # its own day mends it
    verify_state(snapshots, state.current(snapshots))
    run_day(copy, TRAINED + 1)


def test_old_states_go(copy):
    snapshots = copy[2]
    for number in range(TRAINED, TRAINED + 4):
        run_day(copy, number, keep=2)
    kept = sorted(path.name for path in snapshots.glob("model_version=*/ds=*"))
    assert kept == [f"ds={day(TRAINED + 2)}", f"ds={day(TRAINED + 3)}"]
    with pytest.raises(ValueError, match="--keep 1: at least 2"):
        run_day(copy, TRAINED + 4, keep=1)


def test_wrong_input_changes_nothing(copy):
    folder, workdir, snapshots = copy
    before = contents(snapshots)
    numbers = [row | {"user": int(row["user"][1:])} for row in of_days(ROWS, TRAINED, TRAINED + 1)]
    (folder / "empty.txt").write_text("")
    for job, message in (
        ({"events": ("none.parquet",)}, "--events = 'none.parquet': no such file"),
        ({"events": (write_parquet(folder / "numbers.parquet", numbers),)},
         "data.columns.user = 'user' is of type BIGINT, in the data .* it was VARCHAR"),
        ({"events": ("tfds:movielens",)}, "a day's log is files"),
        ({"date": "yesterday"}, "--date 'yesterday': write a day such as"),
        ({"users": folder / "none.txt"}, "none.txt"),
        ({"date": day(0), "tombstones": folder / "empty.txt"}, "of a later day is served"),
    ):  # fmt: skip
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            publish(workdir, snapshots, **{"date": day(TRAINED), "dtype": "float32"} | job)
        assert contents(snapshots) == before


def test_popular_items_are_all_items(world):
    _, _, snapshots = world
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


def test_another_dtype_embeds_everyone(copy):
    _, workdir, snapshots = copy
    before = snapshot.vectors_of(users_of(snapshots)[1])
    name = publish(workdir, snapshots, dtype="float16")
    manifest = read_manifest(snapshots, name)
    assert manifest.dtype == "float16"
    assert manifest.counts.users.embedded_users == manifest.counts.users.users == len(before)
    after = snapshot.vectors_of(users_of(snapshots)[1])
    assert after.dtype == np.float16
    np.testing.assert_allclose(after, before, atol=1e-3)


def test_where_scann_does_not_load_there_is_no_index(world, tmp_path, monkeypatch):
    def build(*_):
        raise ImportError("no AVX here")

    monkeypatch.setattr(ScannIndex, "build", build)
    lines = []
    name = daily.run(Job(world[1], tmp_path / "snapshots", day(TRAINED - 1)), lines.append)
    assert not (tmp_path / "snapshots" / name / "index").exists()
    assert lines[-1] == "no index, search is exact: no AVX here"
    assert read_manifest(tmp_path / "snapshots", name).index == IndexReport(error="no AVX here")


@pytest.mark.slow
@pytest.mark.parametrize("part", ["users.parquet", "items.parquet", "index"])
def test_a_part_of_another_model_is_refused(copy, world, part):
    """Someone put it there, manifest mended."""
    snapshots = copy[2]
    old, folder = state.current(snapshots), snapshots / state.current(snapshots)
    other = snapshots / publish(make_run(world[0], ROWS, seed=1), snapshots, dtype="float32")
    state.rollback(snapshots)
    if part == "index":
        shutil.rmtree(folder / part)
        shutil.copytree(other / part, folder / part)
    else:
        shutil.copy(other / part, folder / part)
    manifest = read_manifest(snapshots, old)
    (folder / "manifest.json").unlink()
    write_manifest(folder, manifest)
    with pytest.raises(ValueError, match="of model version") as refused:
        run_day(copy, TRAINED)
    for path in (folder, other):
        assert path.parents[1].name.removeprefix("model_version=") in str(refused.value)
    assert state.current(snapshots) == old
