"""Who is kept and in which role, names to ids, and the order and bytes of the shards."""

import hashlib

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from pinnerformer_jax.config import DataConfig, PositiveRule
from pinnerformer_jax.data.positives import positive_table
from pinnerformer_jax.data.timelines import EVALUATION, TRAIN, VALIDATION, open_shard
from pinnerformer_jax.ingestion.timeline_writer import name_ids, number_users, write_shards

SPLIT = 100


@pytest.fixture
def connection():
    with duckdb.connect() as connection:
        yield connection


def add_events(connection, rows, name="usable"):
    """(user, item, second, action, surface, duration) -> the view that number_users and write_shards read."""
    names = ("user_id", "item_id", "micros", "action", "surface", "duration")
    rows = pa.table([pa.array(column) for column in zip(*rows, strict=True)], names)
    connection.execute(
        f"CREATE TABLE {name} AS SELECT * REPLACE (round(micros * 1000000)::BIGINT AS micros, "
        "duration::FLOAT AS duration) FROM rows"
    )


def halves(user):
    digest = hashlib.md5(user.encode()).digest()
    return int.from_bytes(digest[8:], "little"), int.from_bytes(digest[:8], "little")


def numbered(connection, users, **data):
    add_events(connection, [(user, "i", second, "a", "s", 1.0) for user in users for second in (1, 2, 101)])
    number_users(connection, DataConfig(**data), SPLIT)
    query = "SELECT user_id, number, shard, role, events, cut FROM users ORDER BY number"
    return connection.execute(query).fetchall()


def test_roles_and_shards_are_those_of_the_md5(connection):
    users = [f"u{k}" for k in range(2_000)] + ["é中", "007"]
    rows = numbered(connection, users, evaluation_share=0.2, validation_share=0.1, shards=3)
    assert [row[1] for row in rows] == list(range(len(users)))
    expected = []
    for user in users:
        lower, upper = halves(user)
        share = lower / 2**64
        role = EVALUATION if share < 0.2 else VALIDATION if share < 0.2 + 0.1 else TRAIN
        expected.append((upper % 3, lower, user, role))
    assert [(user, shard, role) for user, _, shard, role, *_ in rows] == [
        (user, shard, role) for shard, _, user, role in sorted(expected)
    ]
    assert [row[4:] for row in rows] == [(3, 2)] * len(users)
    share = np.mean([row[3] == EVALUATION for row in rows])
    assert abs(share - 0.2) < 0.03


def test_other_users_change_nobodys_role(connection):
    few = numbered(connection, [f"u{k}" for k in range(50)], shards=4)
    connection.execute("DROP TABLE users; DROP TABLE usable")
    many = numbered(connection, [f"u{k}" for k in range(500)], shards=4)
    of_many = {user: (shard, role) for user, _, shard, role, *_ in many}
    assert {user: (shard, role) for user, _, shard, role, *_ in few}.items() <= of_many.items()


def test_users_need_events_up_to_the_split(connection):
    add_events(connection, [
        *[("two", "i", second, "a", "", 0.0) for second in (0, SPLIT + 0.999, SPLIT + 1)],  # seconds count
        *[("one", "i", second, "a", "", 0.0) for second in (SPLIT, SPLIT + 1, SPLIT + 2, SPLIT + 3)],
    ])  # fmt: skip
    number_users(connection, DataConfig(min_user_events=2), SPLIT)
    assert connection.execute("SELECT user_id, events, cut FROM users").fetchall() == [("two", 3, 2)]


def test_names_by_frequency_then_name(connection):
    names = ["b", "a", "c", "c", "", "", ""]
    add_events(connection, [("u", "i", 0, name, "", 0.0) for name in names], "events")
    assert name_ids(connection, "action") == ["", "c", "a", "b"]
    assert connection.execute("SELECT action, id FROM action_ids ORDER BY id").fetchall() == [
        ("c", 1),
        ("a", 2),
        ("b", 3),
    ]
    assert name_ids(connection, "surface") == [""]


def test_only_as_many_names_as_a_byte_holds(connection):
    rows = [("u", "i", 0, "a", f"s{k:03d}", 0.0) for k in range(300)] + [("u", "i", 0, "a", "s299", 0.0)]
    add_events(connection, rows, "events")
    names = name_ids(connection, "surface")
    assert names == ["", "s299", *(f"s{k:03d}" for k in range(254))]


