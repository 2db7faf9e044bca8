import dataclasses
import sys
from functools import partial

import pytest
import small

from pinnerformer_jax.bench import input as host_input
from pinnerformer_jax.bench import train


@pytest.mark.slow
def test_the_loop_trains_on_made_up_timelines_and_its_pace_is_read(monkeypatch, capsys):
    monkeypatch.setattr(train, "write_store", partial(host_input.write_store, users=64, events=30))
    config = small.config()
    parts = dataclasses.replace(config.training, length_parts=1)
    figures = train.measure(dataclasses.replace(config, training=parts), steps=5)
    assert figures["batch_size"] == config.training.batch_size
    assert figures["users_per_second"] > 0
    assert 0 <= figures["input_wait_share"] <= 1
    assert figures["loss"] > 0
    train.show(figures)
    assert "Training, 5 steps of 16 users" in capsys.readouterr().out


def test_a_package_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ValueError, match="the training loop needs pyarrow, which is not installed"):
        train.measure(small.config(), steps=5)
