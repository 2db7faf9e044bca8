import pytest
import small
from redis_server import redis_server

from pinnerformer_jax.bench import store
from pinnerformer_jax.serving.stores import open_store


def test_lmdb_alone(capsys):
    figures = store.measure(small.config(), users=500, redis=None, seconds=0.0)
    assert list(figures["ways"]) == ["LMDB"]
    way = figures["ways"]["LMDB"]
    assert way["bytes"] > 2 * figures["dim"]
    assert 0 < way["single_us"]["p50"] <= way["single_us"]["p99"]
    store.show(figures)
    assert "500 users of 16 numbers" in capsys.readouterr().out


def test_redis_too_once(tmp_path):
    with redis_server(tmp_path) as server:
        figures = store.measure(small.config(), users=500, redis=server.url, seconds=0.0)
        way = figures["ways"]["Redis"]
        assert way["bytes"] > 2 * figures["dim"]
        assert way["users_per_second"] > 0
        assert open_store(server.url).of(store.VERSION).get(store._user_id(499)) is not None
        with pytest.raises(ValueError, match="has vectors of model version benchmark; name an empty one"):
            store.measure(small.config(), users=500, redis=server.url, seconds=0.0)
