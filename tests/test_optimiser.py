import jax.numpy as jnp
import numpy as np
import pytest

from pinnerformer_jax.config import TrainingConfig
from pinnerformer_jax.training.optimiser import learning_rate, make_optimiser


def test_schedule_warms_up_then_falls_to_zero():
    schedule = learning_rate(TrainingConfig(steps=1000, learning_rate=0.1, warmup_share=0.05))
    assert float(schedule(0)) == 0.0
    assert float(schedule(25)) == pytest.approx(0.05)
    assert float(schedule(50)) == pytest.approx(0.1)
    assert float(schedule(525)) == pytest.approx(0.05, rel=1e-3)
    assert float(schedule(1000)) == pytest.approx(0.0, abs=1e-8)


def test_a_warm_up_of_nearly_all_steps_leaves_one_to_decay():
    schedule = learning_rate(TrainingConfig(steps=12, learning_rate=0.1, warmup_share=0.99))
    assert float(schedule(11)) == pytest.approx(0.1)


def test_matrices_decay_and_vectors_do_not(standard_promotion):
    config = TrainingConfig(steps=10, warmup_share=0.0, learning_rate=0.1, weight_decay=0.5)
    params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2), "log_temperature": jnp.ones(())}
    optimiser = make_optimiser(config)
    updates, _ = optimiser.update({k: v * 0 for k, v in params.items()}, optimiser.init(params), params)
    np.testing.assert_allclose(updates["kernel"], -0.05)
    assert not np.any(updates["bias"])
    assert not np.any(updates["log_temperature"])


def test_large_gradients_are_clipped(standard_promotion):
    # Adam forgets a gradient's size, except through what clipping does to the balance of two steps.
    config = TrainingConfig(steps=10, warmup_share=0.0, learning_rate=0.1, weight_decay=0.0, clip_norm=1.0)
    params, optimiser = {"bias": jnp.zeros(1)}, make_optimiser(config)
    state = optimiser.init(params)
    for size in (1.0, 1e6):
        updates, state = optimiser.update({"bias": jnp.full(1, size)}, state, params)
    assert float(updates["bias"][0]) == pytest.approx(-0.1 * (0.5 * (1 + np.cos(np.pi / 10))), rel=1e-3)
