import dataclasses

import jax
import numpy as np
import pytest
import small
import small_run

from pinnerformer_jax.bench import workload
from pinnerformer_jax.config import TrainingConfig
from pinnerformer_jax.data.contracts import NO_TIME
from pinnerformer_jax.data.timelines import Timelines
from pinnerformer_jax.data.windows import Windows
from pinnerformer_jax.training.sharding import make_mesh


def test_lengths(tmp_path):
    config = small.config()
    assert (workload.lengths("full", config) == 20).all()
    uniform = workload.lengths("uniform", config)
    assert uniform.min() >= 1
    assert uniform.max() <= 20
    assert len(set(uniform.tolist())) > 4
    prepared = small_run.write_data(tmp_path / "p")
    wanted = Windows(Timelines.open(prepared), config).batch(0).length
    np.testing.assert_array_equal(workload.lengths(str(prepared), config), wanted)
    with pytest.raises(FileNotFoundError, match="no prepared data here"):
        workload.lengths(str(tmp_path / "nothing"), config)


def test_popularity_is_in_the_tables_where_the_config_has_it():
    config, mesh = small.config(), make_mesh(1)
    assert workload.make_tables(config, mesh, 30).popularity is None
    objective = dataclasses.replace(config.objective, popularity_half_life_days=7.0)
    tables = workload.make_tables(dataclasses.replace(config, objective=objective), mesh, 30)
    assert tables.popularity.log_share.shape == (128, 30)


def test_batch_is_padded_and_sorted():
    config = small.config()
    length = workload.lengths("uniform", config)
    batch = workload.make_batch(config, length, items=30)
    real = np.arange(20)[None, :] < length[:, None]
    assert (batch.history.time[~real] == NO_TIME).all()
    assert not batch.history.item[~real].any()
    assert (np.diff(batch.history.time.astype(np.int64)) >= 0).all()
    assert batch.history.item.max() < 30
    assert (batch.future_count == config.training.future_events).all()
    assert batch.future.time.min() >= batch.history.time[real].max()


@pytest.mark.slow
def test_a_step_is_a_real_step_on_all_pairs():
    config = dataclasses.replace(small.config(), training=TrainingConfig(batch_size=16, future_events=12))
    work = workload.prepare(config, "uniform", items=40, devices=2)
    metrics = work()
    assert metrics["users"] == 16
    assert metrics["tokens"] == work.real_tokens
    # Every position has positives.
    assert metrics["pairs"] == np.minimum(workload.lengths("uniform", config), 6).sum()
    assert np.isfinite(metrics["loss"])
    work()
    assert work.state.step == 2
    assert work.temporary_bytes > 0


def test_matmul_has_the_flops_it_says():
    run, flops = workload.matmul("bfloat16")
    assert flops == 2.0 * 2048**3
    product = jax.block_until_ready(run())
    assert product.dtype == jax.numpy.bfloat16
    assert 0.5 < np.std(np.asarray(product, np.float32)) * 2048**0.5 < 2, "products must keep their size"