@pytest.mark.parametrize("batch", [1, 7, 1 << 18])
def test_shards_hold_the_events_of_their_users_in_order(connection, tmp_path, monkeypatch, batch):
    monkeypatch.setattr("pinnerformer_jax.ingestion.timeline_writer._BATCH", batch)
    rng = np.random.default_rng(0)
    rows = [
        (f"u{rng.integers(30)}", f"i{rng.integers(5)}", int(rng.integers(0, 20)) * 10 + second / 10,
         f"a{rng.integers(2)}", f"s{rng.integers(2)}", float(rng.integers(4)))
        for second in range(10) for _ in range(60)
    ]  # fmt: skip
    rows = list(dict.fromkeys(rows))  # equal rows are never stored
    add_events(connection, rows)
    shards = 5  # with 30 users, shards of unequal size
    number_users(connection, DataConfig(min_user_events=1, shards=shards), SPLIT)
    connection.execute("CREATE VIEW events AS FROM usable SEMI JOIN users USING (user_id)")
    connection.execute("CREATE TABLE items AS SELECT 'i' || k AS item_id, 4 - k AS number FROM range(5) r(k)")
    actions, surfaces = name_ids(connection, "action"), name_ids(connection, "surface")
    thresholds = np.full((3, 3), np.inf, np.float32)
    thresholds[1] = 2.0

    positives = write_shards(connection, tmp_path, range(shards), thresholds)

    kept = {row[0] for row in rows if row[2] < SPLIT + 1}
    assert positives == sum(row[0] in kept and row[3] == actions[1] and row[5] >= 2 for row in rows)
    found = set()
    for k in range(shards):
        shard = open_shard(tmp_path, k)
        ids = connection.execute(f"SELECT user_id FROM '{shard.path}/users.parquet'").fetchall()
        for u, (user,) in enumerate(ids):
            mine = [row for row in rows if row[0] == user]
            mine.sort(key=lambda row: (row[2], halves(f"{row[1]}|{row[3]}|{row[4]}|{row[5]:.1f}")[0]))
            part = slice(*shard.offsets[u : u + 2])
            assert [f"i{4 - number}" for number in shard.item[part]] == [row[1] for row in mine]
            assert shard.time[part].tolist() == [int(row[2]) for row in mine]
            assert [actions[a] for a in shard.action[part]] == [row[3] for row in mine]
            assert [surfaces[s] for s in shard.surface[part]] == [row[4] for row in mine]
            assert shard.duration[part].tolist() == [row[5] for row in mine]
            assert shard.cut[u] == sum(row[2] < SPLIT + 1 for row in mine)
            found.add(user)
    assert found == kept


def test_a_shard_may_be_empty(connection, tmp_path):
    add_events(connection, [("u", "i", 1, "", "", 0.0)])
    number_users(connection, DataConfig(min_user_events=1, shards=3), SPLIT)
    connection.execute("CREATE VIEW events AS FROM usable")
    connection.execute("CREATE TABLE items AS SELECT 'i' AS item_id, 0 AS number")
    name_ids(connection, "action"), name_ids(connection, "surface")
    write_shards(connection, tmp_path, range(3), np.zeros((1, 1), np.float32))
    shards = [open_shard(tmp_path, k) for k in range(3)]
    assert sorted(len(shard.item) for shard in shards) == [0, 0, 1]
    assert sorted(shard.users for shard in shards) == [0, 0, 1]


def test_a_name_that_a_rule_names_is_kept(connection):
    rows = [("u", "i", k, "a", f"s{k:03d}", 1.0) for k in range(300) for _ in range(2 if k < 290 else 1)]
    add_events(connection, rows, "events")
    rules = (PositiveRule(surface="s295"), PositiveRule(surface="s007"), PositiveRule(action="a"))
    names = name_ids(connection, "surface", rules)
    assert len(names) == 256
    assert names[-1] == "s295"
    assert names[1:255] == [f"s{k:03d}" for k in range(254)]
    table = positive_table(rules[:2], ["", "a"], names)
    assert np.isfinite(table[1]).nonzero()[0].tolist() == [8, 255]
    message = "no surface 's299' among the 255 that ingest kept.*'s009'] and 245 more"
    with pytest.raises(ValueError, match=message):
        positive_table((PositiveRule(surface="s299"),), ["", "a"], names)
    with pytest.raises(ValueError, match=r"data\.positives names 256 surfaces; at most 255"):
        name_ids(connection, "surface", tuple(PositiveRule(surface=f"s{k:03d}") for k in range(256)))
