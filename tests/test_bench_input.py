import numpy as np
import pytest
import small
import small_run

from pinnerformer_jax.bench import input as bench
from pinnerformer_jax.data.timelines import Timelines


def test_store_holds_timelines_like_any_other(tmp_path):
    bench.write_store(tmp_path / "p", users=10, events=30)
    timelines = Timelines.open(tmp_path / "p")
    assert timelines.users == 10
    assert len(timelines.shards) == bench.SHARDS
    for shard in timelines.shards:
        times = np.asarray(shard.time).reshape(-1, 30)
        assert (np.diff(times, axis=1) >= 0).all()
        assert times.max() <= timelines.manifest.split_time
        assert len(shard.item) == shard.offsets[-1] == 30 * shard.users


@pytest.mark.parametrize("made_up", [True, False])
def test_every_stage_is_timed(tmp_path, capsys, monkeypatch, made_up):
    monkeypatch.setattr(bench, "write_store", lambda path: small_run.write_data(path))
    prepared = None if made_up else str(small_run.write_data(tmp_path / "p"))
    figures = bench.measure(small.config(), prepared=prepared, seconds=0.0)
    assert list(figures["ways"]) == ["Windows.batch", "put on the device", "Grain", "Grain, on the device"]
    assert figures["users"] == 32
    assert figures["batch_size"] == 16
    for way in figures["ways"].values():
        assert way["users_per_second"] == pytest.approx(16 / way["ms"] * 1e3)
    # int32 item and time, float32 duration, two bytes, for 20 + 12 events; three int32 a user.
    assert figures["batch_bytes"] == 16 * (32 * 14 + 12)
    bench.show(figures)
    assert "Grain, on the device" in capsys.readouterr().out


def test_without_grain(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "grain", None)
    figures = bench.measure(small.config(), prepared=str(small_run.write_data(tmp_path / "p")), seconds=0.0)
    assert list(figures["ways"]) == ["Windows.batch", "put on the device"]
    bench.show(figures)
    assert "Grain is not installed" in capsys.readouterr().out
