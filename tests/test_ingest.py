"""Ingest, end to end: the same as a plain Python reading of the log, and a clear error for a bad one."""

import dataclasses
import gzip
import hashlib
import random
import re

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from logs import COLUMNS, DAYS, START, given, make_events, without_vectors, write_items, write_parquet

from pinnerformer_jax.config import ColumnsConfig, PositiveRule
from pinnerformer_jax.config_files import to_dict
from pinnerformer_jax.data.catalog import Catalog
from pinnerformer_jax.data.contracts import DAY, format_time
from pinnerformer_jax.data.timelines import EVALUATION, ROLES, TRAIN, VALIDATION, Timelines
from pinnerformer_jax.ingestion import rejects, tfds_in
from pinnerformer_jax.ingestion.ingest import prepare


def quiet(text):
    assert text


def stored(config):
    """{user id: (role, events up to the split, [(item id, time, action, surface, duration)])}"""
    timelines, catalog = Timelines.open(config.data.prepared, verify=True), Catalog.open(config.data.prepared)
    manifest, ids, out = timelines.manifest, catalog.item_ids, {}
    for first, shard in timelines.by_shard():
        users = timelines.user_ids(np.arange(first, first + shard.users))
        for u, user in enumerate(users):
            part = slice(*shard.offsets[u : u + 2])
            columns = (
                [ids[k] for k in shard.item[part]],
                shard.time[part].tolist(),
                [manifest.actions[k] for k in shard.action[part]],
                [manifest.surfaces[k] for k in shard.surface[part]],
                shard.duration[part].tolist(),
            )
            out[user] = (int(shard.role[u]), int(shard.cut[u]), list(zip(*columns, strict=True)))
    return out


def expected(rows, config, split, end):
    """`stored`, from rows without bad ones, in plain Python."""
    seen, users = set(), {}
    for row in rows:
        event = tuple(row[name] for name in ("item", "time", "action", "surface", "duration"))
        if (row["user"], event) not in seen and row["time"] <= end:
            seen.add((row["user"], event))
            users.setdefault(row["user"], []).append((*event[:4], float(np.float32(event[4]))))
    out = {}
    for user, events in users.items():
        cut = sum(event[1] <= split for event in events)
        if cut < config.data.min_user_events:
            continue
        share = int.from_bytes(hashlib.md5(user.encode()).digest()[8:], "little") / 2**64
        role = EVALUATION if share < 0.3 else VALIDATION if share < 0.4 else TRAIN
        out[user] = (role, cut, sorted(events, key=lambda event: (event[1], tie(event))))
    return out


def tie(event):
    item, _, action, surface, duration = event
    text = "|".join((item, action, surface, str(np.float32(duration))))
    return int.from_bytes(hashlib.md5(text.encode()).digest()[8:], "little")


def split_of(days_before_end):
    return START + DAYS * DAY - days_before_end * DAY


def test_a_log_as_plain_python_reads_it(tmp_path):
    rows = make_events()
    split = split_of(12)
    config = given(tmp_path, split_time=format_time(split), evaluation_days=5, min_user_events=8)
    config = dataclasses.replace(
        config, data=dataclasses.replace(config.data, positives=(PositiveRule("like", 10.0, "home"),))
    )
    manifest = prepare(config, quiet)
    end = split + 5 * DAY
    want = expected(rows, config, split, end)
    assert stored(config) == want
    assert (manifest.split_time, manifest.evaluation_end) == (split, end)
    assert manifest.actions == ["", "view", "like", "save"]
    assert sorted(manifest.surfaces) == ["", "home", "search"]
    assert manifest.config == {"data": to_dict(config.data), "items": to_dict(config.items)}

    counts = manifest.counts
    kept = [event for _, _, events in want.values() for event in events]
    assert counts["rows"] == len(rows) == (
        counts["out_of_scope"] + sum(counts["rejected"].values()) + counts["other_actions"]
        + counts["after_window"] + counts["of_small_users"] + counts["events"]
    )  # fmt: skip
    assert counts["events"] == len(kept)
    assert counts["positives"] == sum(e[2] == "like" and e[3] == "home" and e[4] >= 10 for e in kept)
    assert counts["after_window"] > 0
    assert counts["of_small_users"] > 0
    roles = [role for role, _, _ in want.values()]
    assert counts["users"] == {name: roles.count(role) for name, role in ROLES.items()}
    assert counts["evaluated_users"] == sum(r == EVALUATION and len(e) > cut for r, cut, e in want.values())
    assert counts["small_users"] == 40 - len(want)


