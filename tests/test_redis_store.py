"""A server: restarts, passwords, memory that is full, versions that expire."""

import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest
from redis_server import redis_server
from states import make_state

from pinnerformer_jax.serving import redis_store
from pinnerformer_jax.serving.redis_store import RedisStore
from pinnerformer_jax.serving.store import encode, key, publish_users


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def server(shared):
    shared.redis.Redis(port=shared.port).flushall()
    return shared


@pytest.fixture
def durable(tmp_path):
    """A server that has what it was told before a restart."""
    with redis_server(tmp_path / "redis", "--appendonly", "yes", "--appendfsync", "always") as server:
        yield server


def client(server):
    return server.redis.Redis(port=server.port)


def spaces(server):
    return {name.split(b":")[3] for name in client(server).scan_iter("pinnerformer:users:*")}


def interrupt(place, monkeypatch, server, after):
    """Kill and restart the server when so many chunks were written."""
    whole = redis_store._write

    def write(send, space, rows):
        def counted():
            for number, chunk in enumerate(rows):
                if number == after:
                    server.kill()
                    server.start()
                yield chunk

        whole(send, space, counted())

    monkeypatch.setattr(redis_store, "_write", write)
    monkeypatch.setattr("pinnerformer_jax.serving.store.CHUNK", 100)


USERS = {f"v{number}": 0.5 for number in range(1000)}


@pytest.mark.parametrize("after", [1, 5, 9])
def test_a_restart_while_a_model_is_published_leaves_the_old_one_live(durable, tmp_path, monkeypatch, after):
    place, reader = RedisStore(durable.url), RedisStore(durable.url)
    publish_users(place, tmp_path, make_state(tmp_path, 1, {"u1": 1}))
    vectors = reader.of("a")
    name = make_state(tmp_path, 2, USERS | {"u1": 2}, "b")
    with monkeypatch.context() as patched:
        interrupt(place, patched, durable, after)
        with pytest.raises(ConnectionError, match=r"not in the store: redis://127.0.0.1:\d+: "):
            publish_users(place, tmp_path, name)
    assert place.live() == "a"
    assert vectors.get("u1")[0] == 1
    assert not place.holds("b")
    publish_users(place, tmp_path, name)
    assert (place.live(), place.of("b").get("u1")[0]) == ("b", 2)
    assert spaces(durable) == {b"1", b"3"}  # the half of the killed one is gone
    assert client(durable).scard("pinnerformer:garbage") == 0


def test_a_restart_while_a_day_is_published(durable, tmp_path, monkeypatch):
    """Of the same model: each user is of one day or the other, and the next publishing completes, also if it
    is one that goes back."""
    place = RedisStore(durable.url)
    first = make_state(tmp_path, 1, USERS)
    publish_users(place, tmp_path, first)
    second = make_state(tmp_path, 2, dict.fromkeys(USERS, 2.0))
    with monkeypatch.context() as patched:
        interrupt(place, patched, durable, 5)
        with pytest.raises(ConnectionError):
            publish_users(place, tmp_path, second)
    assert place.contents("a").state == first
    many, known = place.of("a").get_many(list(USERS))
    assert known.all()
    assert sorted(set(many[:, 0].tolist())) == [0.5, 2.0]
    assert publish_users(place, tmp_path, first) == f"{place}: all 1,000 users written"
    assert set(place.of("a").get_many(list(USERS))[0][:, 0].tolist()) == {0.5}
    with monkeypatch.context() as patched:
        interrupt(place, patched, durable, 5)
        with pytest.raises(ConnectionError):
            publish_users(place, tmp_path, second)
    assert publish_users(place, tmp_path, second) == f"{place}: 1,000 users written, 0 removed"
    assert set(place.of("a").get_many(list(USERS))[0][:, 0].tolist()) == {2.0}


