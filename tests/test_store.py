"""What every feature store promises, of LMDB and of Redis."""

import datetime
import struct
import uuid
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from redis_server import redis_server
from states import DIM, make_state, vector

from pinnerformer_jax.serving import state, store
from pinnerformer_jax.serving.store import Contents, encode, key, publish_users
from pinnerformer_jax.serving.stores import open_store
from pinnerformer_jax.serving.tombstones import add_tombstones


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(params=["lmdb", "redis"])
def url(request, tmp_path):
    if request.param == "lmdb":
        return f"lmdb:{tmp_path / 'store'}"
    server = request.getfixturevalue("server")
    server.redis.Redis(port=server.port).flushall()
    return server.url


def held(place, version="a"):
    """{user: first number of the vector} of the users u0 .. u9."""
    names = [f"u{number}" for number in range(10)]
    vectors, known = place.of(version).get_many(names)
    return {name: float(row[0]) for name, row, here in zip(names, vectors, known, strict=True) if here}


def test_a_state_comes_back(url, tmp_path):
    name = make_state(tmp_path, 1, {"u1": 1, "u2": 2}, dtype="float32")
    place = open_store(url)
    assert place.live() is None
    assert not place.holds("a")
    assert publish_users(place, tmp_path, name) == f"{place}: all 2 users written"
    assert (place.live(), place.contents("a")) == ("a", Contents("a", name, 2, DIM, store.FORMAT))
    vectors = open_store(url).of("a")  # of another reader
    found = vectors.get("u1")
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, vector("u1", 1))
    assert vectors.get("nobody") is None
    many, known = vectors.get_many(["u2", "nobody", "u1"])
    assert known.tolist() == [True, False, True]
    np.testing.assert_array_equal(many, [vector("u2", 2), np.zeros(DIM), vector("u1", 1)])
    many, known = vectors.get_many([])
    assert (many.shape, known.shape) == ((0, DIM), (0,))


def test_a_day_of_the_same_model_writes_what_changed(url, tmp_path):
    place = open_store(url)
    publish_users(place, tmp_path, make_state(tmp_path, 1, {"u1": 1, "u2": 2, "u3": 3}))
    second = make_state(tmp_path, 2, {"u1": 1, "u3": 4, "u4": 5})
    # the newest events of u3 and u4 moved too; that of u1 did not
    assert publish_users(place, tmp_path, second) == f"{place}: 2 users written, 1 removed"
    assert held(place) == {"u1": 1, "u3": 4, "u4": 5}
    assert publish_users(place, tmp_path, second) == f"{place}: 0 users written, 0 removed"


def test_a_state_that_is_not_there_any_more_is_replaced(url, tmp_path):
    place = open_store(url)
    publish_users(place, tmp_path / "one", make_state(tmp_path / "one", 1, {"u1": 1, "u2": 2}))
    name = make_state(tmp_path / "two", 2, {"u1": 3})
    assert publish_users(place, tmp_path / "two", name) == f"{place}: all 1 users written"
    assert held(place) == {"u1": 3}


def test_what_was_lost_is_written_anew(url, tmp_path):
    """Somebody, or an eviction, took a user out."""
    place = open_store(url)
    publish_users(place, tmp_path, make_state(tmp_path, 1, {"u1": 1, "u2": 2}))
    place.delete([key("u1")])
    name = make_state(tmp_path, 2, {"u1": 1, "u2": 3})
    assert publish_users(place, tmp_path, name) == f"{place}: all 2 users written"
    assert held(place) == {"u1": 1, "u2": 3}


def test_a_new_model_goes_live_and_the_old_one_stays_a_while(url, tmp_path):
    place, reader = open_store(url), open_store(url)
    publish_users(place, tmp_path, make_state(tmp_path, 1, {"u1": 1}))
    old = reader.of("a")
    assert old.get("u1")[0] == 1
    publish_users(place, tmp_path, make_state(tmp_path, 1, {"u1": 2}, version="b"))
    assert place.live() == "b"
    assert (held(place, "b"), held(place, "a")) == ({"u1": 2}, {"u1": 1})
    assert old.get("u1")[0] == 1
    with pytest.raises(ValueError, match="no vectors of model version c, live is b; publish"):
        reader.of("c")
    back = state.state_name("a", "2026-03-01", "1")
    assert publish_users(place, tmp_path, back) == f"{place}: 0 users written, 0 removed"  # a rollback
    assert place.live() == "a"
    assert held(place, "b") == {"u1": 2}


def test_versions_are_not_mixed(url, tmp_path):
    """A value of one version among those of another, and one that is cut short."""
    place = open_store(url)
    publish_users(place, tmp_path, make_state(tmp_path, 1, {"u1": 1, "u2": 2}))
    contents = place.contents("a")
    make_state(tmp_path, 1, {"u1": 1}, version="b")
    from pinnerformer_jax.serving import snapshot

    table = snapshot.read_parquet(tmp_path / state.state_name("b", "2026-03-01", "1") / "users.parquet")
    assert place.update(contents, encode(table), [])
    with pytest.raises(ValueError, match=r"of model version a, a value in it of b: vectors of two models"):
        place.of("a").get("u1")
    assert place.of("a").get("u2")[0] == 2
    assert place.update(contents, [([key("u1")], [old_value("a", vector("u1", 5))])], [])
    assert place.of("a").get("u1")[0] == 5