def test_the_split_is_a_window_before_the_end_by_default(tmp_path):
    config = given(tmp_path, evaluation_days=10.5)
    manifest = prepare(config, quiet)
    last = max(row["time"] for row in make_events())
    assert (manifest.split_time, manifest.evaluation_end) == (last - 10.5 * DAY, last)
    assert stored(config) == expected(make_events(), config, manifest.split_time, last)


def test_parquet_csv_gz_and_many_files_give_the_same_timelines(tmp_path):
    rows = make_events()
    config = given(tmp_path)
    prepare(config, quiet)
    want = stored(config)
    table = pa.Table.from_pylist(rows)
    (tmp_path / "many").mkdir()
    for k in range(4):  # row order differs, files are of three kinds
        part = table.take(list(range(len(rows)))[3 - k :: 4])
        path = tmp_path / "many" / f"{k}.csv"
        if k % 2:
            pa.csv.write_csv(part, path)
        if k == 1:
            path.with_suffix(".csv.gz").write_bytes(gzip.compress(path.read_bytes()))
            path.unlink()
        if k % 2 == 0:
            pq.write_table(part, tmp_path / "many" / f"{k}.parquet")
    patterns = tuple(str(tmp_path / "many" / f"*.{suffix}") for suffix in ("csv", "csv.gz", "parquet"))
    casts = dataclasses.replace(COLUMNS, time="CAST(time AS BIGINT)")
    other = given(tmp_path, events=patterns, columns=casts, prepared=str(tmp_path / "other"))
    prepare(other, quiet)
    assert stored(other) == want


def contents(folder):
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.rglob("*")) if file.is_file()
    }  # fmt: skip


def test_the_same_log_gives_the_same_bytes(tmp_path):
    rows = make_events()
    rows += [*rows[:10], rows[0] | {"time": -1}]
    write_parquet(tmp_path / "log.parquet", rows)
    for config in (given(tmp_path), without_vectors(given(tmp_path))):
        prepare(config, quiet)
        first = contents(tmp_path / "prepared")
        prepare(config, quiet)
        assert contents(tmp_path / "prepared") == first
        assert len(first) == 3 + 3 * 9 + 1
        random.Random(0).shuffle(rows)  # the order of rows shows in the rejects alone
        write_parquet(tmp_path / "log.parquet", rows)
        prepare(config, quiet)
        for name, data in contents(tmp_path / "prepared").items():
            if name not in ("rejects.parquet", "manifest.json"):
                assert data == first[name], name


def test_more_users_change_nobody(tmp_path):
    rows = make_events()
    config = given(tmp_path, split_time=format_time(split_of(14)))
    prepare(config, quiet)
    few = stored(config)
    others = [row | {"user": "new" + row["user"]} for row in make_events(seed=5)]
    write_parquet(tmp_path / "log.parquet", others + rows)
    prepare(config, quiet)
    many = stored(config)
    assert len(many) > len(few)
    assert {user: many[user] for user in few} == few


