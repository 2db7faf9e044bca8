"""Recommendations for many users in a file."""

import csv
import json
import shutil
import tracemalloc

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from daily_run import ROWS, TRAINED, day, events_of, make_run, publish, users_of

from pinnerformer_jax import recommend
from pinnerformer_jax.retrieval.priors import Priors, write_priors
from pinnerformer_jax.serving import bulk, event_file, state
from pinnerformer_jax.serving.own_items import OwnItems
from pinnerformer_jax.serving.recommender import Recommender
from pinnerformer_jax.serving.stores import open_store
from pinnerformer_jax.serving.tombstones import add_tombstones
from pinnerformer_jax.serving.user_events import UserEvents

RARE = {**ROWS[0], "user": "rare"}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Snapshots of a run with priors, and an LMDB store of them; user "rare" has one event and no vector."""
    folder = tmp_path_factory.mktemp("world")
    rows = [*ROWS, RARE]
    workdir, snapshots = make_run(folder, rows), folder / "snapshots"
    write_priors(workdir, Priors(0.4, 20.0, 0.2, 5.0, 0.6), 1, "by hand")
    publish(workdir, snapshots, date=day(TRAINED - 1), store=f"lmdb:{folder / 'store'}")
    log = folder / "rare.parquet"
    table = pa.Table.from_pylist([RARE])
    pq.write_table(table, log)
    publish(workdir, snapshots, date=day(TRAINED), events=(str(log),), store=f"lmdb:{folder / 'store'}")
    return snapshots, f"lmdb:{folder / 'store'}"


def read(file):
    """[(user, rank, item, score, model version, state)]."""
    if file.suffix == ".parquet":
        rows = pq.read_table(file).to_pylist()
    elif file.suffix == ".jsonl":
        rows = [json.loads(line) for line in file.read_text().splitlines()]
    else:
        with open(file, newline="") as lines:
            rows = list(csv.DictReader(lines))
    return [
        (row["user_id"], int(row["rank"]), row["item_id"], np.float32(row["score"]), row["model_version"],
         row["state"])
        for row in rows
    ]  # fmt: skip


@pytest.mark.parametrize("suffix", bulk.FORMATS)
@pytest.mark.parametrize("hide", [False, True])
@pytest.mark.parametrize("stored", [False, True])
def test_a_file_has_what_each_user_would_get(world, tmp_path, monkeypatch, suffix, hide, stored):
    monkeypatch.setattr(bulk, "AT_ONCE", 7)
    snapshots, url = world
    recommender = Recommender.open(snapshots, open_store(url) if stored else None)
    file = tmp_path / f"recs{suffix}"
    counts = bulk.write_recommendations(recommender, None, 5, file, exclude_seen=hide)
    users = sorted(users_of(snapshots)[0])
    alone = Recommender.open(snapshots, open_store(url) if stored else None, keep_events=False)
    wanted = []
    for user in users:
        found = alone.recommend(user, 5, exclude_seen=hide)
        assert not found.cold
        wanted += [
            (user, rank, item.id, np.float32(item.score), found.model_version, state.current(snapshots))
            for rank, item in enumerate(found.items, 1)
        ]
    assert read(file) == wanted
    assert (counts.users, counts.rows) == (len(users), len(wanted))


def test_who_is_left_out_is_counted_by_reason(world, tmp_path, capsys):
    snapshots, _ = world
    users = sorted(users_of(snapshots)[0])
    listed = tmp_path / "users.txt"
    listed.write_text(f"{users[0]}\nnobody\n rare \n\n{users[1]}\n{users[0]}\n")
    out = tmp_path / "recs.csv"
    arguments = ["--snapshots", str(snapshots), "--out", str(out), "-k", "2"]
    assert recommend.main([*arguments, "--users", str(listed)]) == 0
    assert capsys.readouterr().out == (
        f"{out}: 2 users, 4 recommendations; 2 users have no vector and are left out: 1 with too few events, "
        "1 unknown\n"
    )
    assert [row[0] for row in read(out)] == [users[0], users[0], users[1], users[1]]
    assert recommend.main([*arguments, "--user", users[1], "--user", "-x"]) == 0
    assert "2 recommendations; 1 users have no vector and are left out: 1 unknown" in capsys.readouterr().out


def test_deleted_users_are_not_in_the_file(world, tmp_path):
    snapshots = shutil.copytree(world[0], tmp_path / "snapshots")
    users = sorted(users_of(snapshots)[0])
    recommender = Recommender.open(snapshots)
    add_tombstones(snapshots, pa.array(users[:2]))
    counts = bulk.write_recommendations(recommender, None, 1, tmp_path / "recs.parquet")
    assert (counts.users, counts.deleted, counts.too_few_events) == (len(users) - 2, 2, 1)
    assert [row[0] for row in read(tmp_path / "recs.parquet")] == users[2:]


def test_a_failure_leaves_the_file_of_before(world, tmp_path, monkeypatch):
    file = tmp_path / "recs.csv"
    file.write_text("before")
    monkeypatch.setattr(bulk, "AT_ONCE", 5)
    recommender, calls = Recommender.open(world[0]), []

    def fail():
        calls.append(1)
        if len(calls) == 3:
            raise OSError("gone")
        return set()

    monkeypatch.setattr(recommender, "deleted_users", fail)
    with pytest.raises(OSError, match="gone"):
        bulk.write_recommendations(recommender, None, 5, file)
    assert file.read_text() == "before"
    assert list(tmp_path.iterdir()) == [file]


def test_nobody_gives_an_empty_table(world, tmp_path):
    recommender = Recommender.open(world[0])
    for suffix in bulk.FORMATS:
        file = tmp_path / f"recs{suffix}"
        assert bulk.write_recommendations(recommender, pa.array([], pa.string()), 5, file).rows == 0
        assert read(file) == []


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--all"], "--all needs --out FILE"),
        (["--users", "f"], "--users needs --out FILE"),
        (["--all", "--user", "a", "--out", "a.csv"], "not allowed with argument"),
        (["--user", "a", "--json", "--out", "a.csv"], "--json prints"),
        (["--all", "--out", "recs.xlsx"], "the name must end with one of .parquet, .csv, .jsonl"),
        (["--all", "--out", "recs.csv", "-k", "0"], "k = 0: must be at least 1"),
    ],
)
def test_wrong_use_is_named(world, capsys, tmp_path, monkeypatch, flags, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        recommend.main(["--snapshots", str(world[0]), *flags])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_json_is_printed_for_each_user(world, capsys):
    user = min(users_of(world[0])[0])
    arguments = ["--snapshots", str(world[0]), "--json", "-k", "2", "--user", user, "--user", "nobody"]
    assert recommend.main(arguments) == 0
    known, cold = map(json.loads, capsys.readouterr().out.splitlines())
    found = Recommender.open(world[0]).recommend(user, 2)
    assert known["user_id"] == user
    assert [(of["rank"], of["item_id"], of["score"]) for of in known["items"]] == [
        (rank, item.id, item.score) for rank, item in enumerate(found.items, 1)
    ]
    assert cold["cold"]
    assert {of["score"] for of in cold["items"]} == {None}


def test_items_in_memory_are_those_of_the_file(world, monkeypatch):
    """Whatever part of the file is read at a time, and however many row groups it has."""
    snapshots, _ = world
    loaded = Recommender.open(snapshots, keep_events=False).refresh()
    users = [*loaded.own_items.user_ids.to_pylist(), "nobody", ""]
    for at_once in (1, 10, 1 << 18):
        monkeypatch.setattr(event_file, "AT_ONCE", at_once)
        own = OwnItems.read(loaded.events, loaded.items["item_id"].combine_chunks(), loaded.counting)
        many, has_events = own.of_many(pa.array(users))
        for user, of, known in zip(users, many, has_events, strict=True):
            alone = loaded.own(user)
            for found in (of, own.of(user)):
                np.testing.assert_array_equal(found.rows, alone.rows)
                np.testing.assert_array_equal(found.counts, alone.counts)
            assert known == bool(len(loaded.events.of(user)))


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_user_is_found_in_every_row_group(world, tmp_path, size):
    snapshots, _ = world
    events = events_of(snapshots).combine_chunks()
    pq.write_table(events, tmp_path / "events.parquet", row_group_size=size)
    found = UserEvents([tmp_path / "events.parquet"])
    for user in [*events["user_id"].unique().to_pylist(), "", "u0005", "zzz"]:
        wanted = events.filter(pa.compute.equal(events["user_id"], user)).drop_columns("user_id")
        assert found.of(user).to_pylist() == wanted.to_pylist()


def test_memory_does_not_grow_with_the_users(world, tmp_path, monkeypatch):
    monkeypatch.setattr(bulk, "AT_ONCE", 64)
    recommender = Recommender.open(world[0])
    users = sorted(users_of(world[0])[0])

    def peak(times):
        ids = pa.array(users * times)
        tracemalloc.start()
        bulk.write_recommendations(recommender, ids, 5, tmp_path / "recs.csv")
        try:
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(1)
    assert peak(100) < 1.5 * peak(10) + 500_000


def test_the_parts_together_are_the_whole(world, tmp_path, capsys):
    snapshots, _ = world
    verb = ["--snapshots", str(snapshots), "--all", "-k", "3", "--out"]
    recommend.main([*verb, str(tmp_path / "all.parquet")])
    whole, together = read(tmp_path / "all.parquet"), []
    for part in range(1, 8):
        file = tmp_path / f"{part}.parquet"
        recommend.main([*verb, str(file), "--part", f"{part}/7"])
        together += read(file)
    assert together == whole
    assert len({row[0] for row in whole}) > 7
    with pytest.raises(SystemExit):
        recommend.main(["--snapshots", str(snapshots), "--user", "u001", "--part", "1/2"])
    assert "--part goes with --all" in capsys.readouterr().err