def old_value(version, numbers):
    """Of format 1."""
    return struct.pack("<B12sqH", 1, version.encode(), 0, len(numbers)) + numbers.astype("<f2").tobytes()


def test_a_damaged_value_is_an_error_with_the_user(url, tmp_path):
    place = open_store(url)
    publish_users(place, tmp_path, make_state(tmp_path, 1, {"u1": 1, "u2": 2}))
    [right] = place.fetch("a", [key("u1")])
    for value in (
        *(right[:at] + bytes([right[at] ^ 16]) + right[at + 1 :] for at in range(len(right))),
        *place.fetch("a", [key("u2")]),  # of another user
        right[:-2],
        right[:10],
        b"",
    ):
        assert place.update(place.contents("a"), [([key("u1")], [value])], [])
        with pytest.raises(OSError, match=r"the value of user 'u1' is damaged; .*publish again"):
            place.of("a").get("u1")
        assert place.of("a").get("u2")[0] == 2


def test_a_store_of_format_1_is_read_and_then_replaced_as_a_whole(url, tmp_path):
    place = open_store(url)
    users = {f"u{number}": number for number in range(3)}
    name = make_state(tmp_path, 1, users)
    values = [old_value("a", vector(user, number)) for user, number in users.items()]
    place.replace(Contents("a", name, 3, DIM), [([key(user) for user in users], values)])
    assert held(place) == users
    assert publish_users(place, tmp_path, name) == f"{place}: all 3 users written"
    assert (held(place), place.contents("a").format) == (users, store.FORMAT)


def test_deleted_users_leave_at_once_and_stay_out(url, tmp_path):
    place = open_store(url)
    for version in ("a", "b"):
        publish_users(place, tmp_path, make_state(tmp_path, 1, {"u1": 1, "u2": 2}, version))
    place.delete([key("u1"), key("nobody")])
    assert held(place, "a") == held(place, "b") == {"u2": 2}
    add_tombstones(tmp_path, pa.array(["u1"]))
    publish_users(place, tmp_path, state.state_name("b", "2026-03-01", "1"))  # a rollback, and it has them
    assert held(place, "b") == {"u2": 2}


@pytest.mark.parametrize("ids", [[1, -1, 2**63 - 1], ["1", "", "ü", "x" * 2000], [b"1", b""]])
def test_ids_of_any_type(url, tmp_path, ids):
    place = open_store(url)
    publish_users(place, tmp_path, make_state(tmp_path, 1, {user: row for row, user in enumerate(ids)}))
    vectors = place.of("a")
    assert [vectors.get(user)[0] for user in ids] == list(range(len(ids)))
    assert vectors.get("1" if 1 in ids else 1) is None


def test_keys_differ_where_ids_do():
    ids = [
        1, "1", b"1", "i1", b"i1", 1.0, datetime.date(2026, 1, 1), "2026-01-01", uuid.UUID(int=1), "", b"",
        "x" * 510, "x" * 511, "x" * 512, b"x" * 512, True, Decimal(1), Decimal("1.5"), Decimal(150),
    ]  # fmt: skip
    assert len({key(user) for user in ids}) == len(ids)
    assert max(map(len, map(key, ids))) <= 511
    assert key(Decimal("1.50")) == key(Decimal("1.5"))
    assert key(np.True_) == key(True)
    assert key(np.int64(1)) == key(1)
    assert key(np.int64(7)) == key(7)


def test_a_failure_says_that_the_state_is_published(url, tmp_path, monkeypatch):
    place = open_store(url)
    name = make_state(tmp_path, 1, {"u1": 1})

    def fail(*_):
        raise ConnectionError("gone")

    monkeypatch.setattr(place, "replace", fail)
    with pytest.raises(ConnectionError, match="is published, but not in the store: gone; the next run with"):
        publish_users(place, tmp_path, name)


def test_a_long_version_is_refused(url, tmp_path):
    name = make_state(tmp_path, 1, {"u1": 1}, version="a" * 13)
    with pytest.raises(ValueError, match="at most 12 bytes"):
        publish_users(open_store(url), tmp_path, name)


@pytest.mark.parametrize(
    "url", ["lmdb:", "file:x", "redis", "redis://me:secret/@host", "mysql://me:secret@host"]
)
def test_other_urls_are_refused(url):
    with pytest.raises(ValueError, match=r"--store: .* redis://USER") as refused:
        open_store(url)
    assert "secret" not in str(refused.value)


def test_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "CHUNK", 2)
    place = open_store(f"lmdb:{tmp_path / 'store'}")
    users = {f"u{number}": number for number in range(5)}
    publish_users(place, tmp_path, make_state(tmp_path, 1, users))
    assert held(place) == users