@pytest.mark.parametrize(
    ("make_id", "kind"),
    [
        (lambda k: f"{k:05d}", pa.string()),
        (lambda k: 2**63 - 1 - k, pa.int64()),
        (lambda k: 2**64 - 1 - k, pa.uint64()),
        (lambda k: f"使用者 {k} ñ", pa.string()),
    ],
    ids=["leading zeros", "64 bits", "64 bits unsigned", "UTF-8"],
)
def test_ids_come_out_as_they_went_in(tmp_path, make_id, kind):
    rows = [
        row | {"user": make_id(int(row["user"][1:])), "item": make_id(int(row["item"][1:]))}
        for row in make_events()
    ]
    write_parquet(tmp_path / "log.parquet", rows, user=kind, item=kind)
    write_items(tmp_path / "items.parquet", item=pa.array([make_id(k) for k in range(15)], kind))
    config = given(tmp_path, min_user_events=1)
    prepare(config, quiet)
    assert set(stored(config)) == {row["user"] for row in rows}
    assert sorted(Catalog.open(config.data.prepared).item_ids) == sorted(make_id(k) for k in range(15))
    ids = pq.read_table(tmp_path / "prepared" / "catalog" / "items.parquet")["item_id"]
    assert ids.type == kind


def test_bad_rows_are_set_aside(tmp_path):
    rows = make_events()
    good = len(rows)
    bad = rows[0] | {"time": rows[0]["time"] + 1}
    for change in ({"user": None}, {"item": None}, {"time": None}, {"time": -5}, {"duration": -1.0}):
        rows.append(bad | change)
    rows += [rows[3], bad | {"item": "unknown"}, bad | {"action": "hide"}]
    write_parquet(tmp_path / "log.parquet", rows)
    config = given(tmp_path, sequence_actions=("view", "like", "save"))
    counts = prepare(config, quiet).counts
    reasons = [
        rejects.NO_USER, rejects.NO_ITEM, rejects.NO_TIME, rejects.TIME_RANGE, rejects.DURATION_RANGE,
        rejects.DUPLICATE, rejects.NO_VECTOR,
    ]  # fmt: skip
    assert counts["rejected"] == dict.fromkeys(sorted(reasons, key=list(rejects.REASONS).index), 1)
    assert counts["other_actions"] == 1
    table = pq.read_table(tmp_path / "prepared" / "rejects.parquet").to_pylist()
    assert [(row["row"], row["reason"]) for row in table] == [
        (good + k, reason) for k, reason in enumerate(reasons, start=1)
    ]
    assert {row["file"] for row in table} == {str(tmp_path / "log.parquet")}
    assert table[3]["time"] == "-5"


def test_too_many_bad_rows_stop_the_run_and_stay_to_be_looked_at(tmp_path):
    rows = make_events()
    path = tmp_path / "prepared.rejects.parquet"
    write_parquet(tmp_path / "log.parquet", [row | {"time": row["time"] * 1000} for row in rows])
    with pytest.raises(ValueError, match=f"480 of 480 rows .*\n.*data.time_unit.*\n.*{re.escape(str(path))}"):
        prepare(given(tmp_path), quiet)
    assert len(pq.read_table(path)) == 480
    assert not (tmp_path / "prepared").exists()
    prepare(given(tmp_path, time_unit="ms"), quiet)  # as the message says
    assert not path.exists()


def test_a_failed_run_keeps_what_was_prepared_before(tmp_path):
    config = given(tmp_path)
    prepare(config, quiet)
    before = contents(tmp_path / "prepared")
    with pytest.raises(ValueError, match=r"data.split_time"):
        prepare(given(tmp_path, split_time="2001-01-01"), quiet)
    assert contents(tmp_path / "prepared") == before
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_rows_out_of_scope_and_unknown_surfaces_are_counted(tmp_path):
    rows = make_events()
    rows = [row | {"surface": None if k % 7 == 0 else row["surface"]} for k, row in enumerate(rows)]
    write_parquet(tmp_path / "log.parquet", rows)
    config = given(tmp_path, where="duration < 30", min_user_events=1)
    counts = prepare(config, quiet).counts
    assert counts["out_of_scope"] == sum(row["duration"] >= 30 for row in rows)
    users = stored(config)
    kept = [row for row in rows if row["duration"] < 30 and row["user"] in users]
    assert counts["events"] == len(kept) == sum(len(events) for _, _, events in users.values())
    assert counts["unknown_surfaces"] == sum(row["surface"] is None for row in kept)
    assert counts["unknown_actions"] == 0
    assert sorted(Timelines.open(config.data.prepared).manifest.surfaces) == ["", "home", "search"]