def test_a_restart_that_forgets_is_never_taken_for_a_whole(tmp_path, monkeypatch):
    """Without persistence: what was written before the restart is lost, and nothing goes live."""
    with redis_server(tmp_path / "redis") as server:
        place = RedisStore(server.url)
        name = make_state(tmp_path, 1, USERS)
        with monkeypatch.context() as patched:
            interrupt(place, patched, server, 5)
            with pytest.raises(ConnectionError):
                publish_users(place, tmp_path, name)
        assert place.live() is None
        publish_users(place, tmp_path, name)
        assert place.of("a").get_many(list(USERS))[1].all()
        server.kill()
        server.start()
        with pytest.raises(ValueError, match="no vectors of model version a, live is None"):
            place.of("a")
        publish_users(place, tmp_path, name)
        assert place.of("a").get_many(list(USERS))[1].all()


def test_readers_miss_nothing_while_spaces_change(server, tmp_path):
    place = RedisStore(server.url)
    roots = [tmp_path / str(number) for number in range(8)]
    states = [make_state(root, 1, USERS) for root in roots]
    publish_users(place, roots[0], states[0])
    stop, failures = threading.Event(), []

    def read():
        vectors = RedisStore(server.url).of("a")
        while not stop.is_set():
            try:
                many, known = vectors.get_many(["v1", "v2", "v3"])
                if not known.all() or not np.all(many[:, 0] == 0.5):
                    failures.append(known)
            except Exception as error:
                failures.append(error)

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    from pinnerformer_jax.serving import snapshot

    for root, name in zip(roots, states, strict=True):
        users = snapshot.read_parquet(root / name / "users.parquet")
        place.replace(place.contents("a"), encode(users))
    stop.set()
    for thread in threads:
        thread.join()
    assert not failures
    assert spaces(server) == {b"9"}


def test_the_old_version_expires(server, tmp_path):
    place = RedisStore(server.url, old_seconds=700)
    publish_users(place, tmp_path, make_state(tmp_path, 1, {"u1": 1}, "a"))
    publish_users(place, tmp_path, make_state(tmp_path, 1, {"u1": 2}, "b"))
    redis = client(server)
    old = [b"pinnerformer:model:a", *redis.scan_iter("pinnerformer:users:a:*")]
    assert [0 < redis.ttl(name) <= 700 for name in old] == [True, True]
    new = [b"pinnerformer:model:b", *redis.scan_iter("pinnerformer:users:b:*"), b"pinnerformer:live"]
    assert [redis.ttl(name) for name in new] == [-1] * 3
    publish_users(place, tmp_path, "model_version=a/ds=2026-03-01/run=1")  # back: it lives on
    assert [redis.ttl(name) for name in old] == [-1] * 2
    assert 0 < redis.ttl("pinnerformer:model:b") <= 700
    for name in redis.scan_iter("pinnerformer:*:b*"):
        redis.delete(name)
    place.delete([key("u1")])
    with pytest.raises(ValueError, match="no vectors of model version b, live is a"):
        place.of("b")


def test_one_about_to_expire_is_written_anew(server, tmp_path):
    place = RedisStore(server.url, old_seconds=30)
    first = make_state(tmp_path, 1, {"u1": 1}, "a")
    publish_users(place, tmp_path, first)
    publish_users(place, tmp_path, make_state(tmp_path, 1, {"u1": 2}, "b"))
    assert publish_users(place, tmp_path, first) == f"{place}: all 1 users written"
    assert [client(server).ttl(name) for name in client(server).scan_iter("pinnerformer:users:a:*")] == [-1]


def test_memory_that_is_full_is_an_error_and_the_old_version_serves_on(tmp_path):
    with redis_server(tmp_path / "redis", "--maxmemory", "2mb", "--maxmemory-policy", "noeviction") as server:
        place = RedisStore(server.url)
        publish_users(place, tmp_path, make_state(tmp_path, 1, {"u1": 1}))
        users = {f"v{number}": 0.5 for number in range(20_000)}
        with pytest.raises(OSError, match="command not allowed when used memory"):
            publish_users(place, tmp_path, make_state(tmp_path, 2, users, "b"))
        assert (place.live(), place.of("a").get("u1")[0]) == ("a", 1)
        assert spaces(server) == {b"1"}  # what was written of b is removed at once
        assert client(server).scard("pinnerformer:garbage") == 0
        publish_users(place, tmp_path, make_state(tmp_path, 3, {"u1": 3}, "b"))
        assert (place.live(), place.of("b").get("u1")[0]) == ("b", 3)


