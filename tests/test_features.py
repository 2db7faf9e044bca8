import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
from flax import nnx

from pinnerformer_jax.data.contracts import DAY, EPOCH
from pinnerformer_jax.model import features
from pinnerformer_jax.model.features import ABSOLUTE_PERIODS, RELATIVE_PERIODS, ActionEncoder, angles, times


def test_periods_are_the_papers():
    assert (ABSOLUTE_PERIODS / 3600).tolist() == [0.25, 0.5, 1, 2, 4, 8, 16, 24, 168, 672, 8760]
    assert len(RELATIVE_PERIODS) == 32
    assert RELATIVE_PERIODS[0] == 1
    assert RELATIVE_PERIODS[-1] == 28 * DAY
    np.testing.assert_allclose(RELATIVE_PERIODS[10:], np.geomspace(1, 28 * DAY, 32)[10:], rtol=0.01)


def test_phases_of_2026_are_exact():
    # float32 seconds since 1970 are 128 s apart in 2026: the phase of a quarter of an hour would be noise.
    seconds = np.random.default_rng(0).integers(1_767_225_600, 1_798_761_600, (4, 500))
    got = angles(jnp.asarray((seconds - EPOCH).astype(np.int32)), ABSOLUTE_PERIODS)
    exact = 2 * np.pi * np.modf(seconds[:, :, None] / ABSOLUTE_PERIODS.astype(np.float64))[0]
    np.testing.assert_allclose(got, exact, atol=2e-6)


def test_three_times_of_each_action():
    batch = small.batch()
    absolute, before_latest, gap = times(batch.history, batch.length, strictly_causal=False)
    row, last = 3, int(batch.length[3]) - 1
    time = np.asarray(batch.history.time)[row, : last + 1]
    np.testing.assert_array_equal(absolute[row, : last + 1], time)
    np.testing.assert_array_equal(before_latest[row, : last + 1], time[-1] - time)
    np.testing.assert_array_equal(gap[row, : last + 1], np.diff(time, prepend=time[0]))
    assert not np.any(times(batch.history, batch.length, strictly_causal=True)[1])


@pytest.mark.parametrize(
    "feature", ["item", "action", "surface", "duration", "absolute_time", "relative_time"]
)
@pytest.mark.slow
def test_a_dropped_feature_reaches_the_input_in_nothing_and_leaves_the_others(feature):
    """Without the feature's rows of the kernel the encoder is the whole one with those rows at zero."""
    config = small.config().model
    whole = ActionEncoder(config, *small.SIZES[:3], rngs=nnx.Rngs(0))
    part = ActionEncoder(
        dataclasses.replace(config, drop_features=(feature,)), *small.SIZES[:3], rngs=nnx.Rngs(1)
    )
    items, actions, surfaces = small.ITEM_DIM, config.action_dim, config.surface_dim
    absolute, relative = len(ABSOLUTE_PERIODS), 2 * len(RELATIVE_PERIODS)
    blocks = ["item"] * items + ["action"] * actions + ["surface"] * surfaces
    blocks += (["absolute_time"] * absolute + ["relative_time"] * relative) * 2
    blocks += ["absolute_time", "relative_time", "relative_time", "duration"]
    kept = np.array(blocks) != feature
    assert part.kernel.shape[0] == kept.sum() < len(blocks)

    rng = np.random.default_rng(1)
    kernel = np.where(kept[:, None], rng.normal(size=whole.kernel.shape), 0).astype(np.float32)
    phase = rng.normal(size=absolute + relative).astype(np.float32)
    whole.kernel[...], part.kernel[...] = jnp.asarray(kernel), jnp.asarray(kernel[kept])
    whole.phase[...] = jnp.asarray(phase)
    part.phase[...] = jnp.asarray(phase[kept[-4 - absolute - relative : -4]])
    for name in ("action_table", "surface_table"):
        if hasattr(part, name):
            getattr(part, name)[...] = getattr(whole, name)[...]
    batch, tables = small.batch(), small.tables()
    got, wanted = (e(batch.history, batch.length, tables.item_features) for e in (part, whole))
    np.testing.assert_allclose(got, wanted, rtol=2e-4, atol=2e-4)


def test_without_any_time_there_is_no_phase_to_learn():
    config = dataclasses.replace(small.config().model, drop_features=("absolute_time", "relative_time"))
    encoder = ActionEncoder(config, *small.SIZES[:3], rngs=nnx.Rngs(0))
    assert not hasattr(encoder, "phase")
    batch, tables = small.batch(), small.tables()
    got = encoder(batch.history, batch.length, tables.item_features)
    later = batch.history._replace(time=batch.history.time + DAY)
    np.testing.assert_array_equal(got, encoder(later, batch.length, tables.item_features))
    longer = batch.history._replace(duration=batch.history.duration + 5)
    assert not np.allclose(got, encoder(longer, batch.length, tables.item_features))


def test_equals_the_papers_concatenation_and_linear():
    """The plain twin: build the concatenated vector with the learned phase in it, and one matmul."""
    config = small.config().model
    encoder = ActionEncoder(config, *small.SIZES[:3], rngs=nnx.Rngs(0))
    rng = np.random.default_rng(1)
    for name in ("phase", "bias"):
        parameter = getattr(encoder, name)
        parameter[...] = jnp.asarray(rng.normal(size=parameter.shape).astype(np.float32))
    batch, tables = small.batch(), small.tables()
    history = jax.tree.map(np.asarray, batch.history)

    values = [np.asarray(t) for t in times(batch.history, batch.length, strictly_causal=False)]
    periods = [ABSOLUTE_PERIODS, RELATIVE_PERIODS, RELATIVE_PERIODS]
    angle = np.concatenate(
        [2 * np.pi * (t[..., None] % p) / p for t, p in zip(values, periods, strict=True)], -1
    )
    angle = angle + np.asarray(encoder.phase[...])
    seconds = np.stack([values[0] + float(EPOCH), *values[1:], history.duration], -1)
    action, surface = (np.array(t[...]) for t in (encoder.action_table, encoder.surface_table))
    action[0], surface[0] = 0, 0  # the unknown is dropped
    concatenated = np.concatenate(
        [
            np.asarray(tables.item_features.values)[history.item] * small.ITEM_DIM**0.5,
            action[history.action],
            surface[history.surface],
            np.cos(angle),
            np.sin(angle),
            np.log1p(np.maximum(seconds, 0)) * features._LOG_SCALE,
        ],
        -1,
    )
    expected = concatenated @ np.asarray(encoder.kernel[...]) + np.asarray(encoder.bias[...])
    got = encoder(batch.history, batch.length, tables.item_features)
    np.testing.assert_allclose(got, expected, rtol=2e-4, atol=2e-4)


def test_an_accelerator_looks_small_tables_up_by_a_product_with_the_same_values_and_gradients(monkeypatch):
    rng = np.random.default_rng(0)
    table = jnp.asarray(rng.normal(size=(7, 5)), jnp.float32)
    ids = jnp.asarray(rng.integers(0, 7, (3, 4)), jnp.uint8)

    def run(table):
        return jnp.sum(jnp.sin(features.look_up(table, ids)))

    wanted, wanted_gradient = jax.value_and_grad(run)(table)
    assert "gather" in str(jax.make_jaxpr(run)(table))
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert "gather" not in str(jax.make_jaxpr(jax.grad(run))(table))
    got, got_gradient = jax.value_and_grad(run)(table)
    np.testing.assert_allclose(got, wanted, rtol=1e-6)
    np.testing.assert_allclose(got_gradient, wanted_gradient, rtol=1e-6)