def test_milliseconds_order_events_of_a_second(tmp_path):
    rows = [
        {"user": f"u{k % 40}", "item": f"i{k % 5}", "time": (START + k // 400 * DAY) * 1000 + 999 - k % 400}
        for k in range(4000)
    ]
    write_parquet(tmp_path / "log.parquet", rows)
    config = given(tmp_path, columns=ColumnsConfig(), time_unit="ms", evaluation_days=2)
    prepare(config, quiet)
    for user, (_, _, events) in stored(config).items():
        mine = sorted((row for row in rows if row["user"] == user), key=lambda row: row["time"])
        assert [event[:2] for event in events] == [(row["item"], row["time"] // 1000) for row in mine]


def test_built_vectors(tmp_path):
    config = without_vectors(given(tmp_path))
    counts = prepare(config, quiet).counts
    catalog = Catalog.open(config.data.prepared)
    assert catalog.features.shape == (15, 8)
    assert counts["items"] == counts["trained_items"] == catalog.trained == 15
    norms = np.linalg.norm(catalog.features.astype(np.float32), axis=1)
    np.testing.assert_allclose(norms[catalog.reachable], 1, atol=2e-3)
    assert counts["unreachable_items"] == (~catalog.reachable).sum()


def test_a_tfds_data_set_goes_the_same_way(tmp_path, monkeypatch):
    config = given(tmp_path)
    prepare(config, quiet)
    want = stored(config)

    def export(name, split, folder):
        assert (name, split) == ("movielens/1m-ratings", "train")
        write_parquet(folder / "export.parquet", make_events())
        return folder / "export.parquet"

    monkeypatch.setattr(tfds_in, "export", export)
    config = given(tmp_path, events=("tfds:movielens/1m-ratings:train",))
    prepare(config, quiet)
    assert stored(config) == want


def test_a_window_that_the_log_does_not_fill_is_told(tmp_path):
    told = []
    prepare(given(tmp_path, split_time=format_time(split_of(3)), evaluation_days=7), told.append)
    assert any(re.match(r"the log ends 2.\d days into the evaluation window of 7", text) for text in told)


def test_a_repeated_click_of_a_session_removes_one_event(tmp_path):
    rng = np.random.default_rng(0)
    sessions = []
    for user in range(20):
        clicks = sorted(START + int(t) for t in rng.choice(DAYS * DAY, 8, replace=False))
        items = [f"i{k}" for k in rng.integers(15, size=8)]
        again = user % 2  # every other session repeats its last click
        sessions.append(
            {"user": f"u{user}", "items": items + items[-1:] * again, "times": clicks + clicks[-1:] * again}
        )
    columns = ColumnsConfig(item="unnest(items)", time="unnest(times)")
    log = write_parquet(tmp_path / "s.parquet", sessions)
    config = given(tmp_path, events=(log,), columns=columns, max_reject_share=0.1)
    counts = prepare(config, quiet).counts
    assert counts["rows"] == 170
    assert counts["rejected"] == {rejects.DUPLICATE: 10}
    assert counts["other_actions"] == 0
    assert counts["events"] == 160
    set_aside = pq.read_table(tmp_path / "prepared" / "rejects.parquet").to_pylist()
    assert {(r["user"], r["row"]) for r in set_aside} == {(f"u{k}", k + 1) for k in range(1, 20, 2)}
    assert all(r["item"] and r["time"] for r in set_aside)