def test_readers_go_on_while_memory_is_full(tmp_path):
    """By other data that the server holds: every command that takes memory is refused, transactions too."""
    with redis_server(tmp_path / "redis", "--maxmemory", "0", "--maxmemory-policy", "noeviction") as server:
        place = RedisStore(server.url)
        publish_users(place, tmp_path, make_state(tmp_path, 1, USERS))
        client(server).config_set("maxmemory", 1)
        with pytest.raises(server.redis.ResponseError, match="used memory"):
            client(server).set("x", 1)
        fresh = RedisStore(server.url)
        assert (fresh.live(), fresh.contents("a").users) == ("a", 1000)
        assert fresh.of("a").get("v1")[0] == 0.5
        assert fresh.of("a").get_many(list(USERS))[1].all()
        fresh.delete([key("v1")])
        assert fresh.of("a").get("v1") is None
        with pytest.raises(OSError, match=r"not in the store: .*used memory.*goes on serving"):
            publish_users(place, tmp_path, make_state(tmp_path, 2, USERS, "b"))
        assert place.live() == "a"


def test_evicted_users_are_noticed(tmp_path):
    with redis_server(
        tmp_path / "redis", "--maxmemory", "3mb", "--maxmemory-policy", "allkeys-random"
    ) as server:
        users = {f"v{number}": 0.5 for number in range(60_000)}
        with pytest.raises(OSError, match=r"60,000 users written, [\d,]+ there; is it evicting\?"):
            publish_users(RedisStore(server.url), tmp_path, make_state(tmp_path, 1, users))


def test_a_password_is_used_and_not_shown(tmp_path, monkeypatch):
    with redis_server(tmp_path, "--requirepass", "se:cret") as server:
        where = f"127.0.0.1:{server.port}"
        assert RedisStore(f"redis://:se%3Acret@{where}").live() is None
        for url in (f"redis://{where}", f"redis://me:wrong@{where}"):
            with pytest.raises(OSError, match=f"^redis://{where}: ") as refused:
                RedisStore(url).live()
            assert "wrong" not in str(refused.value)
        monkeypatch.setenv("REDISCLI_AUTH", "se:cret")
        assert RedisStore(f"redis://{where}").live() is None
        assert str(RedisStore(f"redis://:se%3Acret@{where}/3")) == f"redis://{where}/3"


def test_no_server_is_an_error_with_the_place(server):
    place = RedisStore("redis://:secret@127.0.0.1:1/0")
    for act in (place.live, lambda: place.contents("a"), lambda: place.fetch("a", [b"k"]),
                lambda: place.delete([b"k"])):  # fmt: skip
        with pytest.raises(ConnectionError, match=r"^redis://127.0.0.1:1/0: ") as refused:
            act()
        assert "secret" not in str(refused.value)


def test_tls(tmp_path):
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed, to make a certificate")
    key_file, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-addext",
         "subjectAltName=IP:127.0.0.1", "-keyout", key_file, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    files = ("--tls-cert-file", str(certificate), "--tls-key-file", str(key_file))
    options = (*files, "--tls-ca-cert-file", str(certificate), "--tls-auth-clients", "no")
    with redis_server(tmp_path / "redis", *options, tls=True) as server:
        url = server.url.replace("redis:", "rediss:")
        place = RedisStore(f"{url}?ssl_ca_certs={certificate}")
        publish_users(place, tmp_path, make_state(tmp_path, 1, {"u1": 1}))
        assert place.of("a").get("u1")[0] == 1
        with pytest.raises(ConnectionError, match=r"CERTIFICATE_VERIFY_FAILED|certificate verify failed"):
            RedisStore(url).live()


def test_a_socket(tmp_path):
    with redis_server(tmp_path / "redis", "--unixsocket", str(tmp_path / "s")):
        place = RedisStore(f"unix://{tmp_path / 's'}")
        publish_users(place, tmp_path, make_state(tmp_path, 1, {"u1": 1}))
        assert place.of("a").get("u1")[0] == 1


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(ValueError, match="pip install redis"):
        RedisStore("redis://localhost")
